# SPDX-License-Identifier: Apache-2.0
"""A Program under construction: tensors, the statements that define them, and facts on sizes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from sirius_tf.errors import Unsupported
from sirius_tf.frontend.graph import Node
from sirius_tf.ir import program as ir
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.expr import Call, Const, DType, Expr, Index, Load, call, names_in, walk
from sirius_tf.ir.functions import FUNCTIONS, is_generated
from sirius_tf.ir.polynomial import Poly, PolyLike, poly
from sirius_tf.ir.rewrite import fresh
from sirius_tf.lower import value as values
from sirius_tf.lower.half import wide, widened
from sirius_tf.lower.params import Params
from sirius_tf.lower.tensors import iterators, literal, load
from sirius_tf.lower.value import Dim, Host, Indices, Value


@dataclass(kw_only=True)
class Emitter:
    """The definitions so far, on behalf of `node`."""

    params: Params = field(default_factory=Params)
    checks: list[ir.Check] = field(default_factory=list)
    context: list[Affine] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    tensors: dict[str, ir.Tensor] = field(default_factory=dict)
    statements: list[ir.Statement] = field(default_factory=list)
    node: Node = field(default_factory=lambda: Node("", ""))
    guards: tuple[ir.Guard, ...] = ()
    fitted: int = 0  # how often sizes had to fit on a branch
    running: set[str] = field(default_factory=set)  # of guards, those on the iterations of a loop
    tests: dict[str, Expr] = field(default_factory=dict)  # what guards are defined by
    premises: dict[str, Expr] = field(default_factory=dict)  # of guards, those known on entry
    statement_numbers: Iterator[int] = field(default_factory=itertools.count)
    _same: dict[str, Affine] = field(default_factory=dict)

    def unsupported(self, reason: str) -> Unsupported:
        """The error for the current node."""
        return Unsupported(self.node.name, self.node.op, reason)

    # Definitions

    def fresh(self, stem: str) -> str:
        """An unused tensor name."""
        return fresh(re.sub(r"\W", "_", stem) or "t", self.tensors)

    def constant(self, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Value:
        """An array as a Value; a scalar is a literal."""
        dtype = str(array.dtype)
        if array.ndim == 0:
            literal = Const(array.item(), dtype)
            return Value(dtype, (), lambda i: literal)
        shape = tuple(affine(s) for s in array.shape)
        name = self.fresh(self.node.name)
        self.tensors[name] = ir.Tensor(name, shape, dtype, "constant", array)
        return load(name, dtype, [() if a == affine(1) else (a,) for a in shape], shape)

    def from_host(self, host: Host, dtype: DType) -> Value:
        """Polynomials as a Value."""
        tensor: list[Value] = []

        def at(i: Indices) -> Expr:
            ones = iter(i)
            point = [next(ones) if size != 1 else affine(0) for size in host.shape]
            if all(p.is_const for p in point):
                element = values.element(host, tuple(p.const for p in point))
                return literal(element, dtype)
            if not tensor:
                tensor.append(self._store_host(host, dtype))
            return tensor[0].at(i)

        return Value(dtype, tuple(values.dim_of(s) for s in host.shape), at, host)

    def _store_host(self, host: Host, dtype: DType) -> Value:
        if all(poly(e).is_const for e in host.reshape(-1)):
            flat = [poly(e).const for e in host.reshape(-1)]
            return self.constant(np.array(flat, numpy_dtype(dtype)).reshape(host.shape))
        shape = tuple(affine(s) for s in host.shape)
        name = self.new_tensor(dtype, shape)
        for point in np.ndindex(*host.shape):
            index = tuple(map(affine, point))
            self.write(name, (), index, literal(values.element(host, point), dtype))
        return load(name, dtype, [() if a == affine(1) else (a,) for a in shape], shape)

    def new_tensor(
        self, dtype: DType, shape: Sequence[Affine], role: ir.Role = "temp", stem: str = ""
    ) -> str:
        """A tensor for statements to define, named after `stem` or else the current node."""
        self._fixed(shape)
        name = self.fresh(stem or self.node.name)
        kept = shape if role == "output" else map(self.params.most, shape)
        self.tensors[name] = ir.Tensor(name, tuple(kept), dtype, role)
        return name

    def write(
        self,
        target: str,
        box: Sequence[Affine],
        index: Indices,
        expr: Expr,
        reduce: ir.Reduce | None = None,
        loops: tuple[ir.Iter, ...] = (),
    ) -> None:
        """`target[index] = expr` for `loops` and the iterators i0, i1, ... of `box`."""
        self._fixed([*box, *(i.extent for i in (reduce.iters if reduce else ()))])
        expr = widened(expr, self.tensors[target].dtype)
        for made in (e for e in walk(expr) if isinstance(e, Call)):
            if not is_generated(made.fn, made.dtype):
                raise self.unsupported(f"generated code has no {made.fn} of {made.dtype}")
        iters = loops + tuple(ir.Iter(f"i{k}", extent) for k, extent in enumerate(box))
        name = f"S{next(self.statement_numbers)}"
        origin = (self.node.name,)
        self.statements.append(
            ir.Statement(name, iters, target, index, expr, reduce, origin, self.guards)
        )

    def _fixed(self, extents: Sequence[Affine]) -> None:
        if any(name in self.params.loops for extent in extents for name in extent.names()):
            raise self.unsupported("a size depends on the iteration of a loop")

    def define(
        self,
        dtype: DType,
        dims: Sequence[Dim],
        at: Callable[[Indices], Expr],
        role: ir.Role = "temp",
    ) -> Value:
        """A new tensor, one statement, as a Value."""
        atoms = tuple(a for dim in dims for a in dim)
        name = self.new_tensor(dtype, atoms, role)
        index = iterators("i", atoms)
        self.write(name, atoms, index, at(index))
        return load(name, dtype, dims, atoms)

    def materialize(self, value: Value) -> Value:
        """The value stored in a tensor of its own."""
        return self.define(value.dtype, value.dims, value.at)

    def map(self, fn: Callable[..., Expr], *operands: Value, dtype: DType | None = None) -> Value:
        """`fn` of the elements of the operands, which broadcast."""
        dims, views = values.broadcast(operands, self.alike)
        result: DType = dtype or self.node.dtypes[0]
        return self.define(result, dims, lambda i: fn(*(v.at(i) for v in views)))

    def reduce(self, op: ir.ReduceOp, value: Value, axes: Sequence[int], keep: bool) -> Value:
        """Reduction over dimensions; `keep` leaves them with size 1."""
        kept: list[Dim] = [() if k in axes else d for k, d in enumerate(value.dims)]
        reduced: list[Dim] = [d if k in axes else () for k, d in enumerate(value.dims)]
        outer = tuple(a for d in kept for a in d)
        inner = tuple(a for d in reduced for a in d)

        def at(i: Indices, r: Indices) -> Expr:
            left, right = iter(i), iter(r)
            pairs = zip(kept, reduced, strict=True)
            order = [(left, len(k)) if k else (right, len(d)) for k, d in pairs]
            return value.at(tuple(next(it) for it, count in order for _ in range(count)))

        dims = kept if keep else [d for k, d in enumerate(kept) if k not in axes]
        return self.contract(op, value.dtype, dims, outer, inner, at)

    def contract(
        self,
        op: ir.ReduceOp,
        dtype: DType,
        dims: Sequence[Dim],
        outer: Sequence[Affine],
        inner: Sequence[Affine],
        at: Callable[[Indices, Indices], Expr],
    ) -> Value:
        """A tensor of which each element is a reduction of `at` over the box `inner`."""
        dtype = wide(dtype)  # the node's result is rounded
        name = self.new_tensor(dtype, outer)
        self.reduce_into(name, op, outer, inner, at, lambda i: i)
        return load(name, dtype, dims, outer)

    def reduce_into(
        self,
        target: str,
        op: ir.ReduceOp,
        outer: Sequence[Affine],
        inner: Sequence[Affine],
        at: Callable[[Indices, Indices], Expr],
        place: values.View,
    ) -> None:
        """`target[place(i)]`, for i in the box `outer`, is a reduction of `at(i, r)` over r."""
        i, r = iterators("i", outer), iterators("r", inner)
        iters = tuple(ir.Iter(f"r{k}", extent) for k, extent in enumerate(inner))
        self.write(target, outer, place(i), at(i, r), ir.Reduce(op, iters) if iters else None)

    # Facts

    def check(self, condition: Expr, message: str, narrow: bool = False) -> None:
        """Require a condition on sizes and elements of inputs where the current node is run.

        It is checked on entry, unless data decides whether the node is run.
        """
        self._undivided(condition)
        spared = self._spared()
        if spared is None or self.params.vary(condition):
            self.demand(condition, message)
        else:
            self._check(_either(spared, condition), message, narrow)

    def demand(self, condition: Expr, message: str) -> Load:
        """Require a condition where the current node is run, tested there; the element that says
        whether it holds."""
        self._undivided(condition)
        guards = self.guards
        while self.guards and self._refutes(self.guards[-1], condition):
            self.guards = self.guards[:-1]  # if not p: p must hold
        self.messages.append(self._said(message))
        number = Const(len(self.messages) - 1, "int64")
        name = self.new_tensor("bool", ())
        self.write(name, (), (), call("demand", condition, number, dtype="bool"))
        self.guards = guards
        return Load(name, (), "bool")

    def _refutes(self, guard: ir.Guard, condition: Expr) -> bool:
        return not guard.holds and self.tests.get(guard.condition.tensor) == condition

    def _said(self, message: str) -> str:
        return f"{self.node.name} ({self.node.op}): {message}"

    def _check(self, condition: Expr, message: str, narrow: bool = False) -> None:
        """Add a check on entry, unless there is an equal one."""
        if all(c.condition != condition for c in self.checks):
            self.checks.append(ir.Check(condition, self._said(message), narrow))

    def _spared(self) -> Expr | None:
        """Condition, evaluable on entry, under which the current node is not run; None if it
        depends on data."""
        spared: Expr = Const(False, "bool")
        for trips in self.params.loops.values():
            if trips is not None and not self.params.at_least(trips, 1):
                if self.params.iterates(trips) or self.params.depends(trips):
                    return None
                none = call("lt", trips.to_expr(), Const(1, "int64"), dtype="bool")
                spared = _either(none, spared)
        for guard in reversed(self.guards):
            taken = self.premises.get(guard.condition.tensor)
            if taken is None:
                return None
            self._undivided(taken)
            spared = _either(call("not", taken) if guard.holds else taken, spared)
        return spared

    def _undivided(self, expr: Expr) -> None:
        """On a branch, what is evaluated on entry for an expression must not divide by zero."""
        if self._branches() and self._divides(expr):
            raise self.unsupported("a condition of one branch only may divide by zero")

    def _divides(self, expr: Expr) -> bool:
        needed, names = [expr], names_in(expr)
        for param in reversed(self.params.defined):
            if param.name in names:
                needed.append(param.value)
                names |= names_in(param.value)
        divisors = (
            made.args[1]
            for part in needed
            for made in walk(part)
            if isinstance(made, Call) and FUNCTIONS[made.fn].fails == "divisor"
        )
        return any(
            not (isinstance(d, Const) and d.value)
            and not (isinstance(d, Index) and d.value.is_const and d.value.const)
            for d in divisors
        )

    def _branches(self) -> list[ir.Guard]:
        """The guards that are no iterations of a loop."""
        return [guard for guard in self.guards if guard.condition.tensor not in self.running]

    def _skippable(self) -> Iterator[Poly]:
        """The trip counts of the loops around the current node that may not be entered."""
        for trips in self.params.loops.values():
            if trips is not None and not self.params.at_least(trips, 1):
                yield trips

    def _fits_without(self, size: Poly, trips: Poly) -> bool:
        """Whether a size is known to be >= 0 if a loop is not entered."""
        if not trips.is_name:
            return False
        rest = size.substitute({str(trips): 0})
        known = rest.degree <= 1 and rest.to_affine() in self.context
        return known or self.params.at_least(rest, 0)

    def _fit(self, condition: Expr, message: str, narrow: bool = False) -> None:
        """Require a condition on sizes: a check on entry if the current node is on no branch.

        On a branch, subscripts may leave their tensors where it does not hold. So nothing behind it
        is run there, and nothing but stored results leaves the branch (`when` in context.py).
        """
        if not self._branches():
            if self.params.vary(condition):
                raise self.unsupported("whether sizes fit depends on the iteration of a loop")
            self._check(condition, message, narrow)
            return
        self._undivided(condition)
        self.fitted += 1
        spared = self._spared()
        if spared is not None and not self.params.vary(condition):
            self._check(_either(spared, condition), message, narrow)
        else:
            self.guards = (*self.guards, ir.Guard(self.demand(condition, message)))

    def alike(self, left: Affine, right: Affine) -> None:
        """Two extents that broadcast are taken to be equal, though either of them may be 1."""
        self.equal(left, right, narrow=True)

    def equal(self, left: Affine, right: Affine, narrow: bool = False) -> None:
        """Two extents must be equal, and have one name from now on, or until the branch ends."""
        left, right = left.substitute(self._same), right.substitute(self._same)
        if left == right:
            return
        if (left - right).is_const:
            raise self.unsupported(f"sizes {left} and {right} are different")
        condition = call("eq", Index(left, "int64"), Index(right, "int64"), dtype="bool")
        narrow = narrow or any(self._skippable())
        self._fit(condition, f"sizes {left} and {right} must be equal", narrow)
        order = {p.name: k for k, p in enumerate(self.params.defined)}
        names = [a for a in (left, right) if len(a.terms) == 1 and a == symbol(str(a.terms[0][0]))]
        if not names:
            return
        old = max(names, key=lambda a: order[str(a)])
        new = right if old == left else left
        if str(old) not in new.names():
            renamed = {str(old): new}
            self._same = {n: a.substitute(renamed) for n, a in self._same.items()} | renamed

    def nonnegative(self, size: PolyLike) -> None:
        """A size that the rules computed: checked, unless known to be >= 0, in all iterations.

        A loop that is not entered at all is held to it too, though TF would not.
        """
        least = self.params.least(size)
        bound = least.to_affine() if least is not None and least.degree <= 1 else None
        if self.params.at_least(size, 0) or bound in self.context:
            return
        if self._branches():  # which not every iteration need take
            condition = call("ge", poly(size).to_expr(), Const(0, "int64"), dtype="bool")
            self._fit(condition, f"size {size} is negative")
            return
        if least is None:
            raise self.unsupported(f"whether {size} is negative depends on the iteration of a loop")
        if self.params.depends(size):
            raise self.unsupported(f"whether {size} is negative depends on data")
        condition = call("ge", least.to_expr(), Const(0, "int64"), dtype="bool")
        narrow = any(not self._fits_without(least, trips) for trips in self._skippable())
        self._fit(condition, f"size {least} is negative", narrow)
        if bound is not None:
            self.context.append(bound)


def _either(one: Expr, other: Expr) -> Expr:
    """Whether one of two conditions holds, of which one may be known not to, or be the other."""
    if one == Const(False, "bool"):
        return other
    return one if other in (one, Const(False, "bool")) else call("or", one, other)
