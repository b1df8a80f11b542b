# SPDX-License-Identifier: Apache-2.0
"""Rules of sliding windows, over one to three dimensions: convolutions, their transposes, pools.

Element k of window o along a dimension of x is element o*stride + k*dilation of the padded x. With
one such o and k for each spatial dimension, and g for groups of channels,

    y[n, o, (g, m)] = sum over k, r of  x[n, o*stride + k*dilation, (g, r)] * w[k, r, (g, m)]

is a convolution (depthwise: r is 0), and a pool a reduction over k alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd

import numpy as np

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.dtypes import identity, zero
from sirius_tf.ir.expr import Const, Expr, call
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.ir.program import ReduceOp
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import channels_first, elements, fill, pad
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.half import wide
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.tensors import load
from sirius_tf.lower.value import Dim, Indices, Value, View

Width = tuple[Poly, Poly]  # padding before and after
_NONE = (poly(0), poly(0))


@dataclass(frozen=True)
class Axis:
    """Windows along one dimension: element k of window o is at o*stride + k*dilation + start."""

    count: Poly
    size: int
    stride: int = 1
    dilation: int = 1
    start: int = 0

    @property
    def dims(self) -> tuple[Dim, Dim]:
        """The dimension of the windows, and that of the elements in one."""
        return values.dim_of(self.count), values.dim_of(self.size)

    def view(self, dim: Dim) -> View:
        """Indices of `dim` from those of window and element."""
        windows, members = self.dims

        def source(i: Indices) -> Indices:
            o = values.flat_index(windows, i[: len(windows)])
            k = values.flat_index(members, i[len(windows) :])
            return values.unflatten(dim, o * self.stride + k * self.dilation + self.start)

        return source


def _windows(x: Value, axes: Sequence[Axis]) -> Value:
    """x[n, spatial..., rest...] as [n, windows..., elements..., rest...]."""
    n, count = x.dims[0], len(axes)
    spatial, rest = x.dims[1 : count + 1], x.dims[count + 1 :]
    joined = [(*windows, *members) for windows, members in (axis.dims for axis in axes)]
    sources = [axis.view(dim) for axis, dim in zip(axes, spatial, strict=True)]
    view = x.by_dim([n, *joined, *rest], [_itself, *sources, *[_itself] * len(rest)])
    apart = (dim for axis in axes for dim in axis.dims)
    slid = Value(x.dtype, (n, *apart, *rest), view.at)
    order = (*range(1, 2 * count, 2), *range(2, 2 * count + 1, 2))
    return values.transpose(slid, (0, *order, *range(2 * count + 1, slid.rank)))


def _itself(i: Indices) -> Indices:
    return i


def _axes(
    ctx: Lowering, node: Node, extents: Sequence[Poly], size: Sequence[int]
) -> tuple[list[Axis], list[Width]]:
    """The windows of a node over spatial dimensions of these extents, and their padding."""
    first = 2 if channels_first(node) else 1
    padding, every = node.attr_str("padding"), (1,) * (len(size) + 2)
    strides = node.attr_ints("strides")
    dilations = node.attr_ints("dilations") if "dilations" in node.attrs else every
    explicit = node.attr_ints("explicit_paddings") if padding == "EXPLICIT" else every * 2
    if {*strides[:first], *strides[first + len(size) :]} != {1}:
        raise ctx.unsupported("strides are of spatial dimensions only, not of batches or channels")
    axes, widths = [], []
    for k, (extent, reached) in enumerate(zip(extents, size, strict=True), first):
        stride, reach = strides[k], (reached - 1) * dilations[k] + 1
        low, high = _NONE
        if padding == "SAME":
            count = ctx.params.opaque("floordiv", extent + (stride - 1), stride)
            if reach > 1:
                total = ctx.params.opaque("max", (count - 1) * stride + reach - extent, 0)
                low = ctx.params.opaque("floordiv", total, 2)
                high = total - low
        else:
            if padding == "EXPLICIT":
                low, high = poly(explicit[2 * k]), poly(explicit[2 * k + 1])
            span = extent + low + high - reach + stride
            ctx.nonnegative(span + stride - 1)  # TF rounds the quotient toward zero
            count = ctx.params.opaque("floordiv", span, stride)
            count = ctx.params.opaque("max", count, 0) if stride > 1 else count
        axes.append(Axis(count, reached, stride, dilations[k]))
        widths.append((low, high))
    return axes, widths


def _channels_last(node: Node, x: Value) -> Value:
    return values.transpose(x, (0, *range(2, x.rank), 1)) if channels_first(node) else x


def _as_given(node: Node, y: Value) -> Value:
    """The inverse of `_channels_last`."""
    last = y.rank - 1
    return values.transpose(y, (0, last, *range(1, last))) if channels_first(node) else y


# Convolutions


def _filter(ctx: Lowering, node: Node, channels: Poly, w: Value) -> Value:
    """The filter as w[k..., r, g, m]: `m` results of each group from its `r` channels."""
    if not all(s.is_const and s.const for s in w.shape):
        raise ctx.unsupported("the sizes of the filter must be constant, and not 0")
    *size, r, m = (s.const for s in w.shape)
    if node.op.startswith("Depthwise"):
        r, g = 1, r
    elif channels.is_const and channels.const % r == 0 and channels.const:
        g = channels.const // r
        m = m // g
    else:
        raise ctx.unsupported(
            f"{channels} channels are not known to be a multiple of the filter's {r}: fix the size"
        )
    if channels != poly(g * r):
        ctx.equal(channels.to_affine(), poly(g * r).to_affine())
    return values.reshape(w, (*size, r, g, m))


def _grouped(x: Value, groups: Dim, each: Dim) -> Value:
    """The channels, last in x, as two dimensions."""
    sizes = (*x.shape[:-1], values.extent(groups), values.extent(each))
    return values.reshape(x, sizes)


def _ungrouped(y: Value) -> Value:
    return Value(y.dtype, (*y.dims[:-2], y.dims[-2] + y.dims[-1]), y.at)


def _products(ctx: Lowering, image: Value, weights: Value) -> tuple[Value, int]:
    """The terms of a convolution, as [n, o..., g, m, k..., r], and the number of dimensions that
    the sum keeps.

    `image` is [n, o..., k..., g, r], `weights` is [k..., r, g, m].
    """
    count = weights.rank - 3
    o, k = range(1, count + 1), range(count + 1, 2 * count + 1)
    image = values.transpose(image, (0, *o, 2 * count + 1, *k, 2 * count + 2))
    image = values.insert_dim(image, count + 2)
    weights = values.transpose(weights, (count + 1, count + 2, *range(count + 1)))
    dims, (left, right) = values.broadcast([image, weights], ctx.equal)
    return Value(image.dtype, dims, lambda i: call("mul", left.at(i), right.at(i))), count + 3


@lowers("Conv2D", "Conv3D", "DepthwiseConv2dNative")
def _convolution(ctx: Lowering, node: Node) -> Value:
    x = _channels_last(node, ctx.input(0))
    w = _filter(ctx, node, x.shape[-1], ctx.input(1))
    axes, widths = _axes(ctx, node, x.shape[1:-1], [s.const for s in w.shape[:-3]])
    x = _grouped(x, w.dims[-2], w.dims[-3])
    image = _windows(pad(ctx, x, [_NONE, *widths, _NONE, _NONE], zero(x.dtype)), axes)
    terms, kept = _products(ctx, image, w)
    y = ctx.reduce("add", terms, range(kept, terms.rank), keep=False)
    return _as_given(node, _ungrouped(y))


# Transposed convolutions


@dataclass(frozen=True)
class Phase:
    """The results q*stride + p, for one p, of a transposed convolution along one dimension.

    They need only some `taps` of the filter, one for each element of window q of `axis`.
    """

    p: int
    stride: int
    taps: range
    axis: Axis
    width: int = 1

    @property
    def dim(self) -> Dim:
        """The dimension of the phases that are computed together."""
        return values.dim_of(self.width)

    def place(self, dim: Dim, q: Indices, j: Indices) -> Indices:
        """The indices in the result of window q in phase p + j."""
        position = values.flat_index(self.axis.dims[0], q) * self.stride + self.p
        return values.unflatten(dim, position + values.flat_index(self.dim, j))

    def follows(self, last: Phase) -> bool:
        """Whether it is phase p + width of another one, and goes on as that does."""
        return (
            (self.p, self.axis) == (last.p + last.width, last.axis)
            and len(self.taps) > 0
            and self.taps.start == last.taps.start + last.width
        )


def _phases(
    ctx: Lowering, axis: Axis, low: int, extent: Poly, given: Poly
) -> tuple[list[Phase], Width]:
    """The phases of the transpose of windows over `extent` elements, and how to pad `given` ones.

    Element k of window o was h = o*stride + k*dilation - low. So h = q*stride + p has the taps k
    for which p + low - k*dilation is a multiple of the stride, each in window q plus a constant.
    """
    s, d = axis.stride, axis.dilation
    phases, before, after = list[Phase](), 0, poly(0)
    for p in range(s):
        first = next((k for k in range(axis.size) if (p + low - k * d) % s == 0), axis.size)
        taps = range(first, axis.size, s // gcd(s, d))
        count = ctx.params.opaque("floordiv", extent + (s - 1 - p), s)
        start = (p + low - first * d) // s
        phases.append(Phase(p, s, taps, Axis(count, len(taps), 1, -d // gcd(s, d), start)))
        if taps:
            before = max(before, -((p + low - taps[-1] * d) // s))
            after = ctx.params.opaque("max", after, count + start - given)
    shifted = (replace(f, axis=replace(f.axis, start=f.axis.start + before)) for f in phases)
    return _together([f for f in shifted if f.axis.count != poly(0)]), (poly(before), after)


def _together(phases: Sequence[Phase]) -> list[Phase]:
    """Phases in runs, of which each is computed at once: of a stride of 16 there are three."""
    runs = list[Phase]()
    for phase in phases:
        if runs and phase.follows(runs[-1]):
            runs[-1] = replace(runs[-1], width=runs[-1].width + 1)
        else:
            runs.append(phase)
    return runs


@lowers("Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNativeBackpropInput")
def _transposed(ctx: Lowering, node: Node) -> Value:
    """x[n, h, (g, r)] = sum over k, m of y[n, o, (g, m)] * w[k, r, (g, m)], h = o*stride + k*...

    A phase of h is a dense convolution of y, so that nothing is multiplied by zero.
    """
    batch, *extents, channels = _sizes(ctx, node)
    w = _filter(ctx, node, channels, ctx.input(1))
    axes, widths = _axes(ctx, node, extents, [s.const for s in w.shape[:-3]])
    if not all(low.is_const for low, _ in widths):
        raise ctx.unsupported("the padding depends on the size: fix that, or use VALID")
    found = _channels_last(node, ctx.input(2)).shape
    for size, given in zip((batch, *(axis.count for axis in axes)), found, strict=False):
        if size != given:
            ctx.equal(size.to_affine(), given.to_affine())
    y = _grouped(_channels_last(node, ctx.input(2)), w.dims[-2], w.dims[-1])
    along = [
        _phases(ctx, axis, low.const, extent, given)
        for axis, (low, _), extent, given in zip(axes, widths, extents, y.shape[1:], strict=False)
    ]
    y = pad(ctx, y, [_NONE, *(width for _, width in along), _NONE, _NONE], zero(y.dtype))
    dims = (y.dims[0], *map(values.dim_of, extents), w.dims[-2], w.dims[-3])
    atoms = tuple(a for dim in dims for a in dim)
    name = ctx.new_tensor(wide(y.dtype), atoms)
    for phases in product(*(phases for phases, _ in along)):
        _write_phase(ctx, name, dims, phases, y, w)
    return _as_given(node, _ungrouped(load(name, wide(y.dtype), dims, atoms)))


def _sizes(ctx: Lowering, node: Node) -> list[Poly]:
    """The shape of the result, channels last; TF may be given only the spatial part."""
    sizes, w, y = elements(ctx.host(0)), ctx.input(1), ctx.input(2)
    for size in sizes:
        ctx.nonnegative(size)
    if len(sizes) < y.rank:
        return [y.shape[0], *sizes, w.shape[-2]]
    return [sizes[0], *sizes[2:], sizes[1]] if channels_first(node) else sizes


def _write_phase(
    ctx: Lowering, name: str, dims: Sequence[Dim], phases: Sequence[Phase], y: Value, w: Value
) -> None:
    """Define the results of one run along every dimension: x[n, q*stride + p + j, g, r].

    Its phases j are so many more channels of the result.
    """
    back = _taps(w, phases)
    terms, kept = _products(ctx, _windows(y, [phase.axis for phase in phases]), back)
    outer, inner = terms.dims[:kept], terms.dims[kept:]

    def place(i: Indices) -> Indices:
        n, *spatial, g, last = Value(y.dtype, outer, terms.at).split(i)
        *inside, r = Value(y.dtype, (*(phase.dim for phase in phases), dims[-1]), w.at).split(last)
        places = zip(phases, dims[1:], spatial, inside, strict=False)
        return (*n, *(a for f, dim, q, j in places for a in f.place(dim, q, j)), *g, *r)

    ctx.reduce_into(
        name,
        "add",
        [a for dim in outer for a in dim],
        [a for dim in inner for a in dim],
        lambda i, r: terms.at((*i, *r)),
        place,
    )


def _taps(w: Value, phases: Sequence[Phase]) -> Value:
    """w[k, r, g, m] as [t, m, g, (j, r)], where phase j has the taps k = first + j + t*step."""
    *kernel, channels, groups, multiple = w.dims
    taps = [values.dim_of(len(phase.taps)) for phase in phases]
    last = (*(a for phase in phases for a in phase.dim), *channels)
    split = Value(w.dtype, (*taps, multiple, groups, *(f.dim for f in phases), channels), w.at)

    def source(i: Indices) -> Indices:
        *found, r = split.split(i)
        steps, (m, g), inside = (
            found[: len(phases)],
            found[len(phases) :][:2],
            found[-len(phases) :],
        )
        k = [
            values.unflatten(
                dim,
                values.flat_index(along, t) * phase.taps.step
                + values.flat_index(phase.dim, j)
                + phase.taps.start,
            )
            for dim, along, phase, t, j in zip(kernel, taps, phases, steps, inside, strict=True)
        ]
        return (*(a for atoms in k for a in atoms), *r, *g, *m)

    return w.view([*taps, multiple, groups, last], source)


# Pools


@lowers("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D")
def _pool(ctx: Lowering, node: Node) -> Value:
    """The greatest element of every window, or the mean of those that are no padding."""
    x, ksize = _channels_last(node, ctx.input(0)), node.attr_ints("ksize")
    size = ksize[2:] if channels_first(node) else ksize[1:-1]
    if np.prod(ksize) != np.prod(size):
        raise ctx.unsupported("a window has more than one channel, or image: ksize must be 1 there")
    axes, widths = _axes(ctx, node, x.shape[1:-1], size)
    if node.op.startswith("Max"):
        return _as_given(node, _slide(ctx, x, axes, widths, "max", identity("max", x.dtype)))
    total = _slide(ctx, x, axes, widths, "add", zero(x.dtype))
    divisor = fill(x.dtype, [()] * x.rank, Const(float(np.prod(size)), x.dtype))
    if widths != [_NONE] * len(widths):
        ones = fill(x.dtype, [(), *x.dims[1:-1], ()], Const(1.0, x.dtype))
        divisor = _slide(ctx, ones, axes, widths, "add", zero(x.dtype))
    return _as_given(node, ctx.map(lambda s, c: call("div", s, c), total, divisor))


def _slide(
    ctx: Lowering,
    x: Value,
    axes: Sequence[Axis],
    widths: Sequence[Width],
    op: ReduceOp,
    filler: Expr,
) -> Value:
    """Reduction of every window of x, channels apart."""
    windows = _windows(pad(ctx, x, [_NONE, *widths, _NONE], filler), axes)
    return ctx.reduce(op, windows, range(len(axes) + 1, windows.rank - 1), keep=False)
