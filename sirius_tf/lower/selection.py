# SPDX-License-Identifier: Apache-2.0
"""Rules of ops that select: the position of an extreme element, and updates of few rows.

    argmax[b]  = min over j of  (j where x[b, j] = m[b], else n)       m[b] = max over j of x[b, j]
    y[r, ...]  = select(r = i1, u1[...], select(r = i0, u0[...], x[r, ...]))

Both compare an iterator with a position, so that no subscript of a store depends on data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from math import inf, prod

import numpy as np

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import affine
from sirius_tf.ir.expr import Const, DType, Expr, index
from sirius_tf.ir.program import ReduceOp
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import axis_of, concat, elements, fill, zero
from sirius_tf.lower.lists import conform
from sirius_tf.lower.registry import Lowering, call, lowers
from sirius_tf.lower.symbolic import poly
from sirius_tf.lower.value import Host, Indices, Value

MOST_ROWS = 16
"""Rows that an op updates, at most: every element of its result is compared with each."""


def extreme(op: ReduceOp, dtype: DType) -> Const:
    """What `max`, or `min`, of it and any other number is the other number."""
    if "float" in dtype:
        return Const(-inf if op == "max" else inf, dtype)
    if dtype == "bool":
        return Const(op == "min", dtype)
    info = np.iinfo(np.dtype(dtype))
    return Const(int(info.min if op == "max" else info.max), dtype)


def comparable(x: Value, op: ReduceOp) -> Value:
    """The elements in order: bool as numbers, and NaN as what every number beats."""
    if x.dtype == "bool":
        return Value("int32", x.dims, lambda i: call("cast", x.at(i), dtype="int32"))
    if "float" not in x.dtype:
        return x

    def at(i: Indices) -> Expr:
        element = x.at(i)
        number = call("eq", element, element, dtype="bool")
        return call("select", number, element, extreme(op, x.dtype))

    return Value(x.dtype, x.dims, at)


def own_position(x: Value, axis: int, i: Indices, dtype: DType) -> Expr:
    """Where on `axis` element i of x is."""
    return index(values.flat_index(x.dims[axis], x.split(i)[axis]), dtype)


@lowers("ArgMax", "ArgMin")
def _arg(ctx: Lowering, node: Node) -> Value:
    if not ctx.input(0).rank:
        raise ctx.unsupported("a scalar has no axis")
    op: ReduceOp = "max" if node.op == "ArgMax" else "min"
    x, dtype = comparable(ctx.input(0), op), node.dtypes[0]
    axis = axis_of(ctx, ctx.host_int(1), x.rank)
    ctx.nonnegative(x.shape[axis] - 1)
    end = index(x.shape[axis].to_affine(), dtype)
    best = values.broadcast_to(ctx.reduce(op, x, [axis], keep=True), x.dims, ctx.equal)

    def at(i: Indices) -> Expr:
        found = call("eq", x.at(i), best.at(i), dtype="bool")
        return call("select", found, own_position(x, axis, i, dtype), end)

    return ctx.reduce("min", Value(dtype, x.dims, at), [axis], keep=False)


@lowers("TopKV2")
def _top_k(ctx: Lowering, node: Node) -> list[Value]:
    """One pass over the row for each of the k: the first element behind the last one found.

    In the order of values down, and positions up where they are equal, "behind" is a comparison
    with that one alone. To rank every element by its comparisons with all others instead is n^2
    work, which k passes are less than as soon as 2 k < n.
    """
    x, count = comparable(ctx.input(0), "max"), ctx.host_int(1)
    if not node.attrs.get("sorted", True):
        raise ctx.unsupported("the order of what is not sorted is TensorFlow's own")
    if count > MOST_ROWS:
        raise ctx.unsupported(f"the first {count} are too many passes")
    axis, (dtype, position) = x.rank - 1, node.dtypes
    ctx.nonnegative(x.shape[axis] - count)
    numbers: list[Value] = []
    places: list[Value] = []
    for _ in range(count):
        behind = _behind(ctx, x, numbers[-1], places[-1]) if numbers else _everywhere
        number, place = _first(ctx, x, behind, position)
        numbers.append(number)
        places.append(place)
    if count == 0:
        dims = [*x.dims[:axis], (affine(0),)]
        return [fill(d, dims, zero(d)) for d in (dtype, position)]
    return [concat(ctx, numbers, axis), concat(ctx, places, axis)]


_Condition = Callable[[Indices], Expr]


def _everywhere(i: Indices) -> Expr:
    return Const(True, "bool")


def _behind(ctx: Lowering, x: Value, number: Value, place: Value) -> _Condition:
    """Whether an element comes after one in descending order."""
    last = values.broadcast_to(number, x.dims, ctx.equal)
    at = values.broadcast_to(place, x.dims, ctx.equal)

    def condition(i: Indices) -> Expr:
        element, own = x.at(i), own_position(x, x.rank - 1, i, place.dtype)
        same = call("eq", element, last.at(i), dtype="bool")
        later = call("and", same, call("gt", own, at.at(i), dtype="bool"))
        return call("or", call("lt", element, last.at(i), dtype="bool"), later)

    return condition


def _first(ctx: Lowering, x: Value, condition: _Condition, position: DType) -> tuple[Value, Value]:
    """The greatest number of each row where a condition holds, and the first place of it."""
    axis = [x.rank - 1]
    end = index(x.shape[-1].to_affine(), position)

    def number(i: Indices) -> Expr:
        return call("select", condition(i), x.at(i), extreme("max", x.dtype))

    best = ctx.reduce("max", Value(x.dtype, x.dims, number), axis, keep=True)
    top = values.broadcast_to(best, x.dims, ctx.equal)

    def place(i: Indices) -> Expr:
        found = call("and", condition(i), call("eq", x.at(i), top.at(i), dtype="bool"))
        return call("select", found, own_position(x, axis[0], i, position), end)

    return best, ctx.reduce("min", Value(position, x.dims, place), axis, keep=True)


_Combine = Callable[[Expr, Expr, Expr], Expr]  # of what was there, whether it is met, the update


def _extreme_of(op: ReduceOp) -> _Combine:
    """TF keeps what was there if the update is NaN, but not the other way round."""

    def combine(old: Expr, met: Expr, new: Expr) -> Expr:
        if "float" in new.dtype:
            met = call("and", met, call("eq", new, new, dtype="bool"))
        return call(op, old, call("select", met, new, extreme(op, new.dtype)))

    return combine


def _add(old: Expr, met: Expr, new: Expr) -> Expr:
    nothing = Const(-0.0, new.dtype) if "float" in new.dtype else zero(new.dtype)  # 0 + -0 = 0
    return call("add", old, call("select", met, new, nothing))


_SCATTERS: Mapping[str, _Combine] = {
    "TensorScatterUpdate": lambda old, met, new: call("select", met, new, old),
    "TensorScatterAdd": _add,
    "TensorScatterSub": lambda old, met, new: call(
        "sub", old, call("select", met, new, zero(new.dtype))
    ),
    "TensorScatterMax": _extreme_of("max"),
    "TensorScatterMin": _extreme_of("min"),
}


@lowers(*_SCATTERS)
def _tensor_scatter(ctx: Lowering, node: Node) -> Value:
    x, where, updates = ctx.inputs()
    return scatter(ctx, _SCATTERS[node.op], x, where, updates)


@lowers("ScatterNd")
def _scatter_nd(ctx: Lowering, node: Node) -> Value:
    where, updates, _ = ctx.inputs()
    sizes = elements(ctx.host(2))
    for size in sizes:
        ctx.nonnegative(size)
    zeros = fill(updates.dtype, [values.dim_of(s) for s in sizes], zero(updates.dtype))
    return scatter(ctx, _add, zeros, where, updates)


def scatter(ctx: Lowering, combine: _Combine, x: Value, where: Value, updates: Value) -> Value:
    """`x` with row after row of the updates combined into the elements that `where` points at."""
    lead = _constant_sizes(ctx, where)
    depth = lead.pop()
    rows = prod(lead)
    if not rows:
        return x
    if rows > MOST_ROWS or not 1 <= depth <= x.rank:
        raise ctx.unsupported(f"{rows} updates at {depth} subscripts")
    for size in x.shape:  # TF wants no updates of nothing
        ctx.nonnegative(size - 1)
    for axis, count in enumerate(lead):
        if updates.shape[axis] != poly(count):
            ctx.equal(updates.shape[axis].to_affine(), affine(count))
    host = ctx.known(where)
    points = list(product(*map(range, lead)))
    at = [[_position(ctx, x, where, host, p, axis) for axis in range(depth)] for p in points]
    news = [conform(ctx, _row(updates, p), x.dims[depth:]) for p in points]
    outer = sum(len(d) for d in x.dims[:depth])

    def element(i: Indices) -> Expr:
        result = x.at(i)
        for positions, new in zip(at, news, strict=True):
            met: Expr | None = None
            for axis, position in enumerate(positions):
                own = own_position(x, axis, i, where.dtype)
                same = call("eq", own, position, dtype="bool")
                met = same if met is None else call("and", met, same)
            assert met is not None
            result = combine(result, met, new.at(i[outer:]))
        return result

    return ctx.define(x.dtype, x.dims, element)


def _constant_sizes(ctx: Lowering, x: Value) -> list[int]:
    if not all(s.is_const for s in x.shape):
        raise ctx.unsupported("the number of updates must be constant")
    return [s.const for s in x.shape]


def _row(x: Value, point: tuple[int, ...]) -> Value:
    """x[point], its first dimensions fixed."""
    for k in point:
        x = values.remove_dim(values.slice_dim(x, 0, k, 1), 0)
    return x


def _position(
    ctx: Lowering, x: Value, where: Value, host: Host | None, point: tuple[int, ...], axis: int
) -> Expr:
    """Where an update goes along an axis of x; that it is in range is checked: on entry, if it is
    known there, else when it is computed."""
    if host is not None:
        known = values.element(host, (*point, axis))
        ctx.nonnegative(known)
        ctx.nonnegative(x.shape[axis] - known - 1)
        return known.to_expr(where.dtype)
    extent = index(x.shape[axis].to_affine(), where.dtype)
    return call("bounded", _row(where, (*point, axis)).at(()), extent)
