# SPDX-License-Identifier: Apache-2.0
"""Runs a Program in numpy: the oracle of every later stage.

It finds its own order of execution. Statements are grouped into strongly connected components of
"may read what the other writes" (decided on intervals of subscripts, with the iterators of the
surrounding loops fixed). A component that is a cycle must share a loop iterator, which is run in
order with the iterator bound to a value; everything else runs at once over its whole domain.

Each tensor has a mask of its defined elements, so that reading an undefined element, defining one
twice and subscripts out of range are all VerifyErrors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sirius_tf.errors import InvalidArgument, VerifyError
from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.dtypes import identity, numpy_dtype
from sirius_tf.ir.expr import Call, Const, Dim, Expr, Index, Load
from sirius_tf.ir.functions import FUNCTIONS, Array, demand
from sirius_tf.ir.grids import Grid, cells, contraction, evaluated, open_grid, poison
from sirius_tf.ir.order import components
from sirius_tf.ir.printer import show_expr, show_statement
from sirius_tf.ir.program import UNLIMITED, Iter, Program, Reduce, Statement, Tensor

CHUNK = 1 << 24
"""Points of a domain that are evaluated at once, at most."""
MOST_TRIPS = 1 << 12
"""Iterations for which there is memory here, where nothing bounds their number."""


def run(
    program: Program,
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
) -> tuple[Array, ...]:
    """The outputs in the order of `program.outputs`, in their TF shapes.

    `constants` overrides the values of constant tensors. Raises InvalidArgument where the compiled
    program would (a check, an index out of range), VerifyError where the program is ill-formed.
    """
    return _run(_Machine(program, inputs), constants or {})


@dataclass(frozen=True, eq=False)
class Trace:
    """A run: its outputs, and all that statements have defined.

    `made[name]` says of each element which entry of `log` defined it, -1 if none did. `log` has
    the statements in the order in which they ran, in a loop once for each iteration.
    """

    outputs: tuple[Array, ...]
    arrays: Mapping[str, Array]
    made: Mapping[str, Array]
    log: Sequence[Statement]


def unmet(program: Program, inputs: Mapping[str, Array]) -> int:
    """The number of checks that do not hold on entry; those that speak of inputs that are not given
    do not count."""
    given = tuple(name for name in program.inputs if name in inputs)
    machine = _Machine(replace(program, inputs=given), inputs)
    machine.arrays.update(machine.given)
    params: dict[str, int] = {}
    for param in program.params:
        with contextlib.suppress(KeyError, VerifyError):  # another input, or a position beyond
            params[param.name] = int(machine.value(param.value, params))
    count = 0
    for check in program.checks:
        with contextlib.suppress(KeyError, VerifyError):
            count += not bool(machine.value(check.condition, params))
    return count + sum(params.get(p.name, p.minimum) < p.minimum for p in program.params)


def trace(program: Program, inputs: Mapping[str, Array]) -> Trace:
    """Run a program like `run`, and return all that it has computed."""
    machine = _Machine(program, inputs, log=[])
    outputs = _run(machine, {})
    return Trace(outputs, machine.arrays, machine.made, machine.log or [])


def _run(machine: _Machine, constants: Mapping[str, Array]) -> tuple[Array, ...]:
    with np.errstate(all="ignore"):
        machine.enter(constants)
        machine.execute(machine.program.statements, {})
        return machine.outputs()


class _Machine:
    def __init__(
        self,
        program: Program,
        inputs: Mapping[str, Array],
        log: list[Statement] | None = None,
    ) -> None:
        self.program, self.log = program, log
        self.made: dict[str, Array] = {}  # by which entry of the log, if there is one
        self.params: dict[str, int] = {}
        self.arrays: dict[str, Array] = {}
        self.defined: dict[str, Array] = {}
        self.given = {name: _given(program.tensor[name], inputs) for name in program.inputs}
        # both sides of a select are evaluated here, so that the one not taken may be undefined
        self.optional = {s.target for s in program.statements if s.guards}

    def enter(self, constants: Mapping[str, Array]) -> None:
        """Evaluate the parameters, test what must hold, and set up the tensors."""
        for name, array in self.given.items():
            shape = self.program.tensor[name].shape
            known = all(extent.is_const for extent in shape)
            self.arrays[name] = _shaped(name, array, [e.const for e in shape]) if known else array
        for param in self.program.params:
            value = int(self.value(param.value, self.params))
            self.params[param.name] = value if value != UNLIMITED else MOST_TRIPS
        for check in self.program.checks:
            if not bool(self.value(check.condition, self.params)):
                raise InvalidArgument(check.message)
        for param in self.program.params:
            if self.params[param.name] < param.minimum:
                value = self.params[param.name]
                raise VerifyError(f"parameter {param.name} is {value}, below {param.minimum}")
        for condition in self.program.context:
            if condition.evaluate(self.params) < 0:
                raise VerifyError(f"the context {condition} >= 0 does not hold: {self.params}")
        for tensor in self.program.tensors:
            self.allocate(tensor, constants)

    def allocate(self, tensor: Tensor, constants: Mapping[str, Array]) -> None:
        shape = [extent.evaluate(self.params) for extent in tensor.shape]
        if tensor.name in self.program.guarded:
            shape = [max(extent, 0) for extent in shape]
        if min(shape, default=0) < 0:
            raise VerifyError(f"tensor {tensor.name} has a negative extent: {shape}")
        dtype = numpy_dtype(tensor.dtype)
        if tensor.role == "input":
            self.arrays[tensor.name] = _shaped(tensor.name, self.given[tensor.name], shape)
        elif tensor.role == "constant":
            value = constants.get(tensor.name, tensor.value)
            if value is None:
                raise VerifyError(f"constant {tensor.name} has no value")
            self.arrays[tensor.name] = np.asarray(value, dtype).reshape(shape)
        else:
            self.arrays[tensor.name] = np.full(shape, poison(dtype), dtype)
            self.defined[tensor.name] = np.zeros(shape, np.bool_)
            if self.log is not None:
                self.made[tensor.name] = np.full(shape, -1, np.int32)

    def outputs(self) -> tuple[Array, ...]:
        results = []
        for output in self.program.outputs:
            sizes = [e.evaluate(self.params) for e in self.program.tensor[output.tensor].shape]
            part = tuple(slice(size) for size in sizes)  # smaller than on entry if data decides
            self.arrays[output.tensor] = self.arrays[output.tensor][part]
            if output.tensor in self.made:
                self.made[output.tensor] = self.made[output.tensor][part]
            if output.tensor in self.defined and not self.defined[output.tensor][part].all():
                first = np.argwhere(~self.defined[output.tensor][part])[0].tolist()
                raise VerifyError(f"no statement defines {output.tensor}{first}, an output")
            shape = [int(self.value(extent, self.params)) for extent in output.shape]
            if int(np.prod(shape, dtype=np.int64)) != self.arrays[output.tensor].size:
                raise VerifyError(f"output {output.tensor} does not have the shape {shape}")
            results.append(np.asarray(self.arrays[output.tensor]).reshape(shape))
        return tuple(results)

    # Order of execution

    def execute(self, statements: tuple[Statement, ...], bound: dict[str, int]) -> None:
        """Run the statements at all points where the loop iterators have the values `bound`."""
        env = self.params | bound
        for group, cyclic in components(self.program, self.active(statements, bound), env):
            if not cyclic:
                self.guarded(group[0], bound)
                continue
            loop = _common_loop(group, bound)
            go = self.program.exits.get(str(loop.extent))
            for value in range(loop.extent.evaluate(self.params)):
                if go and go.index == (symbol(loop.name),) and not self.arrays[go.tensor][value]:
                    self.params[str(loop.extent)] = value
                    break
                self.execute(group, bound | {loop.name: value})

    def active(self, statements: tuple[Statement, ...], bound: Grid) -> tuple[Statement, ...]:
        """The statements that have an instance, or may have one when a loop has ended."""
        env, late = self.params, self.program.exits.keys()
        return tuple(
            s
            for s in statements
            if all(
                i.name in bound or i.extent.evaluate(env) > 0 or late & set(i.extent.names())
                for i in s.iters
            )
        )

    # One statement

    def guarded(self, statement: Statement, bound: dict[str, int]) -> None:
        """Run a statement where its guards hold, which are scalars once they are subscripted."""
        conditions = [i for g in statement.guards for i in g.condition.index]
        names = {n for i in conditions if isinstance(i, Affine) for n in i.names()}
        loops = [i for i in statement.iters if i.name in names - bound.keys()]
        if loops:
            for value in range(loops[0].extent.evaluate(self.params)):
                self.guarded(statement, bound | {loops[0].name: value})
        elif all(
            bool(self.value(g.condition, self.params | bound)) == g.holds for g in statement.guards
        ):
            self.chunked(statement, {}, bound)

    def chunked(
        self, statement: Statement, ranges: dict[str, range], bound: Mapping[str, int]
    ) -> None:
        """Split the domain along its iterators until a piece is small, and run the pieces."""
        free = [i for i in statement.iters if i.name not in bound]
        for it in statement.all_iters:
            ranges.setdefault(it.name, range(it.extent.evaluate(self.params)))
        points = 1
        for it in free + list(statement.reduce.iters if statement.reduce else ()):
            points *= len(ranges[it.name])
        longest = max(free, key=lambda i: len(ranges[i.name]), default=None)
        if points > CHUNK and longest and len(ranges[longest.name]) > 1:
            whole = ranges[longest.name]
            middle = len(whole) // 2
            for part in (whole[:middle], whole[middle:]):
                self.chunked(statement, ranges | {longest.name: part}, bound)
            return
        try:
            self.define(statement, free, ranges, bound)
        except VerifyError as error:
            raise VerifyError(f"{error} in\n  {show_statement(statement)}") from None

    def define(
        self,
        statement: Statement,
        free: list[Iter],
        ranges: Mapping[str, range],
        bound: Mapping[str, int],
    ) -> None:
        """Evaluate and store one piece of a statement."""
        reduced = list(statement.reduce.iters) if statement.reduce else []
        fixed = dict(self.params) | dict(bound)
        grid = fixed | open_grid(free + reduced, ranges)
        outer = tuple(len(ranges[i.name]) for i in free)
        dtype = numpy_dtype(self.program.tensor[statement.target].dtype)
        if statement.reduce:
            inner = tuple(len(ranges[i.name]) for i in reduced)
            value = self.reduction(statement.reduce, statement.value, grid, outer, inner)
        else:
            value = self.value(statement.value, grid)
        value = np.broadcast_to(value, outer).astype(dtype)
        points = fixed | open_grid(free, ranges)
        where = tuple(np.asarray(evaluated(i, points)) for i in statement.index)
        self.store(statement.target, where, value)
        if self.log is not None:
            self.made[statement.target][where] = len(self.log)
            self.log.append(statement)
        if statement.finish:
            finished = np.broadcast_to(self.value(statement.finish, points), outer)
            self.arrays[statement.target][where] = finished.astype(dtype)

    def store(self, name: str, where: tuple[Array, ...], value: Array) -> None:
        self.in_range(name, where)
        mask = self.defined.get(name)
        if mask is None:
            role = self.program.tensor[name].role
            raise VerifyError(f"{name} is defined by a statement, but is of the role {role}")
        targets = cells(self.arrays[name], where)
        if targets is not None and targets.shape == value.shape:
            marks = cells(mask, where)
            assert marks is not None
            twice = bool(marks.any())
            marks[...], targets[...] = True, value
        else:
            before = np.count_nonzero(mask)
            mask[where] = True
            twice = np.count_nonzero(mask) - before != value.size
            if not twice:
                self.arrays[name][where] = value
        if twice:
            raise VerifyError(f"an element of {name} is defined twice")

    def reduction(
        self,
        reduce: Reduce,
        value: Expr,
        grid: Grid,
        outer: tuple[int, ...],
        inner: tuple[int, ...],
    ) -> Array:
        dtype = numpy_dtype(value.dtype)
        floating = dtype.kind not in "iub"
        wide = np.dtype(np.float64) if floating and reduce.op in ("add", "mul") else dtype
        if 0 in inner:
            return np.full(outer, identity(reduce.op, value.dtype).value, dtype)
        axes = tuple(range(len(outer), len(outer) + len(inner)))
        if reduce.op == "add" and floating and isinstance(value, Call) and value.fn == "mul":
            factors = [self.value(a, grid) for a in value.args]
            return contraction(factors, len(outer), inner)
        terms = np.broadcast_to(self.value(value, grid), outer + inner)
        combine = FUNCTIONS[reduce.op].evaluate
        assert isinstance(combine, np.ufunc)
        return np.asarray(combine.reduce(terms, axis=axes, dtype=wide))

    # Expressions

    def value(self, expr: Expr, grid: Grid) -> Array:
        """The expression at every point of the grid, broadcastable, of its dtype."""
        match expr:
            case Const(value, dtype):
                return np.asarray(value, numpy_dtype(dtype))
            case Index(value, dtype):
                return np.asarray(evaluated(value, grid)).astype(numpy_dtype(dtype))
            case Dim(tensor, axis, dtype):
                return np.asarray(self.given[tensor].shape[axis], numpy_dtype(dtype))
            case Load():
                return self.load(expr, grid)
            case Call("demand", args, _):
                condition, number = (self.value(a, grid) for a in args)
                try:
                    return demand(condition, number)
                except InvalidArgument as error:  # which has the number alone
                    raise InvalidArgument(self.program.messages[int(str(error))]) from None
            case Call(fn, args, dtype):
                values = [self.value(a, grid) for a in args]
                result = FUNCTIONS[fn].evaluate(*values)
                return np.asarray(result).astype(numpy_dtype(dtype), copy=False)

    def load(self, expr: Load, grid: Grid) -> Array:
        where = tuple(
            np.asarray(evaluated(i, grid) if isinstance(i, Affine) else self.value(i, grid))
            for i in expr.index
        )
        try:
            self.in_range(expr.tensor, where)
            mask = None if expr.tensor in self.optional else self.defined.get(expr.tensor)
            if mask is not None and not _read(mask, where).all():
                raise VerifyError("an undefined element is read")
        except VerifyError as error:
            raise VerifyError(f"{error}, {show_expr(expr)},") from None
        return _read(self.arrays[expr.tensor], where)

    def in_range(self, name: str, where: tuple[Array, ...]) -> None:
        shape = self.arrays[name].shape
        if len(shape) != len(where):
            raise VerifyError(f"{name} of rank {len(shape)} has {len(where)} subscripts")
        for axis, (index, extent) in enumerate(zip(where, shape, strict=True)):
            if index.size and (index.min() < 0 or index.max() >= extent):
                raise VerifyError(f"axis {axis} of {name}{list(shape)} is exceeded")


def _read(array: Array, where: tuple[Array, ...]) -> Array:
    found = cells(array, where)
    return np.asarray(array[where]) if found is None else found


def _given(tensor: Tensor, inputs: Mapping[str, Array]) -> Array:
    if tensor.name not in inputs:
        raise InvalidArgument(f"input {tensor.name} is missing")
    array = np.asarray(inputs[tensor.name])
    if array.dtype != numpy_dtype(tensor.dtype):
        raise InvalidArgument(f"input {tensor.name} is {array.dtype}, not {tensor.dtype}")
    return array


def _shaped(name: str, array: Array, shape: list[int]) -> Array:
    if array.size != int(np.prod(shape, dtype=np.int64)):
        raise InvalidArgument(f"input {name} has the shape {list(array.shape)}, not {shape}")
    return array.reshape(shape)


def _common_loop(group: tuple[Statement, ...], bound: Grid) -> Iter:
    """The outermost loop that all statements of a cycle share and that is not bound yet."""
    firsts = {next((i for i in s.iters if i.name not in bound), None) for s in group}
    first = next(iter(firsts))
    if len(firsts) != 1 or first is None or not first.loop:
        text = "\n  ".join(show_statement(s) for s in group)
        raise VerifyError(f"a cycle of dependences without a common loop:\n  {text}")
    return first
