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

from collections.abc import Mapping
from typing import Any

import numpy as np

from sirius_tf.errors import InvalidArgument, VerifyError
from sirius_tf.ir.affine import Affine, FloorDiv, symbol
from sirius_tf.ir.dtypes import identity, numpy_dtype
from sirius_tf.ir.expr import Call, Const, Dim, Expr, Index, Load
from sirius_tf.ir.functions import FUNCTIONS, Array, demand
from sirius_tf.ir.order import components
from sirius_tf.ir.printer import show_expr, show_statement
from sirius_tf.ir.program import UNLIMITED, Iter, Program, Reduce, Statement, Tensor

CHUNK = 1 << 24
"""Points of a domain that are evaluated at once, at most."""
MOST_TRIPS = 1 << 12
"""Iterations for which there is memory here, where nothing bounds their number."""

Grid = Mapping[str, Any]  # a name -> int, or an integer array that broadcasts over the domain


def run(
    program: Program,
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
) -> tuple[Array, ...]:
    """The outputs in the order of `program.outputs`, in their TF shapes.

    `constants` overrides the values of constant tensors. Raises InvalidArgument where the compiled
    program would (a check, an index out of range), VerifyError where the program is ill-formed.
    """
    with np.errstate(all="ignore"):
        machine = _Machine(program, inputs)
        machine.enter(constants or {})
        machine.execute(program.statements, {})
        return machine.outputs()


class _Machine:
    def __init__(self, program: Program, inputs: Mapping[str, Array]) -> None:
        self.program = program
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
                raise VerifyError(f"{param.name} = {self.params[param.name]} < {param.minimum}")
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
            self.arrays[tensor.name] = np.full(shape, _poison(dtype), dtype)
            self.defined[tensor.name] = np.zeros(shape, np.bool_)

    def outputs(self) -> tuple[Array, ...]:
        results = []
        for output in self.program.outputs:
            sizes = [e.evaluate(self.params) for e in self.program.tensor[output.tensor].shape]
            part = tuple(slice(size) for size in sizes)  # smaller than on entry if data decides
            self.arrays[output.tensor] = self.arrays[output.tensor][part]
            if output.tensor in self.defined and not self.defined[output.tensor][part].all():
                raise VerifyError(f"output {output.tensor} is not defined everywhere")
            shape = [int(self.value(extent, self.params)) for extent in output.shape]
            if int(np.prod(shape, dtype=np.int64)) != self.arrays[output.tensor].size:
                raise VerifyError(f"output {output.tensor} does not have the shape {shape}")
            results.append(self.arrays[output.tensor].reshape(shape))
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
        grid = fixed | _grid(free + reduced, ranges)
        outer = tuple(len(ranges[i.name]) for i in free)
        dtype = numpy_dtype(self.program.tensor[statement.target].dtype)
        if statement.reduce:
            inner = tuple(len(ranges[i.name]) for i in reduced)
            value = self.reduction(statement.reduce, statement.value, grid, outer, inner)
        else:
            value = self.value(statement.value, grid)
        value = np.broadcast_to(value, outer).astype(dtype)
        points = fixed | _grid(free, ranges)
        where = tuple(np.broadcast_to(_affine(i, points), outer) for i in statement.index)
        self.store(statement.target, where, value)
        if statement.finish:
            finished = np.broadcast_to(self.value(statement.finish, points), outer)
            self.arrays[statement.target][where] = finished.astype(dtype)

    def store(self, name: str, where: tuple[Array, ...], value: Array) -> None:
        self.in_range(name, where)
        mask = self.defined.get(name)
        if mask is None:
            raise VerifyError(f"{name} must not be written")
        before = np.count_nonzero(mask)
        mask[where] = True
        if np.count_nonzero(mask) - before != value.size:
            raise VerifyError(f"an element of {name} is defined twice")
        self.arrays[name][where] = value

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
            return _contraction(factors, len(outer), inner)
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
                return np.asarray(_affine(value, grid)).astype(numpy_dtype(dtype))
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
            np.asarray(_affine(i, grid) if isinstance(i, Affine) else self.value(i, grid))
            for i in expr.index
        )
        try:
            self.in_range(expr.tensor, where)
            mask = self.defined.get(expr.tensor)
            known = mask is None or expr.tensor in self.optional or mask[where].all()
            if not known:
                raise VerifyError("an undefined element is read")
        except VerifyError as error:
            raise VerifyError(f"{error}, {show_expr(expr)},") from None
        return np.asarray(self.arrays[expr.tensor][where])

    def in_range(self, name: str, where: tuple[Array, ...]) -> None:
        shape = self.arrays[name].shape
        if len(shape) != len(where):
            raise VerifyError(f"{name} has rank {len(shape)}, not {len(where)}")
        for axis, (index, extent) in enumerate(zip(where, shape, strict=True)):
            if index.size and (index.min() < 0 or index.max() >= extent):
                raise VerifyError(f"axis {axis} of {name}{list(shape)} is exceeded")


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


def elements(array: Array, load: Load, box: Mapping[str, int]) -> Array:
    """The elements of an array that a Load with affine subscripts reads, at every point of a box of
    sizes."""
    sizes = tuple(box.values())
    points = np.meshgrid(*map(np.arange, sizes), indexing="ij", sparse=True)
    grid = dict(zip(box, points, strict=True))
    where = tuple(_affine(i, grid) for i in load.index if isinstance(i, Affine))
    return np.broadcast_to(array[where], sizes)


def _affine(value: Affine, grid: Grid) -> Any:
    total: Any = value.const
    for key, coefficient in value.terms:
        if isinstance(key, FloorDiv):
            total = total + coefficient * (_affine(key.numerator, grid) // key.divisor)
        else:
            total = total + coefficient * grid[key]
    return total


def _grid(iters: list[Iter], ranges: Mapping[str, range]) -> dict[str, Any]:
    """An open grid: iterator n varies along axis n, of as many axes as iterators."""
    shapes = [[-1 if n == axis else 1 for n in range(len(iters))] for axis in range(len(iters))]
    return {
        it.name: np.array(ranges[it.name], np.int64).reshape(shape)
        for it, shape in zip(iters, shapes, strict=True)
    }


def _contraction(factors: list[Array], rank: int, inner: tuple[int, ...]) -> Array:
    """Sum over the trailing axes of the product of two arrays, accumulated in float64."""
    total = rank + len(inner)
    operands: list[Any] = []
    covered: set[int] = set()
    for factor in factors:
        full = factor.reshape((1,) * (total - factor.ndim) + factor.shape)
        used = [axis for axis in range(total) if full.shape[axis] != 1]
        covered.update(used)
        operands += [full.reshape([full.shape[a] for a in used]).astype(np.float64), used]
    kept = [axis for axis in range(rank) if axis in covered]
    result = np.asarray(np.einsum(*operands, kept, optimize=True))
    sizes = dict(zip(kept, result.shape, strict=True))
    repeated = 1  # a sum over an iterator that neither factor depends on
    for axis, extent in enumerate(inner, rank):
        repeated *= 1 if axis in covered else extent
    return result.reshape([sizes.get(axis, 1) for axis in range(rank)]) * repeated


def _poison(dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        return np.iinfo(dtype).max
    return True if dtype.kind == "b" else np.nan
