# SPDX-License-Identifier: Apache-2.0
"""Rules of TensorLists, which become arrays: element i of a list is slice i.

A list is a value, so a write makes a new one. No list is copied for it: writes are collected.
When a list is read whole, or its loop is over, one array gets a statement for each, and statements
for the elements that nothing wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.dtypes import zero
from sirius_tf.ir.expr import Expr, Index, Load, call
from sirius_tf.ir.polynomial import NotAffineError, Poly, PolyLike, poly
from sirius_tf.ir.program import Iter
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import elements, fill, scalar
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.ops.indexing import gather
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.tensors import Read, TensorList, Write, iterators, literal, load
from sirius_tf.lower.value import Dim, Indices, Value


@lowers("TensorListReserve")
def _reserve(ctx: Lowering, node: Node) -> TensorList:
    length = elements(ctx.host(1))[0]
    ctx.nonnegative(length)
    return TensorList(node.attr_str("element_dtype"), length)


@lowers("EmptyTensorList")
def _empty(ctx: Lowering, node: Node) -> TensorList:
    return TensorList(node.attr_str("element_dtype"), poly(0))


@lowers("TensorListPushBack")
def _push(ctx: Lowering, node: Node) -> TensorList:
    """Behind what the list had on entry into the loop that writes it, an iteration adds one."""
    found, x = ctx.tensor_list(0), ctx.input(1)
    if not found.carrier:
        write = Write(found.length, x)
        return replace(found, length=found.length + 1, writes=(*found.writes, write))
    *_, loop = ctx.params.loops
    return replace(found, writes=(*found.writes, Write(found.length + symbol(loop), x, True)))


@lowers("TensorListFromTensor")
def _from_tensor(ctx: Lowering, node: Node) -> TensorList:
    x = ctx.input(0)
    return TensorList(x.dtype, x.shape[0], x)


@lowers("TensorListLength")
def _length(ctx: Lowering, node: Node) -> Value:
    found = ctx.tensor_list(0)
    if found.carrier:
        raise ctx.unsupported("it is the length of a list that the loop writes")
    length = found.length
    for write in found.writes:
        if write.grows:
            length = ctx.params.opaque("max", length, write.position + 1)
    return ctx.from_host(scalar(length), node.dtypes[0])


@lowers("TensorListSetItem")
def _set(ctx: Lowering, node: Node) -> TensorList:
    found, x = ctx.tensor_list(0), ctx.input(2)
    grows = bool(node.attrs.get("resize_if_index_out_of_bounds"))
    write = Write(_position(ctx), x, grows)
    return replace(found, writes=(*found.writes, write))


@lowers("TensorListGetItem")
def _get(ctx: Lowering, node: Node) -> Value:
    found, position = ctx.tensor_list(0), _position(ctx)
    if found.writes and found.writes[-1].position == position:
        return found.writes[-1].value
    if found.carrier:
        return _read_later(ctx, found, position)
    stack = settled(ctx, found).stack or _zeros(ctx, found)
    ctx.nonnegative(position)
    ctx.nonnegative(stack.shape[0] - position - 1)
    return values.remove_dim(values.slice_dim(stack, 0, position, 1), 0)


@lowers("TensorListStack")
def _stack(ctx: Lowering, node: Node) -> Value:
    return _whole(ctx)


def _whole(ctx: Lowering, shape: int = -1) -> Value:
    """Input 0 of the current node, a list, as one tensor; input `shape` is that of an element."""
    found = ctx.tensor_list(0)
    if found.carrier:
        raise ctx.unsupported("the loop reads the whole of a list that it writes")
    return settled(ctx, found).stack or _zeros(ctx, found, shape)


@lowers("TensorListConcatV2")
def _concat(ctx: Lowering, node: Node) -> list[Value]:
    """The elements one after the other, and the length of each."""
    x = _whole(ctx, 1)
    if x.rank < 2:
        raise ctx.unsupported("the elements of the list are scalars: they cannot be concatenated")
    count, length, *rest = x.dims
    each = literal(x.shape[1], "int64")
    whole = Value(x.dtype, ((*count, *length), *rest), x.at)
    return [whole, fill("int64", [count], each)]


@lowers("TensorListSplit")
def _split(ctx: Lowering, node: Node) -> TensorList:
    x, lengths = ctx.input(0), elements(ctx.host(2))
    if not lengths or any(n != lengths[0] for n in lengths):
        raise ctx.unsupported("the elements of the list have different lengths, or there are none")
    total = lengths[0] * len(lengths)
    ctx.nonnegative(lengths[0])
    if x.shape[0] != total:
        ctx.equal(x.shape[0].to_affine(), total.to_affine())
    try:
        x = values.reshape(x, (len(lengths), lengths[0], *x.shape[1:]))
    except ValueError as error:
        raise ctx.unsupported(str(error)) from error
    return TensorList(x.dtype, poly(len(lengths)), x)


@lowers("TensorListGather")
def _gather(ctx: Lowering, node: Node) -> Value:
    whole, positions = _whole(ctx), ctx.input(1)
    if _all_of(ctx, positions, ctx.tensor_list(0).length):
        return whole
    return gather(ctx, whole, positions, 0)


@lowers("TensorListScatterV2", "TensorListScatterIntoExistingList")
def _scatter(ctx: Lowering, node: Node) -> TensorList:
    """Row k of a tensor becomes element i[k]: all elements in order, or constant positions."""
    data = 1 if node.op == "TensorListScatterIntoExistingList" else 0
    x, where = ctx.input(data), ctx.input(data + 1)
    fresh = data and ctx.tensor_list(0) == TensorList(x.dtype, x.shape[0])
    if fresh and _all_of(ctx, where, x.shape[0]):
        return TensorList(x.dtype, x.shape[0], x)
    positions = ctx.host_ints(data + 1)
    if data:
        found = ctx.tensor_list(0)
        if found.carrier:
            raise ctx.unsupported("an iteration writes more than one element of a list")
    else:
        length = ctx.host_int(3)
        length = max([*positions, -1]) + 1 if length == -1 else length
        found = TensorList(x.dtype, poly(length))
    if x.shape[0] != poly(len(positions)):
        ctx.equal(x.shape[0].to_affine(), affine(len(positions)))
    rows = [values.remove_dim(values.slice_dim(x, 0, k, 1), 0) for k in range(len(positions))]
    writes = (Write(poly(p), row, grows=bool(data)) for p, row in zip(positions, rows, strict=True))
    return replace(found, writes=(*found.writes, *writes))


def _all_of(ctx: Lowering, positions: Value, length: Poly) -> bool:
    """Whether positions are 0, 1, ..., length - 1."""
    if positions.rank != 1:
        return False
    count = positions.shape[0]
    if count != length and count != ctx.params.opaque("max", length, 0):
        return False
    if positions.host is not None:
        return elements(positions.host) == [poly(k) for k in range(positions.host.size)]
    try:
        (dim,) = positions.dims
        i = iterators("i", dim)
        return positions.at(i) == Index(values.flat_index(dim, i), positions.dtype)
    except NotAffineError:
        return False


def _position(ctx: Lowering) -> Poly:
    position = ctx.known(ctx.input(1), inputs=True)
    if position is None:
        raise ctx.unsupported("the position in the list depends on data, not on counters alone")
    return values.element(position, ())


def _zeros(ctx: Lowering, found: TensorList, shape: int = -1) -> Value:
    """A list of which nothing was written; input `shape` of the node is that of an element."""
    dims = [values.dim_of(found.length), *_element(ctx, shape)]
    return fill(found.dtype, dims, zero(found.dtype))


def _element(ctx: Lowering, shape: int = -1) -> list[Dim]:
    """The dimensions of an element of which nothing but input `shape` of the node tells."""
    sizes = elements(ctx.host(shape))
    if any(size.is_const and size.const < 0 for size in sizes):
        raise ctx.unsupported("the shape of the list's elements is not known")
    return [values.dim_of(size) for size in sizes]


def _read_later(ctx: Lowering, found: TensorList, position: Poly) -> Value:
    """An element of a list that the loop writes: a tensor to be defined with the list."""
    dims = found.stack.dims[1:] if found.stack else tuple(_element(ctx))
    atoms = tuple(a for dim in dims for a in dim)
    name = ctx.new_tensor(found.dtype, atoms)
    ctx.reads.setdefault(found.carrier, []).append(Read(name, position, dims))
    return load(name, found.dtype, dims, atoms)


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
    return values.broadcast_to(value, dims, ctx.equal)


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
        return TensorList(self.base.dtype, self.length, stack)


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
