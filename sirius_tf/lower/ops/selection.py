# SPDX-License-Identifier: Apache-2.0
"""Rules of ops that select: the positions of the greatest, or least, elements of a row.

argmax[b]  = min over j of  (j where x[b, j] = m[b], else n)       m[b] = max over j of x[b, j]
"""

from __future__ import annotations

from collections.abc import Callable

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import affine
from sirius_tf.ir.dtypes import identity, is_float, zero
from sirius_tf.ir.expr import Const, DType, Expr, call, index
from sirius_tf.ir.program import ReduceOp
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import axis_of, concat, fill
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.value import Indices, Value

MOST_PASSES = 16
"""Passes over a row, at most, that TopKV2 becomes."""


def comparable(x: Value, op: ReduceOp) -> Value:
    """The elements in order: bool as numbers, and NaN as what every number beats."""
    if x.dtype == "bool":
        return Value("int32", x.dims, lambda i: call("cast", x.at(i), dtype="int32"))
    if not is_float(x.dtype):
        return x

    def at(i: Indices) -> Expr:
        element = x.at(i)
        number = call("eq", element, element, dtype="bool")
        return call("select", number, element, identity(op, x.dtype))

    return Value(x.dtype, x.dims, at)


def own_position(x: Value, axis: int, i: Indices, dtype: DType) -> Expr:
    """The position along `axis` of element i of x."""
    return index(values.flat_index(x.dims[axis], x.split(i)[axis]), dtype)


@lowers("ArgMax", "ArgMin")
def _arg(ctx: Lowering, node: Node) -> Value:
    if not ctx.input(0).rank:
        raise ctx.unsupported("its input is a scalar, which has no axis")
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
        raise ctx.unsupported(
            "the order of results that are not sorted is TensorFlow's own: sort them"
        )
    if count > MOST_PASSES:
        raise ctx.unsupported(f"it is of the first {count}, more than {MOST_PASSES}")
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
        return call("select", condition(i), x.at(i), identity("max", x.dtype))

    best = ctx.reduce("max", Value(x.dtype, x.dims, number), axis, keep=True)
    top = values.broadcast_to(best, x.dims, ctx.equal)

    def place(i: Indices) -> Expr:
        found = call("and", condition(i), call("eq", x.at(i), top.at(i), dtype="bool"))
        return call("select", found, own_position(x, axis[0], i, position), end)

    return best, ctx.reduce("min", Value(position, x.dims, place), axis, keep=True)
