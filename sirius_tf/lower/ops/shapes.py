# SPDX-License-Identifier: Apache-2.0
"""Rules of ops on what is known before the region runs: shapes that broadcast, permutations."""

from __future__ import annotations

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.expr import Const, Expr, call, index
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import elements, polys
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.value import Indices, Value


@lowers("BroadcastArgs")
def _broadcast_args(ctx: Lowering, node: Node) -> Value:
    """The shape that two shapes broadcast to."""
    left, right = elements(ctx.host(0)), elements(ctx.host(1))
    rank = max(len(left), len(right))
    pairs = zip(_filled(left, rank), _filled(right, rank), strict=True)
    return ctx.from_host(polys([_common(ctx, a, b) for a, b in pairs]), node.dtypes[0])


def _filled(sizes: list[Poly], rank: int) -> list[Poly]:
    return [poly(1)] * (rank - len(sizes)) + sizes


def _common(ctx: Lowering, a: Poly, b: Poly) -> Poly:
    if poly(1) in (a, b):
        return b if a == poly(1) else a
    if a != b:  # as where ops broadcast: an unknown size is not one that is 1
        ctx.alike(a.to_affine(), b.to_affine())
    return b if b.is_const else a


@lowers("InvertPermutation")
def _invert(ctx: Lowering, node: Node) -> Value:
    places = ctx.host_ints(0)
    if sorted(places) != list(range(len(places))):
        raise ctx.unsupported(f"{places} is no permutation")
    return ctx.from_host(polys([places.index(k) for k in range(len(places))]), node.dtypes[0])


@lowers("LinSpace")
def _linspace(ctx: Lowering, node: Node) -> Value:
    """Equal steps from `start`; the last element is `stop` itself."""
    start, stop = ctx.input(0).at(()), ctx.input(1).at(())
    count, dtype = elements(ctx.host(2))[0], node.dtypes[0]
    ctx.nonnegative(count - 1)
    dim = values.dim_of(count)
    if count == poly(1):
        return Value(dtype, ((),), lambda i: start)
    width = call("sub", stop, start)
    step = call("div", width, call("cast", (count - 1).to_expr(), dtype=dtype))

    def at(i: Indices) -> Expr:
        k = index(values.flat_index(dim, i))
        inner = call("add", start, call("mul", step, call("cast", k, dtype=dtype)))
        ends = [call("eq", k, end, dtype="bool") for end in ((count - 1).to_expr(), _ZERO)]
        return call("select", ends[1], start, call("select", ends[0], stop, inner))

    return ctx.define(dtype, [dim], at)


_ZERO = Const(0, "int64")
