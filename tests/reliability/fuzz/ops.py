# SPDX-License-Identifier: Apache-2.0
"""How each op is drawn: OPS has a function of a drawing and the name of an op."""

from __future__ import annotations

from collections.abc import Callable

from tensorflow.python.framework import op_def_registry

from sirius_tf.lower.ops.elementwise import _FORMULAS, _FUNCTIONS
from tests.reliability.fuzz.drawing import CONSTANT, Drawing, M, N, Undrawable

OPS: dict[str, Callable[[Drawing, str], object]] = {}


def draws(*ops: str):
    """Register how some ops are drawn."""

    def register(draw):
        OPS.update(dict.fromkeys(ops, draw))
        return draw

    return register


def axis_of(d: Drawing, x) -> int:
    axis = d.number(0, x.shape.rank - 1)
    return axis if d.chance(0.7) else axis - x.shape.rank


# Elementwise


@draws(*_FUNCTIONS, *(set(_FORMULAS) - {"ClipByValue"}), "LeakyRelu")
def elementwise(d: Drawing, op: str):
    definition = op_def_registry.get(op)
    typed = any(a.name == "T" for a in definition.attr)
    dtype = d.dtype_for(op) if typed else "bool"
    x = d.pick(dtype)
    args = [x] + [d.beside(x) for _ in definition.input_arg[1:]]
    d.rng.shuffle(args)
    d.op(op, *args, **({"alpha": d.one((0.1, 0.3, 1.5))} if op == "LeakyRelu" else {}))


@draws("ApproximateEqual")
def approximate(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op))
    d.op(op, x, d.same(x), tolerance=d.one((1e-5, 0.5)))


@draws("ClipByValue")
def clip(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op))
    shape = [] if d.chance(0.6) else None
    d.op(op, x, d.same(x, shape=shape), d.same(x, shape=shape))


@draws("Select", "SelectV2")
def select(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op))
    if op == "SelectV2":
        return d.op(op, d.beside(x, "bool"), x, d.beside(x))
    rows = x.shape.rank and d.chance(0.4)
    condition = d.same(x, "bool", x.shape.as_list()[:1] if rows else None)
    return d.op(op, condition, x, d.same(x))


@draws("BiasAdd")
def bias_add(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op), 2, 5)
    first = d.chance(0.2) and x.shape.rank > 2
    size = x.shape.as_list()[1 if first else -1]
    d.op(op, x, d.same(x, shape=[size]), data_format="NCHW" if first else "NHWC")


@draws("AddN")
def add_n(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op))
    d.op(op, [x, *(d.same(x) for _ in range(d.number(0, 3)))])


@draws("Cast")
def cast(d: Drawing, op: str):
    d.cast(d.pick(), d.dtype())


@draws("Identity", "StopGradient", "PreventGradient", "Snapshot", "ZerosLike", "OnesLike")
def alike(d: Drawing, op: str):
    d.op(op, d.pick(d.dtype_for(op)))


@draws("IdentityN")
def alike_n(d: Drawing, op: str):
    d.op(op, [d.pick() for _ in range(d.number(1, 3))])


@draws("EnsureShape")
def ensure_shape(d: Drawing, op: str):
    x = d.pick()
    d.op(op, x, shape=x.shape)


@draws("Const")
def const(d: Drawing, op: str):
    d.made(d.numbers([min(s, 6) for s in d.shape()], d.dtype()))


@draws("CheckNumerics", "CheckNumericsV2")
def check_numerics(d: Drawing, op: str):
    d.op(op, d.pick(d.dtype_for(op)), message="fuzz")


# Reductions and contractions


@draws("Sum", "Mean", "Prod", "Max", "Min", "All", "Any", "EuclideanNorm")
def reduction(d: Drawing, op: str):
    x = d.pick("bool" if op in ("All", "Any") else d.dtype_for(op))
    axes = [k for k in range(x.shape.rank) if d.chance(0.5)]
    axes = [k - x.shape.rank if d.chance(0.3) else k for k in axes]
    d.op(op, x, d.const(axes, d.one(("int32", "int64"))), keep_dims=d.chance(0.4))


