# SPDX-License-Identifier: Apache-2.0
"""Rules of ops that count or sum those elements of a row that compare with another one.

    prefix[i] = sum over j of (x[j] where j <= i, else 0)
    bucket[i] = sum over b of (0 where bound[b] > x[i], else 1)
    counts[k] = sum over j of (1 where x[j] = k, else 0)

All pairs are compared. That is parallel and vectorized, where a recurrence would have a barrier
after each step, a binary search branches, and a histogram has stores that depend on data.
"""

from __future__ import annotations

import numpy as np

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.dtypes import FLOAT, identity, number, zero
from sirius_tf.ir.expr import Const, DType, Expr, call, index
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.ir.program import ReduceOp
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import axis_of, elements
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.value import Indices, Value

LONGEST = 512
"""Elements that one is compared with on the sample inputs, at most."""


def _short(ctx: Lowering, size: Poly) -> None:
    if size.evaluate(ctx.params.hints) > LONGEST:
        raise ctx.unsupported(f"each element would be compared with more than {LONGEST} others")


@lowers("Cumsum", "Cumprod")
def _scan(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    axis = axis_of(ctx, ctx.host_int(1), x.rank)
    if not x.rank:
        return x
    _short(ctx, x.shape[axis])
    op: ReduceOp = "add" if node.op == "Cumsum" else "mul"
    neutral = identity(op, x.dtype)
    order = ("l" if node.attrs.get("reverse") else "g") + (
        "t" if node.attrs.get("exclusive") else "e"
    )
    dim = x.dims[axis]
    before = sum(len(d) for d in x.dims[:axis])

    def at(i: Indices, r: Indices) -> Expr:
        own, other = (
            values.flat_index(dim, i[before : before + len(dim)]),
            values.flat_index(dim, r),
        )
        counts = call(order, index(own, "int32"), index(other, "int32"), dtype="bool")
        return call("select", counts, x.at((*i[:before], *r, *i[before + len(dim) :])), neutral)

    return ctx.contract(op, x.dtype, x.dims, x.atoms, dim, at)


@lowers("Bucketize")
def _bucketize(ctx: Lowering, node: Node) -> Value:
    x, given = ctx.input(0), node.attrs["boundaries"]
    assert isinstance(given, list | tuple)
    _short(ctx, poly(len(given)))
    dtype = x.dtype if x.dtype in FLOAT else "float32"
    bounds = ctx.constant(np.array(given, np.float32).astype(np.dtype(dtype)).reshape(-1))

    def at(i: Indices, r: Indices) -> Expr:
        element = x.at(i) if x.dtype == dtype else call("cast", x.at(i), dtype=dtype)
        return _count(_not_more(bounds.at(r), element), "int32")

    return ctx.contract("add", "int32", x.dims, x.atoms, bounds.atoms, at)


def _not_more(bound: Expr, value: Expr) -> Expr:
    """Whether a bound is not above a value; a NaN is behind all bounds."""
    return call("not", call("gt", bound, value, dtype="bool"), dtype="bool")


def _count(condition: Expr, dtype: DType) -> Expr:
    return call("select", condition, number(1, dtype), zero(dtype))


@lowers("LowerBound", "UpperBound")
def _bound(ctx: Lowering, node: Node) -> Value:
    """The number of elements of a sorted row that are less than, or not more than, each value of a
    row."""
    row, x = ctx.inputs()
    _short(ctx, row.shape[1])
    dims = [values.meet(x.dims[0], row.dims[0], ctx.equal).atoms, x.dims[1]]
    each = values.broadcast_to(x, dims, ctx.equal)
    others = values.broadcast_to(row, [dims[0], row.dims[1]], ctx.equal)
    dtype, batch = node.dtypes[0], len(dims[0])

    def at(i: Indices, r: Indices) -> Expr:
        bound, value = others.at((*i[:batch], *r)), each.at(i)
        if node.op == "LowerBound":
            return _count(call("lt", bound, value, dtype="bool"), dtype)
        return _count(_not_more(bound, value), dtype)

    return ctx.contract("add", dtype, dims, each.atoms, row.dims[1], at)


@lowers("DenseBincount")
def _bincount(ctx: Lowering, node: Node) -> Value:
    x, weights, dtype = ctx.input(0), ctx.input(2), node.dtypes[0]
    size = elements(ctx.host(1))[0]
    if x.rank not in (1, 2):
        raise ctx.unsupported(f"its input has rank {x.rank}, not 1 or 2")
    _short(ctx, x.shape[-1])
    ctx.nonnegative(size)
    weighed = weights.rank == x.rank and poly(0) not in weights.shape
    limit = Const(2**62, "int64")

    def checked(k: Expr) -> Expr:
        return call("cast", call("bounded", call("cast", k, dtype="int64"), limit), dtype=k.dtype)

    numbers = ctx.map(checked, x, dtype=x.dtype)
    kinds = values.dim_of(size)
    dims = [*x.dims[:-1], kinds]
    batch = sum(len(d) for d in x.dims[:-1])
    if weighed:
        weights = values.broadcast([x, weights], ctx.equal)[1][1]

    def found(i: Indices, r: Indices) -> Expr:
        own = index(values.flat_index(kinds, i[batch:]), x.dtype)
        return call("eq", numbers.at((*i[:batch], *r)), own, dtype="bool")

    def at(i: Indices, r: Indices) -> Expr:
        if weighed:
            return call("select", found(i, r), weights.at((*i[:batch], *r)), zero(dtype))
        return _count(found(i, r), dtype)

    atoms = tuple(a for dim in dims for a in dim)
    if node.attrs.get("binary_output"):
        there = ctx.contract("or", "bool", dims, atoms, x.dims[-1], found)
        return ctx.map(lambda e: _count(e, dtype), there)
    return ctx.contract("add", dtype, dims, atoms, x.dims[-1], at)
