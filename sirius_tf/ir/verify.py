# SPDX-License-Identifier: Apache-2.0
"""Invariants of a Program that do not need polyhedra: names, ranks, dtypes, roles.

That every element is defined exactly once, and before it is read, is tested by the interpreter on
concrete sizes and by `poly/` for all sizes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import get_args

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.dtypes import INTEGER
from sirius_tf.ir.expr import Call, Dim, Expr, Index, Load, loads, walk
from sirius_tf.ir.functions import FUNCTIONS, PREDICATES
from sirius_tf.ir.printer import show_expr, show_statement
from sirius_tf.ir.program import Panels, Program, ReduceOp, Role, Statement, Tensor, Tiles


def verify(program: Program) -> None:
    """Raise VerifyError on the first broken invariant, quoting the statement that breaks it."""
    for errors in (_scalars, _exits, _tensors, _roles):
        for error in errors(program):
            raise VerifyError(f"{program.name}: {error}")
    loops: dict[str, Affine] = {}
    for statement in program.statements:
        for error in _statement(program, statement, loops):
            raise VerifyError(f"{program.name}: {error} in\n  {show_statement(statement)}")


def _scalars(program: Program) -> Iterator[str]:
    """Parameters, checks, the context, and the shapes of outputs."""
    known: set[str] = set()
    for param in program.params:
        if param.name in known:
            yield f"parameter {param.name} is defined twice"
        for error in _host_expr(program, param.value, known):
            yield f"{error} in parameter {param.name} = {show_expr(param.value)}"
        if param.value.dtype not in ("int32", "int64"):
            yield f"parameter {param.name} is {param.value.dtype}, not an integer"
        if not param.exit:
            known.add(param.name)
    for check in program.checks:
        for error in _host_expr(program, check.condition, known):
            yield f"{error} in check {show_expr(check.condition)}"
        if check.condition.dtype != "bool":
            yield f"check {show_expr(check.condition)} is {check.condition.dtype}, not bool"
    for affine in program.context:
        for name in _unbound(affine, known | program.exits.keys()):
            yield f"{name} is not bound in context {affine} >= 0"
    for output in program.outputs:
        for extent in output.shape:
            for error in _host_expr(program, extent, known | program.exits.keys()):
                yield f"{error} in the shape of output {output.tensor}"
            if extent.dtype != "int64":
                yield f"the shape of output {output.tensor} is {extent.dtype}, not int64"


def _exits(program: Program) -> Iterator[str]:
    for trips, go in program.exits.items():
        tensor = program.tensor.get(go.tensor)
        if tensor is None or tensor.dtype != "bool" or len(tensor.shape) != 1:
            yield f"{go.tensor}, which ends the loop of {trips}, is no vector of bools"
        t = str(go.index[0])
        for s in program.statements:
            if any(i.name == t and i.extent != symbol(trips) for i in s.iters):
                yield f"{t} of {s.name} does not end at {trips}"


def _tensors(program: Program) -> Iterator[str]:
    params = {p.name for p in program.params} - program.exits.keys()
    yield from _duplicates("tensor", (t.name for t in program.tensors))
    yield from _duplicates("statement", (s.name for s in program.statements))
    exits = set(program.exits)
    for tensor in program.tensors:
        if tensor.role not in get_args(Role):
            yield f"tensor {tensor.name} has the role {tensor.role}"
        for extent in tensor.shape:
            for name in _unbound(extent, params | (exits if tensor.role == "output" else set())):
                yield f"{name} is no parameter in the shape of tensor {tensor.name}"
        if tensor.value is not None:
            yield from _constant_value(tensor)
        if tensor.layout is not None:
            yield from _layout(tensor, tensor.layout)


def _layout(tensor: Tensor, layout: Panels | Tiles) -> Iterator[str]:
    """Errors of a layout: panels are those of a constant, tiles those of a temporary."""
    role = "constant" if isinstance(layout, Panels) else "temp"
    if tensor.role != role or not 0 <= layout.axis < len(tensor.shape):
        yield f"tensor {tensor.name} cannot have {layout}: it is no {role}, or has less axes"


def _constant_value(tensor: Tensor) -> Iterator[str]:
    assert tensor.value is not None
    if tensor.role != "constant":
        yield f"tensor {tensor.name} has a value, but its role is {tensor.role}"
    if str(tensor.value.dtype) != tensor.dtype:
        yield f"the value of {tensor.name} is {tensor.value.dtype}, not {tensor.dtype}"
    size = 1
    for extent in tensor.shape:
        size *= extent.const
    if all(e.is_const for e in tensor.shape) and size != tensor.value.size:
        yield f"the value of {tensor.name} has {tensor.value.size} elements, not {size}"


def _roles(program: Program) -> Iterator[str]:
    yield from _duplicates("input", program.inputs)
    written = {s.target for s in program.statements}
    read = {load.tensor for s in program.statements for load in s.loads}
    listed = {"input": set(program.inputs), "output": {o.tensor for o in program.outputs}}
    for role, names in listed.items():
        for name in sorted(names):
            tensor = program.tensor.get(name)
            if tensor is None:
                yield f"{role} {name} is no tensor"
            elif tensor.role != role:
                yield f"{role} {name} has the role {tensor.role}"
    for tensor in program.tensors:
        name = tensor.name
        if tensor.role in listed and name not in listed[tensor.role]:
            yield f"tensor {name} has the role {tensor.role} but is not listed as {tensor.role}"
        empty = any(e.is_const and e.const == 0 for e in tensor.shape)
        if tensor.role == "output" and name not in written and not empty:
            yield f"output {name} is not defined"
        if tensor.role == "temp" and name in read and name not in written and not empty:
            yield f"tensor {name} is read but not defined"


def _statement(program: Program, statement: Statement, loops: dict[str, Affine]) -> Iterator[str]:
    params = {p.name for p in program.params}
    names = [i.name for i in statement.all_iters]
    yield from _duplicates("iterator", names)
    for it in statement.all_iters:
        if it.name in params:
            yield f"iterator {it.name} has the name of a parameter"
        for name in _unbound(it.extent, params):
            yield f"{name} is no parameter in the extent of {it.name}"
        if it.loop and loops.setdefault(it.name, it.extent) != it.extent:
            yield f"loop {it.name} has the extents {loops[it.name]} and {it.extent}"
    flags = [i.loop for i in statement.all_iters]
    if flags != sorted(flags, reverse=True):
        yield "a loop iterator comes after another iterator"
    if statement.reduce:
        if any(i.loop for i in statement.reduce.iters):
            yield "a loop iterator is reduced over"
        if statement.reduce.op not in get_args(ReduceOp):
            yield f"no reduction {statement.reduce.op}"
    if statement.finish:
        if not statement.reduce:
            yield "there is no reduction to finish"
        if statement.finish.dtype != statement.value.dtype:
            yield f"{statement.value.dtype} is finished as {statement.finish.dtype}"
        yield from _expr(program, statement.finish, params | {i.name for i in statement.iters})
    yield from _target(program, statement, params)
    known = params | {i.name for i in statement.iters}
    for guard in statement.guards:
        if guard.condition.dtype != "bool":
            yield f"guard {show_expr(guard.condition)} is {guard.condition.dtype}, not bool"
        yield from _expr(program, guard.condition, known)
    for node in walk(statement.value):
        if isinstance(node, Dim):
            yield f"{show_expr(node)} is only for parameters"
    yield from _expr(program, statement.value, params | set(names))


def _target(program: Program, statement: Statement, params: set[str]) -> Iterator[str]:
    target = program.tensor.get(statement.target)
    if target is None:
        yield f"{statement.target} is no tensor"
        return
    if target.role in ("input", "constant"):
        yield f"{target.role} {target.name} is written"
    if len(statement.index) != len(target.shape):
        yield f"{target.name} has rank {len(target.shape)}, not {len(statement.index)}"
    if statement.value.dtype != target.dtype:
        yield f"{target.name} is {target.dtype}, its value {statement.value.dtype}"
    reduced = {i.name for i in statement.reduce.iters} if statement.reduce else set()
    known = params | {i.name for i in statement.iters}
    for index in statement.index:
        for name in index.names():
            if name in reduced:
                yield f"the target is subscripted by the reduction iterator {name}"
            elif name not in known:
                yield f"{name} is not bound"


def _host_expr(program: Program, expr: Expr, known: set[str]) -> Iterator[str]:
    """An expression that is evaluated on entry: only inputs may be read."""
    for load in loads(expr):
        tensor = program.tensor.get(load.tensor)
        if tensor is not None and tensor.role != "input":
            yield f"{load.tensor} is read but is no input"
        if not all(isinstance(i, Affine) and i.is_const for i in load.index):
            yield f"{show_expr(load)} has a subscript that is not constant"
    yield from _expr(program, expr, known)


def _expr(program: Program, expr: Expr, known: set[str]) -> Iterator[str]:
    for node in walk(expr):
        match node:
            case Index(value, _):
                for name in _unbound(value, known):
                    yield f"{name} is not bound"
            case Dim(tensor, axis, _):
                if tensor not in program.inputs or axis < 0:
                    yield f"{show_expr(node)} is no extent of an input"
            case Load():
                yield from _load(program, node, known)
            case Call():
                yield from _call(node)
            case _:
                pass


def _load(program: Program, load: Load, known: set[str]) -> Iterator[str]:
    tensor = program.tensor.get(load.tensor)
    if tensor is None:
        yield f"{load.tensor} is no tensor"
        return
    if len(load.index) != len(tensor.shape):
        yield f"{load.tensor} has rank {len(tensor.shape)}, not {len(load.index)}"
    if load.dtype != tensor.dtype:
        yield f"{load.tensor} is {tensor.dtype}, not {load.dtype}"
    for index in load.index:
        if isinstance(index, Affine):
            for name in _unbound(index, known):
                yield f"{name} is not bound"
        elif not (isinstance(index, Call) and index.fn == "bounded"):
            yield f"the data-dependent index {show_expr(index)} is not bounded"


def _call(call: Call) -> Iterator[str]:
    function = FUNCTIONS.get(call.fn)
    if function is None:
        yield f"no function {call.fn}"
    elif len(call.args) != function.arity:
        yield f"{call.fn} takes {function.arity} arguments, not {len(call.args)}"
    elif call.fn in PREDICATES and call.dtype != "bool":
        yield f"{call.fn} is a bool, not {call.dtype}"
    elif call.fn == "bounded" and call.args[0].dtype not in INTEGER:
        yield f"the index {show_expr(call.args[0])} is {call.args[0].dtype}, not an integer"


def _unbound(value: Affine, known: set[str]) -> Iterator[str]:
    return (name for name in value.names() if name not in known)


def _duplicates(kind: str, names: Iterable[str]) -> Iterator[str]:
    return (f"{kind} {name} occurs twice" for name, n in Counter(names).items() if n > 1)
