# SPDX-License-Identifier: Apache-2.0
"""Rules of ops that reduce: contractions, reductions, normalizations, windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import Affine, affine
from sirius_tf.ir.expr import Const, DType, Expr
from sirius_tf.ir.program import ReduceOp
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import axis_of, elements, pad, polys, scalar, zero
from sirius_tf.lower.registry import Lowering, call, lowers
from sirius_tf.lower.symbolic import Poly, poly
from sirius_tf.lower.value import Dim, Indices, Value

_REDUCTIONS: dict[str, ReduceOp] = {
    **{"Sum": "add", "Mean": "add", "Prod": "mul", "Max": "max", "Min": "min"},
    **{"All": "and", "Any": "or"},
}
_ON_HOST: dict[str, Callable[[Lowering, Poly, Poly], Poly]] = {
    "Sum": lambda _, a, b: a + b,
    "Prod": lambda _, a, b: a * b,
    "Max": lambda ctx, a, b: ctx.params.opaque("max", a, b),
    "Min": lambda ctx, a, b: ctx.params.opaque("min", a, b),
}


@lowers(*_REDUCTIONS)
def _reduction(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    axes = [axis_of(ctx, a, x.rank) for a in ctx.host_ints(1)]
    if not axes:
        return x
    host = ctx.known(x)
    start = {"Sum": [poly(0)], "Prod": [poly(1)]}.get(node.op, [])
    items = start + elements(host) if host is not None and x.rank == 1 else []
    if items and node.op in _ON_HOST:
        total, *rest = items
        for item in rest:
            total = _ON_HOST[node.op](ctx, total, item)
        shape = polys([total]) if node.attrs.get("keep_dims") else scalar(total)
        return ctx.from_host(shape, x.dtype)
    conditions = ctx.entry(x) if node.op in ("All", "Any") and len(axes) == x.rank else None
    if conditions is not None:
        dims = ((),) * (x.rank if node.attrs.get("keep_dims") else 0)
        combined = _combined(_REDUCTIONS[node.op], conditions.reshape(-1).tolist())
        return Value(x.dtype, dims, lambda i: combined)
    result = ctx.reduce(_REDUCTIONS[node.op], x, axes, bool(node.attrs.get("keep_dims")))
    if node.op != "Mean":
        return result
    count = poly(1)
    for axis in axes:
        count = count * x.shape[axis]
    divisor = call("cast", count.to_expr(), dtype=x.dtype)
    if count.is_const:
        divisor = Const(float(count.const), x.dtype)
    return ctx.map(lambda s: call("div", s, divisor, dtype=x.dtype), result)


@lowers("L2Loss", "EuclideanNorm")
def _squares(ctx: Lowering, node: Node) -> Value:
    """Half the sum of squares, or the root of it."""
    x, whole = ctx.input(0), node.op == "L2Loss"
    axes = range(x.rank) if whole else [axis_of(ctx, a, x.rank) for a in ctx.host_ints(1)]
    squares = Value(x.dtype, x.dims, lambda i: call("mul", x.at(i), x.at(i)))
    total = ctx.reduce("add", squares, list(axes), bool(node.attrs.get("keep_dims")))
    if whole:
        return ctx.map(lambda s: call("mul", s, Const(0.5, s.dtype)), total)
    return ctx.map(lambda s: call("sqrt", s), total)


def _combined(fn: str, conditions: Sequence[Expr]) -> Expr:
    """Conjunction or disjunction, of as few conditions as it needs."""
    neutral, decides = Const(fn == "and", "bool"), Const(fn != "and", "bool")
    result: Expr = neutral
    for condition in conditions:
        if decides in (condition, result):
            return decides
        if condition != neutral:
            result = condition if result == neutral else call(fn, result, condition)
    return result


@lowers("Softmax", "LogSoftmax")
def _softmax(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    axis = [x.rank - 1]
    top = ctx.reduce("max", x, axis, keep=True)
    shifted = ctx.map(lambda a, m: call("sub", a, m), x, top)
    powers = ctx.map(lambda a: call("exp", a), shifted)
    total = ctx.reduce("add", powers, axis, keep=True)
    if node.op == "Softmax":
        return ctx.map(lambda p, s: call("div", p, s), powers, total)
    return ctx.map(lambda a, s: call("sub", a, call("log", s)), shifted, total)


def _flag(node: Node, *names: str) -> bool:
    return any(bool(node.attrs.get(name)) for name in names)


@lowers("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def _matmul(ctx: Lowering, node: Node) -> Value:
    a, b = ctx.inputs()
    swap_a, swap_b = _flag(node, "transpose_a", "adj_x"), _flag(node, "transpose_b", "adj_y")
    a = _swapped(a) if swap_a else a
    b = _swapped(b) if swap_b else b
    k = values.meet(a.dims[-1], b.dims[-2], ctx.equal)
    m, n, atoms = a.dims[-2], b.dims[-1], k.atoms
    batches = [Value(v.dtype, v.dims[:-2], lambda i: Const(0, "int64")) for v in (a, b)]
    batch, _ = values.broadcast(batches, ctx.equal)
    left = values.broadcast_to(a, [*batch, m, a.dims[-1]], ctx.equal)
    right = values.broadcast_to(b, [*batch, b.dims[-2], n], ctx.equal)
    count = sum(len(d) for d in batch)
    dtype = node.dtypes[0]

    def at(i: Indices, r: Indices) -> Expr:
        i_batch, i_m, i_n = i[:count], i[count : count + len(m)], i[count + len(m) :]
        x = left.at((*i_batch, *i_m, *k.left(r)))
        y = right.at((*i_batch, *k.right(r), *i_n))
        if x.dtype != dtype:
            x, y = call("cast", x, dtype=dtype), call("cast", y, dtype=dtype)
        return call("mul", x, y)

    dims = [*batch, m, n]
    return ctx.contract("add", dtype, dims, tuple(x for d in dims for x in d), atoms, at)


def _swapped(x: Value) -> Value:
    perm = list(range(x.rank))
    perm[-2:] = [x.rank - 1, x.rank - 2]
    return values.transpose(x, perm)


@lowers("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def _batch_norm(ctx: Lowering, node: Node) -> list[Value]:
    if node.attrs.get("is_training", True):
        raise ctx.unsupported("is_training")
    x, *statistics = ctx.inputs()
    if _channels_first(node):
        for _ in range(x.rank - 2):
            statistics = [values.insert_dim(s, s.rank) for s in statistics]
    epsilon = node.attr_float("epsilon")

    def fn(e: Expr, scale: Expr, offset: Expr, mean: Expr, variance: Expr) -> Expr:
        factor = call("rsqrt", call("add", variance, Const(epsilon, variance.dtype)))
        factor = call("mul", factor, scale)
        return call("add", call("mul", call("sub", e, mean), factor), offset)

    return [ctx.map(fn, x, *statistics)] + ctx.inputs()[3:5] * 2


def _channels_first(node: Node) -> bool:
    return node.attrs.get("data_format", "NHWC") in ("NCHW", b"NCHW")


@dataclass(frozen=True)
class Window:
    """Sliding windows over the two middle dimensions of NHWC."""

    size: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    low: tuple[Poly, Poly]  # padding before
    high: tuple[Poly, Poly]  # padding after
    out: tuple[Poly, Poly]

    @property
    def widths(self) -> list[tuple[Poly, Poly]]:
        """Padding of the four dimensions."""
        none = (poly(0), poly(0))
        return [none, (self.low[0], self.high[0]), (self.low[1], self.high[1]), none]

    def at(self, i: Indices, r: Indices) -> Indices:
        """Position in the padded input of element `r` of window `i`."""
        return tuple(
            a * s + b * d for a, s, b, d in zip(i, self.strides, r, self.dilations, strict=True)
        )


def _window(ctx: Lowering, node: Node, x: Value, size: tuple[int, int]) -> Window:
    """The windows of a node over `x`, which is NHWC already."""
    axes = (2, 3) if _channels_first(node) else (1, 2)
    strides, padding = node.attr_ints("strides"), node.attr_str("padding")
    dilations = node.attr_ints("dilations") if "dilations" in node.attrs else (1, 1, 1, 1)
    explicit = node.attr_ints("explicit_paddings") if padding == "EXPLICIT" else (0,) * 8
    lows, highs, outs = [], [], []
    for k, axis in enumerate(axes):
        extent, stride = x.shape[k + 1], strides[axis]
        reach = (size[k] - 1) * dilations[axis] + 1
        low, high = poly(explicit[2 * axis]), poly(explicit[2 * axis + 1])
        if padding == "SAME":
            out = ctx.params.opaque("floordiv", extent + (stride - 1), stride)
            total = ctx.params.opaque("max", (out - 1) * stride + reach - extent, 0)
            low = ctx.params.opaque("floordiv", total, 2)
            high = total - low
        else:
            span = extent + low + high - reach + stride
            out = ctx.params.opaque("max", ctx.params.opaque("floordiv", span, stride), 0)
        lows.append(low)
        highs.append(high)
        outs.append(out)
    return Window(
        size,
        (strides[axes[0]], strides[axes[1]]),
        (dilations[axes[0]], dilations[axes[1]]),
        (lows[0], lows[1]),
        (highs[0], highs[1]),
        (outs[0], outs[1]),
    )


def _nhwc(node: Node, x: Value) -> Value:
    return values.transpose(x, (0, 2, 3, 1)) if _channels_first(node) else x


def _back(node: Node, y: Value) -> Value:
    return values.transpose(y, (0, 3, 1, 2)) if _channels_first(node) else y


def _constant_size(ctx: Lowering, size: Poly) -> int:
    if not size.is_const:
        raise ctx.unsupported("the size of the filter must be constant")
    return size.const


@lowers("Conv2D", "DepthwiseConv2dNative")
def _conv(ctx: Lowering, node: Node) -> Value:
    x, w = _nhwc(node, ctx.input(0)), ctx.input(1)
    kh, kw, cin, cout = (_constant_size(ctx, s) for s in w.shape)
    window = _window(ctx, node, x, (kh, kw))
    channels = x.shape[3]
    depthwise = node.op == "DepthwiseConv2dNative"
    groups = cin if depthwise else _constant_size(ctx, channels) // cin
    per_group = 1 if depthwise else cin  # input channels of one output channel
    each = cout if depthwise else cout // groups
    if channels != poly(groups * per_group):
        ctx.equal(channels.to_affine(), affine(groups * per_group))
    x = values.reshape(x, (*x.shape[:3], groups * per_group))
    padded = pad(ctx, x, window.widths, zero(x.dtype))
    n = padded.dims[0]
    rows, columns = (s.to_affine() for s in window.out)
    out_c = tuple(affine(s) for s in (groups, each) if s != 1)
    outer = (*n, rows, columns, *out_c)
    inner = tuple(affine(s) for s in (kh, kw, per_group))

    def at(i: Indices, r: Indices) -> Expr:
        head, (oh, ow), tail = i[: len(n)], i[len(n) : len(n) + 2], iter(i[len(n) + 2 :])
        group = next(tail) if groups != 1 else affine(0)
        member = next(tail) if each != 1 else affine(0)
        h, v = window.at((oh, ow), r[:2])
        c = group * per_group + r[2]
        image = _flat4(padded, head, h, v, c)
        last = member if depthwise else group * each + member
        weight = _flat(w, (r[0], r[1], group if depthwise else r[2], last))
        return call("mul", image, weight)

    dims: list[Dim] = [n, (rows,), (columns,), out_c]
    return _back(node, ctx.contract("add", node.dtypes[0], dims, outer, inner, at))


def _flat(x: Value, positions: Indices) -> Expr:
    """An element by one position per dimension."""
    pairs = zip(x.dims, positions, strict=True)
    return x.at(tuple(i for d, p in pairs for i in (values.unflatten(d, p) if d else ())))


def _flat4(x: Value, n: Indices, h: Affine, w: Affine, c: Affine) -> Expr:
    parts = zip(x.dims[1:], (h, w, c), strict=True)
    return x.at((*n, *(i for d, p in parts for i in (values.unflatten(d, p) if d else ()))))


@lowers("MaxPool", "AvgPool")
def _pool(ctx: Lowering, node: Node) -> Value:
    x = _nhwc(node, ctx.input(0))
    axes = (2, 3) if _channels_first(node) else (1, 2)
    size = node.attr_ints("ksize")
    window = _window(ctx, node, x, (size[axes[0]], size[axes[1]]))
    if node.op == "MaxPool":
        return _back(node, _slide(ctx, x, window, "max", Const(float("-inf"), x.dtype)))
    total = _slide(ctx, x, window, "add", zero(x.dtype))
    if all(p == poly(0) for pair in window.widths for p in pair):
        area = Const(float(window.size[0] * window.size[1]), x.dtype)
        return _back(node, ctx.map(lambda s: call("div", s, area), total))
    ones = Value(x.dtype, ((), x.dims[1], x.dims[2], ()), _constantly(Const(1.0, x.dtype)))
    counts = _slide(ctx, ones, window, "add", zero(x.dtype))
    return _back(node, ctx.map(lambda s, c: call("div", s, c), total, counts))


def _constantly(element: Expr) -> Callable[[Indices], Expr]:
    return lambda i: element


def _slide(ctx: Lowering, x: Value, window: Window, op: ReduceOp, filler: Expr) -> Value:
    """Reduction of every window, channels apart."""
    padded = pad(ctx, x, window.widths, filler)
    n, c = padded.dims[0], padded.dims[3]
    rows, columns = (s.to_affine() for s in window.out)
    inner = tuple(affine(s) for s in window.size)
    dtype: DType = x.dtype

    def at(i: Indices, r: Indices) -> Expr:
        k = len(n)
        h, v = window.at(i[k : k + 2], r)
        middle = zip(padded.dims[1:3], (h, v), strict=True)
        inside = (j for d, p in middle for j in (values.unflatten(d, p) if d else ()))
        return padded.at((*i[:k], *inside, *i[k + 2 :]))

    dims: list[Dim] = [n, (rows,), (columns,), c]
    return ctx.contract(op, dtype, dims, (*n, rows, columns, *c), inner, at)


def _labels(ctx: Lowering, equation: str, operands: list[Value]) -> tuple[list[str], str]:
    """Labels of the operands and of the result; an ellipsis becomes digits, aligned right."""
    left, result = equation.replace(" ", "").split("->")
    terms, most = left.split(","), 0
    for k, (term, x) in enumerate(zip(terms, operands, strict=True)):
        if "..." in term:
            count = x.rank - len(term) + 3
            most = max(most, count)
            terms[k] = term.replace("...", "0123456789"[10 - count :])
        if len(set(terms[k])) != x.rank:
            raise ctx.unsupported(f"equation {equation}")
    return terms, result.replace("...", "0123456789"[10 - most :])


@lowers("Einsum")
def _einsum(ctx: Lowering, node: Node) -> Value:
    operands = ctx.inputs()
    terms, result = _labels(ctx, node.attr_str("equation"), operands)
    sizes: dict[str, Dim] = {}
    for term, x in zip(terms, operands, strict=True):
        for label, dim in zip(term, x.dims, strict=True):
            known = sizes.get(label, ())
            if values.extent(known) == poly(1):
                sizes[label] = dim
            elif values.extent(dim) != poly(1):
                sizes[label] = values.meet(known, dim, ctx.equal).atoms
    views = [
        values.broadcast_to(x, [sizes[label] for label in term], ctx.equal)
        for term, x in zip(terms, operands, strict=True)
    ]
    summed = [label for label in sizes if label not in result]
    dims = [sizes[label] for label in result]

    def at(i: Indices, r: Indices) -> Expr:
        flat, where = iter((*i, *r)), dict[str, Indices]()
        for label in (*result, *summed):
            where[label] = tuple(next(flat) for _ in sizes[label])
        product: Expr | None = None
        for term, x in zip(terms, views, strict=True):
            factor = x.at(tuple(p for label in term for p in where[label]))
            product = factor if product is None else call("mul", product, factor)
        assert product is not None
        return product

    inner = tuple(a for label in summed for a in sizes[label])
    outer = tuple(a for dim in dims for a in dim)
    return ctx.contract("add", node.dtypes[0], dims, outer, inner, at)
