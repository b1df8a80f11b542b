# SPDX-License-Identifier: Apache-2.0
"""Rules of TensorLists, which become arrays: element i of a list is slice i.

A list is a value, so a write makes a new one. No list is copied for it: writes are collected.
When a list is read whole, or its loop is over, one array gets a statement for each, and statements
for the elements that nothing wrote.
"""

from __future__ import annotations

from dataclasses import replace

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import affine, symbol
from sirius_tf.ir.dtypes import zero
from sirius_tf.ir.expr import Const, Index, call
from sirius_tf.ir.polynomial import NotAffineError, Poly, poly
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import agree, elements, fill, scalar
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.list_arrays import settled
from sirius_tf.lower.ops.indexing import gather
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.tensors import Read, TensorList, Write, iterators, literal, load
from sirius_tf.lower.value import Dim, Value


@lowers("TensorListReserve")
def _reserve(ctx: Lowering, node: Node) -> TensorList:
    length = elements(ctx.host(1))[0]
    ctx.nonnegative(length)
    return TensorList(node.attr_str("element_dtype"), length, element=_declared(ctx, 0))


@lowers("EmptyTensorList")
def _empty(ctx: Lowering, node: Node) -> TensorList:
    return TensorList(node.attr_str("element_dtype"), poly(0), element=_declared(ctx, 0))


@lowers("TensorListPushBack")
def _push(ctx: Lowering, node: Node) -> TensorList:
    """Behind what the list had on entry into the loop that writes it, an iteration adds one."""
    found, x = ctx.tensor_list(0), ctx.input(1)
    agree(ctx, found.element, x.shape)
    if not found.carrier:
        write = Write(found.length, x)
        return replace(found, length=found.length + 1, writes=(*found.writes, write))
    *_, loop = ctx.params.loops
    return replace(found, writes=(*found.writes, Write(found.length + symbol(loop), x, True)))


@lowers("TensorListFromTensor")
def _from_tensor(ctx: Lowering, node: Node) -> TensorList:
    x, declared = ctx.input(0), _declared(ctx, 1)
    agree(ctx, declared, x.shape[1:])
    return TensorList(x.dtype, x.shape[0], x, element=declared)


def _declared(ctx: Lowering, shape: int) -> tuple[Poly, ...] | None:
    """The shape of a list's elements that an input declares: -1 for unknown sizes, None for a
    shape of unknown rank, or one that is no matter of sizes."""
    host = ctx.known(ctx.input(shape))
    return tuple(elements(host)) if host is not None and host.ndim else None


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
    agree(ctx, found.element, x.shape)
    grows = bool(node.attrs.get("resize_if_index_out_of_bounds"))
    write = Write(_position(ctx), x, grows)
    return replace(found, writes=(*found.writes, write))


@lowers("TensorListGetItem")
def _get(ctx: Lowering, node: Node) -> Value:
    found, position = ctx.tensor_list(0), _position(ctx)
    if found.writes and found.writes[-1].position == position:
        if not found.carrier:  # the writes of a loop are checked where it is left
            ctx.nonnegative(position)
        if not (found.carrier or found.writes[-1].grows):
            ctx.nonnegative(found.length - position - 1)
        return found.writes[-1].value
    if found.carrier:
        return _read_later(ctx, found, position)
    stack = settled(ctx, found).stack or _zeros(ctx, found)
    ctx.nonnegative(position)
    ctx.nonnegative(stack.shape[0] - position - 1)
    return values.remove_dim(values.slice_dim(stack, 0, position, 1), 0)


@lowers("TensorListStack")
def _stack(ctx: Lowering, node: Node) -> Value:
    """All elements as one tensor; if there are none, only a declaration says which shape it has."""
    whole, length = _whole(ctx), ctx.tensor_list(0).length
    if not _is_declared(ctx, whole.rank - 1) and not ctx.params.at_least(length, 1):
        some = call("gt", length.to_expr(), Const(0, "int64"), dtype="bool")
        why = "the list is empty, and the shape of its elements is not declared"
        asked = ctx.known(ctx.input(1))  # or a request declares it
        told = asked is not None and all(size.is_const for size in elements(asked))
        ctx.check(some, why, narrow=not told)
    return whole


def _is_declared(ctx: Lowering, rank: int) -> bool:
    """Whether input 0, a list, or input 1 declares every size of an element."""
    shapes = (ctx.tensor_list(0).element, _declared(ctx, 1))
    known = [shape for shape in shapes if shape is not None]
    return bool(known) and all(
        any(ctx.params.at_least(shape[axis], 0) for shape in known) for axis in range(rank)
    )


def _whole(ctx: Lowering, shape: int = -1) -> Value:
    """Input 0 of the current node, a list, as one tensor; input `shape` is that of an element."""
    found = ctx.tensor_list(0)
    if found.carrier:
        raise ctx.unsupported("the loop reads the whole of a list that it writes")
    whole = settled(ctx, found).stack or _zeros(ctx, found, shape)
    for declared in (found.element, _declared(ctx, shape)):
        agree(ctx, declared, whole.shape[1:])
    return whole


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
    declared = _declared(ctx, 1)
    agree(ctx, declared and declared[1:], x.shape[1:])
    total = lengths[0] * len(lengths)
    ctx.nonnegative(lengths[0])
    if x.shape[0] != total:
        ctx.equal(x.shape[0].to_affine(), total.to_affine())
    try:
        x = values.reshape(x, (len(lengths), lengths[0], *x.shape[1:]))
    except ValueError as error:
        raise ctx.unsupported(str(error)) from error
    return TensorList(x.dtype, poly(len(lengths)), x, element=declared)


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
    declared = ctx.tensor_list(0).element if data else _declared(ctx, 2)
    if not data:  # into a list that is there TF puts what it is given
        agree(ctx, declared, x.shape[1:])
    fresh = data and ctx.tensor_list(0) == TensorList(x.dtype, x.shape[0], element=declared)
    if fresh and _all_of(ctx, where, x.shape[0]):
        return TensorList(x.dtype, x.shape[0], x, element=declared)
    positions = ctx.host_ints(data + 1)
    if data:
        found = ctx.tensor_list(0)
        if found.carrier:
            raise ctx.unsupported("an iteration writes more than one element of a list")
    else:
        length = ctx.host_int(3)
        length = max([*positions, -1]) + 1 if length == -1 else length
        found = TensorList(x.dtype, poly(length), element=declared)
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
