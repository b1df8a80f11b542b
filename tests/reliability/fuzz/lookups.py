# SPDX-License-Identifier: Apache-2.0
"""How ops are drawn whose subscripts are data, and those of rows, diagonals, images and windows."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.reliability.fuzz.drawing import CONSTANT, Drawing, M, N, Undrawable
from tests.reliability.fuzz.ops import axis_of, draws, scalar


@draws("GatherV2", "Gather")
def gather(d: Drawing, op: str):
    x, dtype = d.pick(None, 1, 3), d.one(("int32", "int64"))
    if op == "Gather":
        return d.op(op, x, d.positions(d.shape(0, 2), x.shape.as_list()[0], dtype))
    axis = axis_of(d, x)
    place = axis % x.shape.rank
    batch = d.number(0, place) if d.chance(0.3) else 0
    shape = [*x.shape.as_list()[:batch], *d.shape(0, 2)]
    where = d.positions(shape, x.shape.as_list()[place], dtype)
    return d.op(op, x, where, d.const(axis, "int32"), batch_dims=batch)


@draws("GatherNd")
def gather_nd(d: Drawing, op: str):
    x, dtype = d.pick(None, 1, 3), d.one(("int32", "int64"))
    depth, shape = d.number(1, x.shape.rank), d.shape(0, 2)
    columns = [d.positions([*shape, 1], n, dtype) for n in x.shape.as_list()[:depth]]
    where = d.op("ConcatV2", columns, d.const(-1, "int32")) if depth > 1 else columns[0]
    d.op(op, x, where)


@draws("ReverseSequence")
def reverse_sequence(d: Drawing, op: str):
    x = d.pick(None, 2)
    batch, axis = (int(k) for k in d.rng.permutation(x.shape.rank)[:2])
    size = x.shape.as_list()[axis]
    lengths = d.positions([x.shape.as_list()[batch]], size, d.one(("int32", "int64")))
    d.op(op, x, lengths, seq_dim=axis, batch_dim=batch)


@draws("OneHot")
def one_hot(d: Drawing, op: str):
    dtype = d.dtype()
    where = d.pick(d.one(("int32", "int64", "uint8")), 0, 3)
    values = d.new([], dtype), d.new([], dtype)
    d.op(op, where, scalar(d, 0, 5), *values, axis=d.number(-1, where.shape.rank))


@draws("Cumsum", "Cumprod")
def scan(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op), 1)
    flags = {"exclusive": d.chance(0.3), "reverse": d.chance(0.3)}
    d.op(op, x, d.const(axis_of(d, x), "int32"), **flags)


@draws("Bucketize")
def bucketize(d: Drawing, op: str):
    # no bound is a quotient of small numbers, of which TensorFlow rounds some as it likes
    bounds = sorted(d.rng.integers(-8, 9, d.number(0, 5)) / 2 + 0.0137)
    d.op(op, d.pick(d.dtype_for(op)), boundaries=[float(b) for b in bounds])


@draws("LowerBound", "UpperBound")
def bound(d: Drawing, op: str):
    rows = d.size()
    x = d.pick(d.dtype_for(op), 2, 2, where=lambda s: s[0] == rows, new=[rows, d.size()])
    ends = d.numbers([1, d.number(1, 6)], x.dtype.name)
    row = d.const(sorted(tf.get_static_value(ends)[0].tolist()), x.dtype.name)
    row = d.op("BroadcastTo", row, d.extents([rows, row.shape.as_list()[0]]))
    d.op(op, row, x, out_type=d.one(("int32", "int64")))


@draws("DenseBincount")
def bincount(d: Drawing, op: str):
    index = d.one(("int32", "int64"))
    x = d.positions(d.shape(1, 2), d.one((5, 3)), index)
    dtype = d.dtype_for(op)
    weights = d.same(x, dtype) if d.chance(0.4) else d.const([], dtype)
    flags = {"binary_output": weights.shape.rank == 1 and d.chance(0.3)}
    d.op(op, x, scalar(d, 0, 6, index), weights, **flags)


@draws("ArgMax", "ArgMin")
def arg(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op), 1)
    out = d.one(("int32", "int64"))
    d.op(op, x, d.const(axis_of(d, x), "int32"), output_type=out)


@draws("TopKV2")
def top_k(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op), 1)
    d.op(op, x, d.const(d.number(0, 3), "int32"))


_SCATTERS = ("Update", "Add", "Sub", "Max", "Min")


@draws(*(f"TensorScatter{kind}" for kind in _SCATTERS), "ScatterNd")
def scatter(d: Drawing, op: str):
    attr = "T"
    x = d.pick(d.dtype_for(op, attr), 1, 3)
    sizes, index = x.shape.as_list(), d.one(("int32", "int64"))
    depth = d.number(1, x.shape.rank)
    each = depth > 1 and sizes[0] > CONSTANT and d.chance(0.6)
    rows = sizes[0] if each else d.number(0, 4)
    columns = [d.positions([rows, 1], n, index) for n in sizes[:depth]]
    if each:
        zero, one = d.const(0, index), d.const(1, index)
        own = d.op("Range", zero, d.extent(rows, index), one)
        columns[0] = d.op("ExpandDims", own, d.const(1, "int32"))
    where = d.op("ConcatV2", columns, d.const(1, "int32")) if depth > 1 else columns[0]
    updates = d.same(x, shape=[rows, *sizes[depth:]])
    if op == "ScatterNd":
        return d.op(op, where, updates, d.extents(sizes, index))
    return d.op(op, x, where, updates)


# Diagonals


@draws("MatrixBandPart")
def band_part(d: Drawing, op: str):
    bounds = [d.const(d.number(-1, 2), "int64") for _ in range(2)]
    d.op(op, d.pick(d.dtype_for(op), 2), *bounds)


@draws("MatrixDiag", "MatrixDiagV2", "MatrixDiagV3")
def diagonal(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op), 1, 3)
    later = [d.const(k, "int32") for k in (0, -1, -1)] + [d.numbers([], x.dtype.name)]
    d.op(op, x, *(later if op != "MatrixDiag" else []))


@draws("MatrixSetDiag", "MatrixSetDiagV2", "MatrixSetDiagV3")
def set_diagonal(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op), 2)
    *lead, rows, columns = x.shape.as_list()
    own = d.same(x, shape=[*lead, min(rows, columns)])
    d.op(op, x, own, *([d.const(0, "int32")] if op != "MatrixSetDiag" else []))


@draws("MatrixDiagPart", "MatrixDiagPartV2", "MatrixDiagPartV3")
def diagonal_part(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op), 2)
    later = [d.const(0, "int32"), d.numbers([], x.dtype.name)]
    d.op(op, x, *(later if op != "MatrixDiagPart" else []))


# Images and windows


@draws("DepthToSpace", "SpaceToDepth")
def depth_to_space(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op), 4, 4, new=[d.size(), *d.one(([2, 4, 4], [4, N, 8], [2, 2, 4]))])
    d.op(op, x, block_size=2)


@draws("SpaceToBatchND")
def space_to_batch(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op), 2, 3, new=[d.size(), 4, 3])
    pads = d.const([[d.number(0, 2), d.number(0, 2)]], "int32")
    d.op(op, x, d.const([2], "int32"), pads)


@draws("BatchToSpaceND")
def batch_to_space(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op), 2, 3, where=lambda s: s[0] % 2 == 0, new=[4, d.size(), 3])
    crops = d.const([[d.number(0, 1), d.number(0, 1)]], "int32")
    d.op(op, x, d.const([2], "int32"), crops)


@draws("ResizeNearestNeighbor", "ResizeBilinear")
def resize(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op), 4, 4, new=[d.size(), d.number(1, 5), d.number(1, 5), 3])
    size = d.const([d.number(1, 9), d.number(1, 9)], "int32")
    corners = d.chance(0.3)
    pixel = not corners and d.chance(0.5)
    d.op(op, x, size, align_corners=corners, half_pixel_centers=pixel)


@draws("RGBToHSV", "HSVToRGB")
def colors(d: Drawing, op: str):
    new = [*d.shape(1, 2), 3]
    d.op(op, d.pick(d.dtype_for(op), 1, 4, where=lambda s: s[-1] == 3, new=new))


@draws("AdjustContrastv2")
def contrast(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op), 3, 4, new=[d.size(), d.number(1, 5), d.number(1, 5), 3])
    d.op(op, x, d.same(x, "float32", []))


@draws(*(f"FakeQuantWithMinMax{ends}" for ends in ("Args", "Vars", "VarsPerChannel")))
def fake_quantization(d: Drawing, op: str):
    x = d.pick("float32", 1, where=lambda s: s[-1] <= CONSTANT, new=[*d.shape(), d.number(1, 5)])
    more = {"num_bits": d.number(2, 9), "narrow_range": d.chance(0.5)}
    low, high = -d.number(0, 4) / 2, d.number(1, 5) / 2
    if op.endswith("Args"):
        return d.op(op, x, min=low, max=high, **more)
    shape = x.shape.as_list()[-1:] if op.endswith("Channel") else []
    ends = (d.const(np.full(shape, end), "float32") for end in (low, high))
    return d.op(op, x, *ends, **more)


def image(d: Drawing, op: str, rank: int):
    """An image, channels last."""
    spatial = [d.one((N, M, 5, 8, 3)) for _ in range(rank)]
    shape = [d.one((N, 1, 2)), *spatial, d.one((1, 2, 4))]
    x = d.pick(d.dtype_for(op), rank + 2, rank + 2, new=shape)
    if not 0 < x.shape.as_list()[-1] <= CONSTANT:
        raise Undrawable("the channels must be constant")
    return x


def windows(d: Drawing, rank: int) -> dict[str, object]:
    stride = d.one((1, 1, 2))
    strides = [1, *[stride] * rank, 1]
    return {"strides": strides, "padding": d.one(("SAME", "VALID"))}


@draws("Conv2D", "Conv3D", "DepthwiseConv2dNative")
def convolution(d: Drawing, op: str):
    rank = 3 if "3D" in op else 2
    x, attrs = image(d, op, rank), windows(d, rank)
    channels = x.shape.as_list()[-1]
    groups = 2 if op == "Conv2D" and channels % 2 == 0 and d.chance(0.2) else 1
    reach = [d.number(1, 3) for _ in range(rank)]
    results = d.one((1, 2, 3)) * groups
    w = d.numbers([*reach, channels // groups, results], x.dtype.name)
    if rank == 2 and d.chance(0.2) and attrs["strides"] == [1] * 4:
        attrs["dilations"] = [1, 2, 2, 1]
    d.op(op, x, w, **attrs)


@draws("Conv2DBackpropInput", "Conv3DBackpropInputV2", "DepthwiseConv2dNativeBackpropInput")
def transposed(d: Drawing, op: str):
    rank = 3 if "3D" in op else 2
    y, attrs = image(d, op, rank), windows(d, rank)
    n, *spatial, channels = y.shape.as_list()
    reach, stride = [d.number(1, 3) for _ in range(rank)], attrs["strides"][1]
    depthwise = op.startswith("Depthwise")
    given = channels if depthwise else d.one((1, 2, 3))
    last = 1 if depthwise else channels
    w = d.numbers([*reach, given, last], y.dtype.name)
    rest = [0 if attrs["padding"] == "SAME" else max(k - stride, 0) for k in reach]
    sizes = [s * stride + r for s, r in zip(spatial, rest, strict=True)]
    if any(s > CONSTANT for s in spatial):
        x = [d.op("Mul", d.extent(s), d.const(stride, "int32")) for s in spatial]
        x = [d.op("AddV2", a, d.const(r, "int32")) for a, r in zip(x, rest, strict=True)]
        made = d.op("Pack", [d.extent(n), *x, d.const(given, "int32")], axis=0)
    else:
        made = d.extents([n, *sizes, given])
    d.op(op, made, w, y, **attrs)


@draws("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D")
def pool(d: Drawing, op: str):
    rank = 3 if "3D" in op else 2
    d.op(op, image(d, op, rank), ksize=[1, *[d.number(1, 3)] * rank, 1], **windows(d, rank))
