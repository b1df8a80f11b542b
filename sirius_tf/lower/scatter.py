# SPDX-License-Identifier: Apache-2.0
"""Rules of ops that update few rows of a tensor, or one element of each row.

    y[r, ...]     = select(r = i1, u1[...], select(r = i0, u0[...], x[r, ...]))
    y[b, r, ...]  = select(r = i[b], u[b, ...], x[b, r, ...])

An iterator is compared with a position, so that no subscript of a store depends on data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Call, Const, Expr, Index, Load, call, index, substitute
from sirius_tf.ir.program import ReduceOp
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import elements, fill, zero
from sirius_tf.lower.lists import conform
from sirius_tf.lower.registry import Lowering, lowers
from sirius_tf.lower.selection import extreme, own_position
from sirius_tf.lower.symbolic import poly
from sirius_tf.lower.value import Host, Indices, Value

MOST_ROWS = 16
"""Rows that an op updates, at most: every element of its result is compared with each."""

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
    if _one_each(ctx, x, where):
        return _scatter_each(ctx, combine, x, where, updates)
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
            result = combine(result, _met(x, i, positions), new.at(i[outer:]))
        return result

    return ctx.define(x.dtype, x.dims, element)


def _met(x: Value, i: Indices, positions: Sequence[Expr], first: int = 0) -> Expr:
    """Whether element i of x is at these positions, along axes from `first` on."""
    met: Expr | None = None
    for axis, position in enumerate(positions, first):
        own = own_position(x, axis, i, position.dtype)
        same = call("eq", own, position, dtype="bool")
        met = same if met is None else call("and", met, same)
    assert met is not None
    return met


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


# One update in each row


def _one_each(ctx: Lowering, x: Value, where: Value) -> bool:
    """Whether the first subscripts are 0, 1, 2, ... to the end of x, and there are others."""
    if where.rank != 2 or not x.rank or not where.shape[1].is_const:
        return False
    if not 2 <= where.shape[1].const <= x.rank or where.shape[0] != x.shape[0]:
        return False
    if len(where.dims[0]) != 1 or len(where.dims[1]) != 1:
        return False
    row = symbol("row")
    found = _traced(ctx, where.at((row, affine(0))))
    return isinstance(found, Index) and found.value == row


def _traced(ctx: Lowering, expr: Expr) -> Expr:
    """The definition of an element behind copies and casts."""
    match expr:
        case Call("cast", (x,), _):
            return _traced(ctx, x)
        case Load(name, at, _) if ctx.tensors[name].role == "temp":
            for s in ctx.statements:
                pairs = list(zip(s.index, at, strict=True)) if s.target == name else []
                if not pairs or any(a != b for a, b in pairs if a.is_const):
                    continue
                own = {str(a): b for a, b in pairs if isinstance(b, Affine) and not a.is_const}
                if s.reduce or set(own) != {i.name for i in s.iters}:
                    return expr
                return _traced(ctx, substitute(s.value, own))
    return expr


def _scatter_each(
    ctx: Lowering, combine: _Combine, x: Value, where: Value, updates: Value
) -> Value:
    """Row b of the updates combined into row b of x, at the other subscripts."""
    depth = where.shape[1].const
    for size in x.shape[1:]:
        ctx.nonnegative(size - 1)
    where = values.broadcast_to(where, [x.dims[0], where.dims[1]], ctx.equal)
    news = conform(ctx, updates, [x.dims[0], *x.dims[depth:]])
    first, outer = len(x.dims[0]), sum(len(d) for d in x.dims[:depth])
    extents = [index(x.shape[axis].to_affine(), where.dtype) for axis in range(1, depth)]

    def element(i: Indices) -> Expr:
        given = [where.at((*i[:first], affine(axis))) for axis in range(1, depth)]
        at = [call("bounded", *pair) for pair in zip(given, extents, strict=True)]
        return combine(x.at(i), _met(x, i, at, 1), news.at((*i[:first], *i[outer:])))

    return ctx.define(x.dtype, x.dims, element)
