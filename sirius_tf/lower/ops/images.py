# SPDX-License-Identifier: Apache-2.0
"""Rules of ops that rearrange or resize images: views of finer dimensions, and interpolation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.dtypes import zero
from sirius_tf.ir.expr import Expr, call
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import elements, pad
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.ops.indexing import gather
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.value import Value


def _parts(ctx: Lowering, size: Poly, count: int) -> Poly:
    """The size of each of a number of equal parts."""
    each = size.exact_div(count)
    if each is None:
        raise ctx.unsupported(f"a size of {size} is not known to be a multiple of {count}: fix it")
    return each


def _channels_last(ctx: Lowering) -> None:
    if ctx.node.attrs.get("data_format", "NHWC") not in ("NHWC", b"NHWC"):
        raise ctx.unsupported("its data_format is not NHWC: channels must be last")


@lowers("DepthToSpace")
def _depth_to_space(ctx: Lowering, node: Node) -> Value:
    """y[n, h*s + a, w*s + b, c] = x[n, h, w, (a*s + b)*C + c]"""
    _channels_last(ctx)
    x, s = ctx.input(0), node.attr_int("block_size")
    n, h, w, c = x.shape
    each = _parts(ctx, c, s * s)
    split = values.transpose(values.reshape(x, (n, h, w, s, s, each)), (0, 1, 3, 2, 4, 5))
    return values.reshape(split, (n, h * s, w * s, each))


@lowers("SpaceToDepth")
def _space_to_depth(ctx: Lowering, node: Node) -> Value:
    """y[n, h, w, (a*s + b)*C + c] = x[n, h*s + a, w*s + b, c]"""
    _channels_last(ctx)
    x, s = ctx.input(0), node.attr_int("block_size")
    n, h, w, c = x.shape
    rows, columns = _parts(ctx, h, s), _parts(ctx, w, s)
    split = values.reshape(x, (n, rows, s, columns, s, c))
    return values.reshape(
        values.transpose(split, (0, 1, 3, 2, 4, 5)), (n, rows, columns, c * (s * s))
    )


@lowers("SpaceToBatchND")
def _space_to_batch(ctx: Lowering, node: Node) -> Value:
    """y[(a, b, ..., n), h, w, ...] = x[n, h*s + a, w*t + b, ...], x padded."""
    x, blocks, flat = ctx.input(0), ctx.host_ints(1), elements(ctx.host(2))
    none = [(poly(0), poly(0))]
    widths = none + list(zip(flat[::2], flat[1::2], strict=True))
    x = pad(ctx, x, widths + none * (x.rank - len(widths)), zero(x.dtype))
    count, spatial, rest = len(blocks), x.shape[1 : len(blocks) + 1], x.shape[len(blocks) + 1 :]
    sizes = [_parts(ctx, n, s) for n, s in zip(spatial, blocks, strict=True)]
    pairs = [part for pair in zip(sizes, blocks, strict=True) for part in pair]
    split = values.reshape(x, (x.shape[0], *pairs, *rest))
    inner, outer = range(2, 2 * count + 1, 2), range(1, 2 * count, 2)
    moved = values.transpose(split, (*inner, 0, *outer, *range(2 * count + 1, split.rank)))
    batch = x.shape[0] * int(np.prod(blocks))
    return values.reshape(moved, (batch, *sizes, *rest))


@lowers("BatchToSpaceND")
def _batch_to_space(ctx: Lowering, node: Node) -> Value:
    """y[n, h*s + a, w*t + b, ...] = x[(a, b, ..., n), h, w, ...], y cropped."""
    x, blocks, crops = ctx.input(0), ctx.host_ints(1), elements(ctx.host(2))
    count = len(blocks)
    batch = _parts(ctx, x.shape[0], int(np.prod(blocks)))
    spatial, rest = x.shape[1 : count + 1], x.shape[count + 1 :]
    split = values.reshape(x, (*blocks, batch, *x.shape[1:]))
    pairs = [axis for k in range(count) for axis in (count + 1 + k, k)]
    moved = values.transpose(split, (count, *pairs, *range(2 * count + 1, split.rank)))
    sizes = [n * s for n, s in zip(spatial, blocks, strict=True)]
    y = values.reshape(moved, (batch, *sizes, *rest))
    for axis, (low, high) in enumerate(zip(crops[::2], crops[1::2], strict=True), 1):
        for size in (low, high, y.shape[axis] - low - high):
            ctx.nonnegative(size)
        y = values.slice_dim(y, axis, low, y.shape[axis] - low - high)
    return y


def _sources(node: Node, given: int, made: int) -> npt.NDArray[np.float32]:
    """The position in the image of every row, or column, of the result, in float32 as TF computes
    it."""
    corners = bool(node.attrs.get("align_corners")) and made > 1
    ratio = (given - 1, made - 1) if corners else (given, made)
    scale = np.float32(ratio[0]) / np.float32(max(ratio[1], 1))
    places = np.arange(made, dtype=np.float32)
    if not node.attrs.get("half_pixel_centers"):
        return np.asarray(places * scale, np.float32)
    shift = np.float32(0.0 if node.op == "ResizeNearestNeighbor" else 0.5)
    return np.asarray((places + np.float32(0.5)) * scale - shift, np.float32)


def _sizes(ctx: Lowering, given: Poly, made: Poly) -> tuple[int, int]:
    if not given.is_const or not made.is_const or not given.const or not made.const:
        raise ctx.unsupported(
            "the sizes of the image and of the result must be constant, and not 0"
        )
    return given.const, made.const


@lowers("ResizeNearestNeighbor")
def _nearest(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    ctx.nonnegative(x.shape[3] - 1)  # TF wants a channel
    for axis, made in enumerate(elements(ctx.host(1)), 1):
        factor = made.exact_div(x.shape[axis])
        if factor is not None and factor.is_const and _repeats(node, factor.const):
            x = _repeated(x, axis, factor.const)
            continue
        given, count = _sizes(ctx, x.shape[axis], made)
        places = _sources(node, given, count)
        # half away from zero, as C's roundf
        places = np.floor(places + np.float32(0.5) if node.attrs.get("align_corners") else places)
        places = np.clip(places, 0, given - 1).astype(np.int32)
        x = gather(ctx, x, ctx.constant(places), axis)
    return x


def _repeats(node: Node, factor: int) -> bool:
    """Whether each element just occurs `factor` times: i / factor must not be rounded down."""
    exact = factor & (factor - 1) == 0 or bool(node.attrs.get("half_pixel_centers"))
    return factor > 0 and exact and not node.attrs.get("align_corners")


def _repeated(x: Value, axis: int, factor: int) -> Value:
    dims, sources = list(x.dims), [_itself] * x.rank
    dims[axis] = (*dims[axis], *values.dim_of(factor))
    width = len(x.dims[axis])
    sources[axis] = lambda i: i[:width]
    return x.by_dim(dims, sources)


def _itself(i: values.Indices) -> values.Indices:
    return i


@lowers("ResizeBilinear")
def _bilinear(ctx: Lowering, node: Node) -> Value:
    """Columns, then rows: x[low] + (x[high] - x[low]) * f."""
    x, (rows, columns) = ctx.input(0), elements(ctx.host(1))
    ctx.nonnegative(x.shape[3] - 1)  # TF wants a channel
    if x.dtype != "float32":
        x = ctx.map(lambda e: call("cast", e, dtype="float32"), x, dtype="float32")
    sizes = {axis: _sizes(ctx, x.shape[axis], made) for axis, made in ((2, columns), (1, rows))}
    if all(given == count for given, count in sizes.values()):
        return x  # TF copies it: interpolation would make NaN of infinities
    for axis, (given, count) in sizes.items():
        places = _sources(node, given, count)
        floor = np.floor(places)
        x = _interpolated(ctx, x, axis, floor, np.ceil(places), places - floor)
    return x


def _interpolated(
    ctx: Lowering,
    x: Value,
    axis: int,
    low: npt.NDArray[np.float32],
    high: npt.NDArray[np.float32],
    fraction: npt.NDArray[np.float32],
) -> Value:
    last = x.shape[axis].const - 1
    ends = [np.clip(places, 0, last).astype(np.int32) for places in (low, high)]
    a, b = (gather(ctx, x, ctx.constant(places), axis) for places in ends)
    f = ctx.constant(fraction)
    for _ in range(x.rank - 1 - axis):
        f = values.insert_dim(f, f.rank)

    def between(p: Expr, q: Expr, t: Expr) -> Expr:
        return call("add", p, call("mul", call("sub", q, p), t))

    return ctx.map(between, a, b, f, dtype="float32")
