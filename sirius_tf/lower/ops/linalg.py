# SPDX-License-Identifier: Apache-2.0
"""Rules of ops that reduce: contractions, reductions, normalizations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.expr import Const, Expr, call
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.ir.program import ReduceOp
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import axis_of, channels_first, elements, polys, scalar
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.rules import lowers
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
    batch, _ = values.broadcast(batches, ctx.alike)
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
        raise ctx.unsupported("is_training is true: export the model for inference")
    x, *statistics = ctx.inputs()
    if channels_first(node):
        for _ in range(x.rank - 2):
            statistics = [values.insert_dim(s, s.rank) for s in statistics]
    epsilon = node.attr_float("epsilon")

    def fn(e: Expr, scale: Expr, offset: Expr, mean: Expr, variance: Expr) -> Expr:
        factor = call("rsqrt", call("add", variance, Const(epsilon, variance.dtype)))
        factor = call("mul", factor, scale)
        return call("add", call("mul", call("sub", e, mean), factor), offset)

    return [ctx.map(fn, x, *statistics)] + ctx.inputs()[3:5] * 2


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
            raise ctx.unsupported(
                f"equation {equation} repeats a label, or does not fit its operands"
            )
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
