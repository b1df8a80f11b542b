# SPDX-License-Identifier: Apache-2.0
"""Rules of ops that update few rows of a tensor, or one element of each row.

    y[r, ...]     = select(r = i1, u1[...], select(r = i0, u0[...], x[r, ...]))
    y[b, r, ...]  = select(r = i[b], u[b, ...], x[b, r, ...])

An iterator is compared with a position, so that no subscript of a store depends on data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Literal

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.dtypes import identity, is_float, number, zero
from sirius_tf.ir.expr import Call, Expr, Index, Load, call, index, substitute
from sirius_tf.ir.polynomial import poly
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import elements, fill
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.list_arrays import conform
from sirius_tf.lower.ops.selection import own_position
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.value import Host, Indices, Value

MOST_ROWS = 16
"""Rows that an op updates, at most: every element of its result is compared with each."""

_Function = Literal["", "add", "sub", "max", "min"]

_SCATTERS: Mapping[str, _Function] = {
    "TensorScatterUpdate": "",
    "TensorScatterAdd": "add",
    "TensorScatterSub": "sub",
    "TensorScatterMax": "max",
    "TensorScatterMin": "min",
}
"""The function by which each op combines an update with the old element; "" replaces it."""


def _combine(fn: _Function, old: Expr, met: Expr, new: Expr, alone: bool) -> Expr:
    """An element that is updated where `met`. A sum with nothing, where the update is not `alone`,
    says what was there once: its readers would double with each update."""
    if not fn:
        return call("select", met, new, old)
    floating = is_float(new.dtype)
    if fn in ("max", "min") and floating:  # TF keeps what was there if the update is NaN
        met = call("and", met, call("eq", new, new, dtype="bool"))
    if alone:
        return call("select", met, call(fn, old, new), old)
    nothing = zero(new.dtype)
    if fn == "max" or fn == "min":
        nothing = identity(fn, new.dtype)
    elif fn == "add" and floating:
        nothing = number(-0.0, new.dtype)  # 0 + -0 = 0
    return call(fn, old, call("select", met, new, nothing))


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
    return scatter(ctx, "add", zeros, where, updates)


def scatter(ctx: Lowering, fn: _Function, x: Value, where: Value, updates: Value) -> Value:
    """`x` with row after row of the updates combined into the elements that `where` points at."""
    if _one_each(ctx, x, where):
        return _scatter_each(ctx, fn, x, where, updates)
    lead = _constant_sizes(ctx, where)
    depth = lead.pop()
    rows = prod(lead)
    if not rows:
        return x
    if rows > MOST_ROWS or not 1 <= depth <= x.rank:
        raise ctx.unsupported(f"{rows} updates at {depth} subscripts, not {MOST_ROWS} at most")
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
            met = _met(x, i, positions)
            result = _combine(fn, result, met, new.at(i[outer:]), rows == 1)
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
    """The position of an update along an axis of x. It is checked to be in range: on entry, if it
    is known there, else when it is computed."""
    if host is not None:
        known = values.element(host, (*point, axis))
        ctx.nonnegative(known)
        ctx.nonnegative(x.shape[axis] - known - 1)
        return known.to_expr(where.dtype)
    extent = index(x.shape[axis].to_affine(), where.dtype)
    at = _row(where, (*point, axis))
    return _checked(ctx, Value(where.dtype, (), lambda i: call("bounded", at.at(i), extent))).at(())


def _checked(ctx: Lowering, positions: Value) -> Value:
    """Positions that may fail, which on a branch have a tensor of their own: the comparison with
    them can then be made whether the branch is taken or not."""
    return ctx.materialize(positions) if ctx.guards else positions


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


def _scatter_each(ctx: Lowering, fn: _Function, x: Value, where: Value, updates: Value) -> Value:
    """Row b of the updates combined into row b of x, at the other subscripts."""
    depth = where.shape[1].const
    none = 1 - x.shape[0]  # above 0 where there are no updates
    for size in x.shape[1:]:
        if not ctx.params.at_least(size, 1):
            ctx.nonnegative(ctx.params.opaque("max", size, none) - 1)
    where = values.broadcast_to(where, [x.dims[0], where.dims[1]], ctx.equal)
    news = conform(ctx, updates, [x.dims[0], *x.dims[depth:]])
    first, outer = len(x.dims[0]), sum(len(d) for d in x.dims[:depth])
    extents = [index(x.shape[axis].to_affine(), where.dtype) for axis in range(1, depth)]

    def along(axis: int) -> Value:
        def at(i: Indices) -> Expr:
            return call("bounded", where.at((*i, affine(axis))), extents[axis - 1])

        return _checked(ctx, Value(where.dtype, (x.dims[0],), at))

    positions = [along(axis) for axis in range(1, depth)]

    def element(i: Indices) -> Expr:
        met = _met(x, i, [p.at(i[:first]) for p in positions], 1)
        return _combine(fn, x.at(i), met, news.at((*i[:first], *i[outer:])), True)

    return ctx.define(x.dtype, x.dims, element)
