# SPDX-License-Identifier: Apache-2.0
"""Rules of ops that move elements or compute shapes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import affine
from sirius_tf.ir.dtypes import INTEGER, is_float, number, numpy_dtype, zero
from sirius_tf.ir.expr import Const, Expr, call, index
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.ir.program import UNBOUNDED
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import axis_of, concat, elements, fill, pad, polys, scalar
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.entry_values import HOST_LIMIT
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.value import Indices, Value

NOTHING = "a tensor without elements has more than one size of 0"


@lowers("Shape")
def _shape(ctx: Lowering, node: Node) -> Value:
    return ctx.from_host(polys(ctx.input(0).shape), node.dtypes[0])


@lowers("ShapeN")
def _shapes(ctx: Lowering, node: Node) -> list[Value]:
    return [ctx.from_host(polys(x.shape), node.dtypes[0]) for x in ctx.inputs()]


@lowers("Size")
def _size(ctx: Lowering, node: Node) -> Value:
    total = poly(1)
    for size in ctx.input(0).shape:
        total = total * size
    return ctx.from_host(scalar(total), node.dtypes[0])


@lowers("Rank")
def _rank(ctx: Lowering, node: Node) -> Value:
    return ctx.from_host(scalar(ctx.input(0).rank), node.dtypes[0])


@lowers("Range")
def _range(ctx: Lowering, node: Node) -> Value:
    literals = [x.at(()) for x in ctx.inputs()]
    numbers = [x.value for x in literals if isinstance(x, Const)]
    if len(numbers) == 3 and is_float(node.dtypes[0]):
        return ctx.constant(np.arange(*numbers, dtype=numpy_dtype(node.dtypes[0])))
    start, limit = elements(ctx.host(0))[0], elements(ctx.host(1))[0]
    step = ctx.host_int(2)
    span = limit - start if step > 0 else start - limit
    ctx.nonnegative(span)
    count = ctx.params.opaque("floordiv", span + (abs(step) - 1), abs(step))
    count = ctx.params.opaque("max", count, 0)
    dtype, first = node.dtypes[0], start.to_affine()
    if count.is_const and count.const <= 64 and dtype in INTEGER:
        return ctx.from_host(polys([start + k * step for k in range(count.const)]), dtype)
    dim = values.dim_of(count)
    return Value(dtype, (dim,), lambda i: index(values.flat_index(dim, i) * step + first, dtype))


@lowers("Reshape")
def _reshape(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    shape = _inferred(ctx, elements(ctx.host(1)), prod(x.shape, start=poly(1)))
    try:
        shaped = values.reshape(x, shape)
        _as_many(ctx, x.shape, shape)
        return shaped
    except ValueError as error:
        sizes = [a for a, b in zip(x.shape, shape, strict=False) if a != b]
        if len(sizes) == 1 and len(shape) == x.rank:  # one size has two names
            k = next(k for k, size in enumerate(shape) if size != x.shape[k])
            ctx.equal(x.shape[k].to_affine(), shape[k].to_affine())
            return x
        raise ctx.unsupported(str(error)) from error


def _inferred(ctx: Lowering, shape: Sequence[Poly], total: Poly) -> list[Poly]:
    """A shape of `total` elements in which the size that is -1 is what the others leave.

    A size that a request gives may be -1, too, if it is the only one that may.
    """
    given = [k for k, size in enumerate(shape) if size.degree == 1 and ctx.params.given(size)]
    unknown = [k for k, size in enumerate(shape) if size == poly(-1)] or given
    if len(unknown) != 1:
        return list(shape)
    k = unknown[0]
    others = prod((*shape[:k], *shape[k + 1 :]), start=poly(1))
    rest = poly(0) if others == poly(0) else total.exact_div(others)
    if rest is not None:
        _not_both_nothing(ctx, others, rest)
    if rest is None and k in given and ctx.params.at_least(others, 1):
        rest = ctx.params.opaque("floordiv", total, others)
    if rest is None and k not in given:
        raise ctx.unsupported(
            f"{total} elements are not known to be a multiple of {others}: fix the sizes"
        )
    size = shape[k] if rest is None else _or_rest(ctx, shape[k], rest)
    return [*shape[:k], size, *shape[k + 1 :]]


def _not_both_nothing(ctx: Lowering, others: Poly, rest: Poly) -> None:
    """Refuse a size of -1 if the others are 0 and what they leave is, too.

    TF leaves sizes of 0 out then: `reshape(x, [0, -1])` has shape (0, 1) for an x of (0, 0). That
    is not worth the original ops beside every attention.
    """
    if any(ctx.params.at_least(size, 1) for size in (others, rest)):
        return
    some = (call("ge", size.to_expr(), Const(1, "int64"), dtype="bool") for size in (others, rest))
    ctx.check(call("or", *some, dtype="bool"), NOTHING)


def _as_many(ctx: Lowering, given: Sequence[Poly], made: Sequence[Poly]) -> None:
    """Require two shapes to have as many elements."""
    left, right = (prod(sizes, start=poly(1)) for sizes in (given, made))
    if left != right:
        ctx.equal(left.to_affine(), right.to_affine())


@lowers("Transpose")
def _transpose(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    return values.transpose(x, [axis_of(ctx, p, x.rank) for p in ctx.host_ints(1)])


@lowers("ExpandDims")
def _expand_dims(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    return values.insert_dim(x, axis_of(ctx, ctx.host_int(1), x.rank + 1))


@lowers("Squeeze")
def _squeeze(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    listed = node.attrs.get("squeeze_dims") or node.attrs.get("axis") or []
    assert isinstance(listed, list | tuple)
    axes = [axis_of(ctx, int(a), x.rank) for a in listed]
    if not axes:
        axes = [k for k, size in enumerate(x.shape) if size == poly(1)]
        for size in x.shape:
            if not size.is_const and not ctx.params.at_least(size, 2):
                kept = call("ne", size.to_expr(), Const(1, "int64"), dtype="bool")
                ctx.check(kept, f"size {size} is 1, and would be dropped", narrow=True)
    for axis in sorted(axes, reverse=True):
        if x.shape[axis] != poly(1):
            ctx.equal(x.shape[axis].to_affine(), affine(1))
        x = values.remove_dim(x, axis)
    return x


def from_front(ctx: Lowering, position: Poly, size: Poly) -> Poly:
    """A position of which negative values count from the end."""
    if position.is_const:
        return position + size if position.const < 0 else position
    if ctx.params.at_least(position, 0):
        return position
    negative = call("lt", position.to_expr(), Const(0, "int64"), dtype="bool")
    wrapped = call("select", negative, (position + size).to_expr(), position.to_expr())
    at = position.evaluate(ctx.params.hints)
    hint = at if at >= 0 else at + size.evaluate(ctx.params.hints)
    return ctx.params.define("position", wrapped, hint, UNBOUNDED)


def clamp(ctx: Lowering, begin: Poly, size: Poly, low: int, shift: int) -> Poly:
    """A slice bound counted from the front and held inside `low .. size + shift`."""
    begin = ctx.params.opaque("max", from_front(ctx, begin, size), low)
    return ctx.params.opaque("min", begin, size + shift)


def strided(ctx: Lowering, x: Value, axis: int, bounds: Sequence[Poly | None], step: int) -> Value:
    """x[begin:end:step] along one axis; a bound of None is open."""
    size = x.shape[axis]
    low, shift = (0, 0) if step > 0 else (-1, -1)
    first, last = (poly(0), size) if step > 0 else (size - 1, poly(-1))
    begin, end = bounds
    start = first if begin is None else clamp(ctx, begin, size, low, shift)
    stop = last if end is None else clamp(ctx, end, size, low, shift)
    span = stop - start if step > 0 else start - stop
    count = ctx.params.opaque("floordiv", span + (abs(step) - 1), abs(step))
    return values.slice_dim(x, axis, start, ctx.params.opaque("max", count, 0), step)


@lowers("StridedSlice")
def _strided_slice(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    begins, ends, steps = elements(ctx.host(1)), elements(ctx.host(2)), ctx.host_ints(3)
    mask = {
        name: int(node.attr_int(f"{name}_mask")) if f"{name}_mask" in node.attrs else 0
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    axis = 0
    for k, step in enumerate(steps):
        bit = 1 << k
        if mask["ellipsis"] & bit:
            later = range(k + 1, len(steps))
            axis = x.rank - sum(1 for j in later if not mask["new_axis"] >> j & 1)
        elif mask["new_axis"] & bit:
            x = values.insert_dim(x, axis)
            axis += 1
        elif mask["shrink_axis"] & bit:
            begin, size = begins[k], x.shape[axis]
            begin = from_front(ctx, begin, size)
            ctx.nonnegative(begin)
            ctx.nonnegative(size - begin - 1)
            x = values.remove_dim(values.slice_dim(x, axis, begin, 1), axis)
        else:
            begin_ = None if mask["begin"] & bit else begins[k]
            end_ = None if mask["end"] & bit else ends[k]
            x = strided(ctx, x, axis, (begin_, end_), step)
            axis += 1
    return x


def _or_rest(ctx: Lowering, size: Poly, rest: Poly) -> Poly:
    """The number of elements of a part: -1, which a request may say, is all that are left."""
    if size == poly(-1):
        return rest
    if not ctx.params.given(size):
        return size
    open_ended = call("eq", size.to_expr(), Const(-1, "int64"), dtype="bool")
    chosen = call("select", open_ended, rest.to_expr(), size.to_expr())
    return ctx.params.define("count", chosen, size.evaluate(ctx.params.hints), UNBOUNDED)


@lowers("Slice")
def _slice(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    pairs = zip(elements(ctx.host(1)), elements(ctx.host(2)), strict=True)
    for axis, (begin, size) in enumerate(pairs):
        count = _or_rest(ctx, size, x.shape[axis] - begin)
        for condition in (begin, count, x.shape[axis] - begin - count):
            ctx.nonnegative(condition)
        x = values.slice_dim(x, axis, begin, count)
    return x


@lowers("Pack")
def _pack(ctx: Lowering, node: Node) -> Value:
    parts = ctx.inputs()
    axis = axis_of(ctx, node.attr_int("axis"), parts[0].rank + 1)
    hosts = [h for h in map(ctx.known, parts) if h is not None]
    if len(hosts) == len(parts):
        return ctx.from_host(np.stack(hosts, axis), parts[0].dtype)
    if parts[0].rank == 0 and 1 < len(parts) <= HOST_LIMIT:
        return _pack_scalars(ctx, parts)
    return concat(ctx, [values.insert_dim(p, axis) for p in parts], axis)


def _pack_scalars(ctx: Lowering, parts: list[Value]) -> Value:
    """A vector that becomes a tensor only if it is read at an index that is not constant."""
    stored: list[Value] = []

    def at(i: Indices) -> Expr:
        if i[0].is_const:
            return parts[i[0].const].at(())
        if not stored:
            stored.append(concat(ctx, [values.insert_dim(p, 0) for p in parts], 0))
        return stored[0].at(i)

    return Value(parts[0].dtype, ((affine(len(parts)),),), at)


@lowers("ConcatV2")
def _concat(ctx: Lowering, node: Node) -> Value:
    *parts, _ = ctx.inputs()
    axis = axis_of(ctx, ctx.host_int(len(parts)), parts[0].rank)
    hosts = [h for h in map(ctx.known, parts) if h is not None]
    if len(hosts) == len(parts):
        return ctx.from_host(np.concatenate(hosts, axis), parts[0].dtype)
    return concat(ctx, [p for p in parts if p.shape[axis] != poly(0)] or parts[:1], axis)


@lowers("Unpack")
def _unpack(ctx: Lowering, node: Node) -> list[Value]:
    x = ctx.input(0)
    axis, count = axis_of(ctx, node.attr_int("axis"), x.rank), node.attr_int("num")
    if x.shape[axis] != poly(count):
        ctx.equal(x.shape[axis].to_affine(), affine(count))
    return [values.remove_dim(values.slice_dim(x, axis, k, 1), axis) for k in range(count)]


@lowers("Split", "SplitV")
def _split(ctx: Lowering, node: Node) -> list[Value]:
    data = 1 if node.op == "Split" else 0
    x, count = ctx.input(data), node.attr_int("num_split")
    axis = axis_of(ctx, ctx.host_int(0 if data else 2), x.rank)
    if data:
        each = x.shape[axis].exact_div(count)
        if each is None:
            raise ctx.unsupported(
                f"a size of {x.shape[axis]} is not known to be a multiple of {count}: fix it"
            )
        sizes = [each] * count
    else:
        sizes = elements(ctx.host(1))
        rest = x.shape[axis] - sum(sizes, poly(0)) - 1  # where one of them is -1
        sizes = [_or_rest(ctx, size, rest) for size in sizes]
        if sum(sizes, poly(0)) != x.shape[axis]:
            ctx.equal(x.shape[axis].to_affine(), sum(sizes, poly(0)).to_affine())
    parts, start = [], poly(0)
    for size in sizes:
        ctx.nonnegative(size)
        parts.append(values.slice_dim(x, axis, start, size))
        start = start + size
    return parts


@lowers("Pad", "PadV2")
def _pad(ctx: Lowering, node: Node) -> Value:
    x, flat = ctx.input(0), elements(ctx.host(1))
    filler = ctx.input(2).at(()) if node.op == "PadV2" else zero(x.dtype)
    return pad(ctx, x, list(zip(flat[::2], flat[1::2], strict=True)), filler)


@lowers("MirrorPad")
def _mirror_pad(ctx: Lowering, node: Node) -> Value:
    x, widths = ctx.input(0), ctx.host_ints(1)
    skip = 1 if node.attr_str("mode") == "REFLECT" else 0
    for axis in range(x.rank):
        low, high, size = widths[2 * axis], widths[2 * axis + 1], x.shape[axis]
        ctx.nonnegative(size - max(low, high) - skip)
        left = values.slice_dim(x, axis, low - 1 + skip, low, -1)
        right = values.slice_dim(x, axis, size - 1 - skip, high, -1)
        parts = [p for p, n in ((left, low), (x, 1), (right, high)) if n]
        x = concat(ctx, parts, axis)
    return x


@lowers("ReverseV2")
def _reverse(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    for axis in ctx.host_ints(1):
        axis = axis_of(ctx, axis, x.rank)
        x = values.slice_dim(x, axis, x.shape[axis] - 1, x.shape[axis], -1)
    return x


@lowers("Roll")
def _roll(ctx: Lowering, node: Node) -> Value:
    """y[i] = x[(i - shift) mod n]: the last `shift` elements, then the others."""
    x = ctx.input(0)
    for shift, axis in zip(ctx.host_ints(1), ctx.host_ints(2), strict=True):
        axis = axis_of(ctx, axis, x.rank)
        size = x.shape[axis]
        if not size.is_const:
            raise ctx.unsupported(f"the size of axis {axis} must be constant")
        last = shift % max(size.const, 1)
        if last:
            ends = ((size - last, last), (poly(0), size - last))
            x = concat(ctx, [values.slice_dim(x, axis, *end) for end in ends], axis)
    return x


@lowers("Tile")
def _tile(ctx: Lowering, node: Node) -> Value:
    x, counts = ctx.input(0), elements(ctx.host(1))
    tails = [len(dim) for dim in x.dims]
    dims = [(*values.dim_of(n), *dim) for n, dim in zip(counts, x.dims, strict=True)]

    def last(count: int) -> values.View:
        return lambda i: i[len(i) - count :]

    return x.by_dim(dims, [last(count) for count in tails])


@lowers("Fill")
def _fill(ctx: Lowering, node: Node) -> Value:
    sizes, x = elements(ctx.host(0)), ctx.input(1)
    for size in sizes:
        ctx.nonnegative(size)
    return fill(x.dtype, [values.dim_of(s) for s in sizes], x.at(()))


@lowers("ZerosLike", "OnesLike")
def _like(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    return fill(x.dtype, x.dims, number(node.op == "OnesLike", x.dtype))


@lowers("BroadcastTo")
def _broadcast_to(ctx: Lowering, node: Node) -> Value:
    x, sizes = ctx.input(0), elements(ctx.host(1))
    shape = fill(x.dtype, [values.dim_of(s) for s in sizes], zero(x.dtype))
    return values.broadcast([x, shape], ctx.alike)[1][0]
