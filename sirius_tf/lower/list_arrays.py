# SPDX-License-Identifier: Apache-2.0
"""Arrays that TensorLists become: a statement for each write, and one for what nothing wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.dtypes import zero
from sirius_tf.ir.expr import Expr, Load, call
from sirius_tf.ir.polynomial import Poly, PolyLike, poly
from sirius_tf.ir.program import Iter
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import fill
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.tensors import Read, TensorList, Write, iterators, load
from sirius_tf.lower.value import Dim, Indices, Value


def read(
    ctx: Lowering, before: TensorList, after: TensorList, write: Write, reads: Sequence[Read]
) -> None:
    """Define what iterations read of a list of which they write an element each, in order.

    What an earlier iteration writes, or none does, is an element of the finished list; what this
    or a later one is to write is still what it was before the loop.
    """
    *_, loop = ctx.params.loops
    slope = (write.position - write.position.substitute({loop: 0})).exact_div(symbol(loop))
    sign = slope.const if slope is not None and slope.is_const else 0
    for one in reads:
        ahead = (one.position - write.position) * sign  # > 0: a later iteration writes it
        constant = one.position.substitute({loop: 0}) == one.position
        never = constant and ctx.params.at_least(-ahead.substitute({loop: 0}), 1)
        if abs(sign) != 1 or not (ahead.is_const or never):
            raise ctx.unsupported("the loop reads a list where it may have written there, or not")
        stack = (after if never or ahead.const < 0 else before).stack
        if stack is None:
            dims = [values.dim_of(before.length), *one.dims]
            stack = fill(before.dtype, dims, zero(before.dtype))
        ctx.nonnegative(one.position)
        ctx.nonnegative(before.length - one.position - 1)
        element = values.remove_dim(values.slice_dim(stack, 0, one.position, 1), 0)
        atoms = tuple(a for dim in one.dims for a in dim)
        i = iterators("i", atoms)
        ctx.write(one.tensor, atoms, i, conform(ctx, element, one.dims).at(i))


def conform(ctx: Lowering, value: Value, dims: Sequence[Dim]) -> Value:
    """The value read at the atoms of `dims`, which must have its sizes."""
    same = value.rank == len(dims) and all(
        (values.extent(a) == poly(1)) == (values.extent(b) == poly(1))
        for a, b in zip(value.dims, dims, strict=True)
    )
    if not same:
        raise ctx.unsupported("a shape changes from one iteration, or element, to the next")
    return values.broadcast_to(value, dims, ctx.alike)


@dataclass(frozen=True)
class _Array:
    """The array of a list: its name, the dimensions of an element, and what was there before."""

    name: str
    length: Poly
    dims: tuple[Dim, ...]
    base: TensorList

    @property
    def atoms(self) -> Dim:
        """The atoms of an element."""
        return tuple(a for dim in self.dims for a in dim)

    def put(
        self,
        ctx: Lowering,
        position: Affine,
        value: Value,
        loops: tuple[Iter, ...] = (),
        go: Load | None = None,
    ) -> None:
        """`array[position] = value`, in every iteration of `loops`, or only where `go` holds."""
        i = iterators("i", self.atoms)
        element = conform(ctx, value, self.dims).at(i)
        if go is not None:
            element = call("select", go, element, self.old(ctx, position, i))
        ctx.write(self.name, self.atoms, (position, *i), element, None, loops)

    def old(self, ctx: Lowering, position: Affine, inner: Indices) -> Expr:
        """The element that was there before."""
        stack = self.base.stack
        if stack is None:
            return zero(self.base.dtype)
        where = values.unflatten(stack.dims[0], position)
        return conform(ctx, stack, [stack.dims[0], *self.dims]).at((*where, *inner))

    def keep(self, ctx: Lowering, box: Sequence[PolyLike], position: Affine) -> None:
        """The elements at `position`, over the iterators of `box`, are what they were: or zero."""
        extents = [poly(size).to_affine() for size in box]
        if affine(0) in extents:
            return
        whole = (*extents, *self.atoms)
        i = iterators("i", whole)
        inner = i[len(box) :]
        ctx.write(self.name, whole, (position, *inner), self.old(ctx, position, inner))

    def list(self) -> TensorList:
        """The finished list."""
        dims = [(self.length.to_affine(),), *self.dims]
        shape = [a for dim in dims for a in dim]
        stack = load(self.name, self.base.dtype, dims, shape)
        return replace(self.base, length=self.length, stack=stack, writes=(), carrier="")


def _array(ctx: Lowering, base: TensorList, length: Poly, element: Value) -> _Array:
    atoms = (length.to_affine(), *element.atoms)
    name = ctx.new_tensor(base.dtype, atoms, stem=base.carrier)
    return _Array(name, length, element.dims, base)


def settled(ctx: Lowering, found: TensorList) -> TensorList:
    """The list with all writes, at constant positions, done."""
    if not found.writes:
        return found
    if not all(w.position.is_const and w.position.const >= 0 for w in found.writes):
        raise ctx.unsupported("a position in the list is negative, or not constant")
    writes = {w.position.const: w.value for w in found.writes}
    length, end = found.length, max(writes) + 1
    if any(w.grows for w in found.writes):
        length = ctx.params.opaque("max", length, end)
    base = replace(found, writes=())
    array = _array(ctx, base, length, found.writes[0].value)
    start = 0
    for position in sorted(writes):
        array.keep(ctx, [position - start], symbol("i0") + start)
        array.put(ctx, affine(position), writes[position])
        start = position + 1
    ctx.nonnegative(length - end)
    array.keep(ctx, [length - end], symbol("i0") + end)
    return array.list()


def written(
    ctx: Lowering, base: TensorList, write: Write, loop: Iter, trips: Poly, go: Load | None
) -> TensorList:
    """The array that a loop makes of the list `base`: element c + s*t is that of iteration t.

    With `go`, only iterations in which it holds write.

    With G = max(T - 1, 0), the positions between two writes are a box of G by |s| - 1. The first
    one behind the last write is c + s*G + sign*(T - G), T = 0 included. If s = 0, the last
    iteration counts: element c is that of iteration G, if there is one, T - G being 1 then.
    """
    t = symbol(loop.name)
    c = write.position.substitute({loop.name: 0})
    slope = (write.position - c).exact_div(t)
    if slope is None or not slope.is_const:
        raise ctx.unsupported(
            "positions that iterations write to a list are no constant step apart"
        )
    s, sign = slope.const, 1 if slope.const >= 0 else -1
    gaps = trips if abs(s) == 1 else _gaps(ctx, trips)
    end = c + s * gaps + sign * (trips - gaps)
    length = base.length
    if go is not None and (s == 0 or (write.grows and not ctx.params.at_least(length, end))):
        raise ctx.unsupported("data decides in a loop inside a loop which elements a list has")
    if write.grows and s >= 0:
        length = ctx.params.opaque("max", length, end)
    low, high = (c, end) if s >= 0 else (end + 1, c + 1)  # written: low <= position < high
    ctx.nonnegative(low)
    ctx.nonnegative(length - high)
    array = _array(ctx, base, length, write.value)
    if s:
        array.put(ctx, write.position.to_affine(), write.value, (loop,), go)
    else:
        _put_last(ctx, array, c, write.value, loop, gaps)
    array.keep(ctx, [low], symbol("i0"))
    array.keep(ctx, [length - high], symbol("i0") + high.to_affine())
    if abs(s) > 1:
        between = symbol("i0") * s + (symbol("i1") + 1) * sign + c.to_affine()
        array.keep(ctx, [gaps, abs(s) - 1], between)
    return array.list()


def _gaps(ctx: Lowering, trips: Poly) -> Poly:
    """max(T - 1, 0), of which isl is told what it is."""
    gaps = ctx.params.opaque("max", trips - 1, 0)
    for fact in (gaps - trips + 1, trips - gaps):
        if not ctx.params.at_least(fact, 0) and fact.to_affine() not in ctx.context:
            ctx.context.append(fact.to_affine())
    return gaps


def _put_last(
    ctx: Lowering, array: _Array, position: Poly, value: Value, loop: Iter, last: Poly
) -> None:
    """`array[position] = value` of iteration `last`; nothing if no iteration is run."""
    atoms, t = array.atoms, symbol(loop.name)
    name = ctx.new_tensor(value.dtype, (loop.extent, *atoms), stem=f"{array.name}_each")
    i = iterators("i", atoms)
    ctx.write(name, atoms, (t, *i), conform(ctx, value, array.dims).at(i), None, (loop,))
    box = (loop.extent - last.to_affine(), *atoms)
    first, *rest = iterators("i", box)
    read = Load(name, (last.to_affine(), *rest), value.dtype)
    ctx.write(array.name, box, (first + position.to_affine(), *rest), read)