@draws("L2Loss")
def l2_loss(d: Drawing, op: str):
    d.op(op, d.pick(d.dtype_for(op)))


@draws("Softmax", "LogSoftmax")
def softmax(d: Drawing, op: str):
    d.op(op, d.pick(d.dtype_for(op), 1))


@draws("MatMul")
def matmul(d: Drawing, op: str):
    a = d.pick(d.dtype_for(op), 2, 2)
    flags = {"transpose_a": d.chance(0.3), "transpose_b": d.chance(0.3)}
    k = a.shape.as_list()[0 if flags["transpose_a"] else 1]
    shape = [k, d.size()]
    d.op(op, a, d.same(a, shape=shape[::-1] if flags["transpose_b"] else shape), **flags)


@draws("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def batch_matmul(d: Drawing, op: str):
    v3 = op == "BatchMatMulV3"
    dtype = d.dtype_for(op, "Ta" if v3 else "T")
    a = d.pick(dtype, 2, 4)
    flags = {"adj_x": d.chance(0.3), "adj_y": d.chance(0.3)}
    *batch, m, k = a.shape.as_list()
    shape = [m if flags["adj_x"] else k, d.size()]
    if op != "BatchMatMul" and d.chance(0.5):
        batch = d.one(([], [1] * len(batch), batch[1:]))
    b = d.same(a, shape=[*batch, *(shape[::-1] if flags["adj_y"] else shape)])
    d.op(op, a, b, **flags, **({"Tout": dtype} if v3 else {}))


_EQUATIONS = (
    *("ij,jk->ik", "bij,bjk->bik", "bij,jk->bik", "ij->ji", "bi,bj->bij", "i,j->ij", "bij->bj"),
    *("bhi,bhj->bij", "...i,ij->...j", "bqhd,bkhd->bhqk", "ij,ij->", "bij,bj->bi", "abc,cd->dab"),
)


@draws("Einsum")
def einsum(d: Drawing, op: str):
    equation, dtype = d.one(_EQUATIONS), d.dtype_for(op)
    first, *others = equation.split("->")[0].split(",")
    rank = len(first.replace("...", "xy"))
    x = d.pick(dtype, rank, rank)
    sizes = dict(zip(first.replace("...", "xy"), x.shape.as_list(), strict=True))
    args = [x]
    for term in others:
        shape = [sizes.setdefault(label, d.size()) for label in term]
        args.append(d.same(x, shape=shape))
    d.op(op, args, equation=equation)


@draws("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def batch_norm(d: Drawing, op: str):
    dtype = d.dtype_for(op)
    x = d.pick(dtype, 4, 4)
    own = "float32" if op != "FusedBatchNorm" else dtype
    vectors = [d.numbers(x.shape.as_list()[-1:], own) for _ in range(3)]
    spread = d.const(d.rng.random(x.shape.as_list()[-1:]) + 0.5, own)
    known = len(d.tensors)
    made = d.op(op, x, *vectors, spread, is_training=False, epsilon=0.001)
    del d.tensors[known:]  # TensorFlow leaves the other results as they are in memory
    d.made(made[0])


# Movement and shapes


@draws("Shape", "Size", "Rank")
def shape(d: Drawing, op: str):
    d.op(op, d.pick(), **({} if op == "Rank" else {"out_type": d.one(("int32", "int64"))}))


@draws("ShapeN")
def shapes(d: Drawing, op: str):
    x = d.pick()
    d.op(op, [x, d.same(x)], out_type="int32")


def scalar(d: Drawing, low: int, high: int, dtype: str = "int32"):
    """A number that is a constant, a size or an input."""
    kind = d.rng.random()
    if kind < 0.4:
        return d.const(d.number(low, high), dtype)
    if kind < 0.7:
        return d.input([], dtype, low, high + 1)
    return d.extent(d.one((N, M)), dtype)


@draws("Range")
def range_(d: Drawing, op: str):
    dtype, step = d.one(("int32", "int64")), d.one((1, 1, 2, 3, -1))
    ends = [scalar(d, 0, 3, dtype), scalar(d, 0, 8, dtype)]
    d.op(op, *(ends if step > 0 else ends[::-1]), d.const(step, dtype))


@draws("LinSpace")
def lin_space(d: Drawing, op: str):
    dtype = d.dtype_for(op)
    d.op(op, d.new([], dtype), d.new([], dtype), scalar(d, 1, 5))


@draws("Reshape")
def reshape(d: Drawing, op: str):
    x = d.pick()
    sizes, kind = x.shape.as_list(), d.rng.random()
    if kind < 0.25 or not sizes:
        return d.op(op, x, d.const([-1] if d.chance(0.6) else [1, -1], "int32"))
    if kind < 0.5 and len(sizes) > 1:  # two become one
        k = d.number(0, len(sizes) - 2)
        sizes[k : k + 2] = [-1]
    elif kind < 0.75:  # one becomes two
        k, factor = d.number(0, len(sizes) - 1), d.one((1, 2, 3))
        if (sizes[k] > CONSTANT and factor > 1) or sizes[k] % factor:
            raise Undrawable("not a multiple")
        sizes[k : k + 1] = [sizes[k] // factor, factor]
    else:
        d.rng.shuffle(sizes)
    made = [d.const(-1, "int32") if s == -1 else d.extent(s) for s in sizes]
    return d.op(op, x, d.op("Pack", made, axis=0))


@draws("Transpose")
def transpose(d: Drawing, op: str):
    x = d.pick()
    d.op(op, x, d.const(d.rng.permutation(x.shape.rank), "int32"))


@draws("ExpandDims")
def expand_dims(d: Drawing, op: str):
    x = d.pick(None, 0, 4)
    d.op(op, x, d.const(d.number(-x.shape.rank - 1, x.shape.rank), "int32"))


@draws("Squeeze")
def squeeze(d: Drawing, op: str):
    x = d.pick(None, 1, where=lambda s: 1 in s, new=[1, d.size()])
    d.op(op, x, squeeze_dims=[x.shape.as_list().index(1)])


@draws("StridedSlice")
def strided_slice(d: Drawing, op: str):
    x = d.pick(None, 1)
    begin, end, step = [], [], []
    masks = dict.fromkeys(("begin", "end", "ellipsis", "new_axis", "shrink_axis"), 0)
    for k in range(d.number(1, x.shape.rank)):
        begin.append(d.number(-3, 2))
        end.append(d.number(-2, 5))
        step.append(d.one((1, 1, 1, 2, -1, -2)))
        for name, p in (("begin", 0.3), ("end", 0.4), ("new_axis", 0.05), ("shrink_axis", 0.15)):
            masks[name] |= d.chance(p) << k
        if not masks["ellipsis"] and d.chance(0.05):
            masks["ellipsis"] = 1 << k
        if masks["shrink_axis"] >> k & 1:
            step[-1] = 1
            begin[-1] = d.number(-1, 0)
    vectors = [d.const(v, "int32") for v in (begin, end, step)]
    if d.chance(0.2) and len(begin) == 1:
        vectors[1] = d.op("Pack", [scalar(d, -2, 4)], axis=0)
    d.op(op, x, *vectors, **{f"{k}_mask": v for k, v in masks.items()})


@draws("Slice")
def slice_(d: Drawing, op: str):
    x = d.pick(None, 1)
    sizes = x.shape.as_list()
    begin = [d.number(0, 1) if s else 0 for s in sizes]
    count = [d.one((-1, -1, 1)) if s > 1 else s and -1 for s in sizes]
    dtype = d.one(("int32", "int64"))
    d.op(op, x, d.const(begin, dtype), d.const(count, dtype))


@draws("Pack")
def pack(d: Drawing, op: str):
    x = d.pick(None, 0, 3)
    parts = [x, *(d.same(x) for _ in range(d.number(0, 3)))]
    d.op(op, parts, axis=d.number(-x.shape.rank - 1, x.shape.rank))


@draws("ConcatV2")
def concat(d: Drawing, op: str):
    x = d.pick(None, 1)
    axis, parts = axis_of(d, x), [x]
    for _ in range(d.number(1, 3)):
        shape = x.shape.as_list()
        shape[axis] = d.size() if d.chance(0.4) else shape[axis]
        parts.append(d.same(x, shape=shape))
    d.op(op, parts, d.const(axis, "int32"))


def constant_axis(d: Drawing):
    """A tensor, and an axis of a size that is constant and not 0."""
    x = d.pick(None, 1, where=lambda s: any(0 < n <= CONSTANT for n in s), new=[d.size(), 4])
    axes = [k for k, n in enumerate(x.shape.as_list()) if 0 < n <= CONSTANT]
    return x, d.one(axes)


@draws("Unpack")
def unpack(d: Drawing, op: str):
    x, axis = constant_axis(d)
    count = x.shape.as_list()[axis]
    if count > 6:
        raise Undrawable("many parts")
    d.op(op, x, num=count, axis=axis - x.shape.rank if d.chance(0.3) else axis)


@draws("Split")
def split(d: Drawing, op: str):
    x, axis = constant_axis(d)
    count = d.one([k for k in (1, 2, 3) if x.shape.as_list()[axis] % k == 0])
    d.op(op, d.const(axis, "int32"), x, num_split=count)


@draws("SplitV")
def split_v(d: Drawing, op: str):
    x, axis = constant_axis(d)
    first = d.number(0, x.shape.as_list()[axis])
    sizes = [first, -1 if d.chance(0.5) else x.shape.as_list()[axis] - first]
    d.op(op, x, d.const(sizes, d.one(("int32", "int64"))), d.const(axis, "int32"), num_split=2)


@draws("Pad", "PadV2", "MirrorPad")
def pad(d: Drawing, op: str):
    x = d.pick(None, 1)
    widths = d.rng.integers(0, 2 if op == "MirrorPad" else 3, (x.shape.rank, 2))
    padding = d.const(widths, d.one(("int32", "int64")))
    if op == "MirrorPad":
        return d.op(op, x, padding, mode=d.one(("REFLECT", "SYMMETRIC")))
    return d.op(op, x, padding, *([d.numbers([], x.dtype.name)] if op == "PadV2" else []))


@draws("ReverseV2")
def reverse(d: Drawing, op: str):
    x = d.pick(d.dtype_for(op))
    d.op(op, x, d.const([k for k in range(x.shape.rank) if d.chance(0.5)], "int32"))


@draws("Roll")
def roll(d: Drawing, op: str):
    x, axis = constant_axis(d)
    d.op(op, x, d.const([d.number(-7, 7)], "int32"), d.const([axis], "int32"))


@draws("Tile")
def tile(d: Drawing, op: str):
    x = d.pick(None, 1, 3)
    counts = [scalar(d, 0, 2) if d.chance(0.15) else d.const(d.one((1, 1, 2, 3)), "int32")]
    counts += [d.const(d.one((1, 1, 2)), "int32") for _ in range(x.shape.rank - 1)]
    d.op(op, x, d.op("Pack", counts, axis=0))


@draws("Fill")
def fill(d: Drawing, op: str):
    dtype = d.dtype()
    d.op(op, d.extents(d.shape(0, 3)), d.pick(dtype, 0, 0))


@draws("BroadcastTo", "BroadcastArgs")
def broadcast(d: Drawing, op: str):
    x = d.pick(None, 0, 3)
    target = [n if n != 1 or d.chance(0.5) else d.size() for n in x.shape.as_list()]
    if d.chance(0.3):
        target.insert(0, d.size())
    if op == "BroadcastTo":
        return d.op(op, x, d.extents(target))
    return d.op(op, d.op("Shape", x, out_type="int32"), d.extents(target))


@draws("InvertPermutation")
def invert(d: Drawing, op: str):
    d.op(op, d.const(d.rng.permutation(d.number(1, 5)), "int32"))
