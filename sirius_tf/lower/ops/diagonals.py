# SPDX-License-Identifier: Apache-2.0
"""Rules of ops on the diagonals of matrices: an element is selected by its row and column."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import Affine
from sirius_tf.ir.dtypes import zero
from sirius_tf.ir.expr import Expr, call, index
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import elements
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.list_arrays import conform
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.value import Dim, Indices, Value


def _place(dims: Sequence[Dim], i: Indices) -> tuple[Indices, Affine, Affine]:
    """Indices before the matrix, its row and its column."""
    rows, columns = dims[-2:]
    lead = len(i) - len(rows) - len(columns)
    middle = lead + len(rows)
    return (
        i[:lead],
        values.flat_index(rows, i[lead:middle]),
        values.flat_index(columns, i[middle:]),
    )


def _compared(fn: str, left: Affine, right: Affine) -> Expr:
    return call(fn, index(left), index(right), dtype="bool")


@lowers("MatrixBandPart")
def _band_part(ctx: Lowering, node: Node) -> Value:
    """x[i, j] where i - j <= lower and j - i <= upper, else 0; a negative bound is none."""
    x, bounds = ctx.input(0), [elements(ctx.host(k))[0] for k in (1, 2)]
    pairs = [_bound(ctx, b, n) for b, n in zip(bounds, x.shape[-2:], strict=True)]

    def at(i: Indices) -> Expr:
        _, row, column = _place(x.dims, i)
        result = x.at(i)
        for bound, distance in zip(pairs, (row - column, column - row), strict=True):
            if bound is not None:
                inside = _compared("le", distance, bound)
                result = call("select", inside, result, zero(x.dtype))
        return result

    return ctx.define(x.dtype, x.dims, at)


def _bound(ctx: Lowering, bound: Poly, size: Poly) -> Affine | None:
    """The greatest distance from the diagonal; None if there is no limit."""
    if bound.is_const and bound.const < 0:
        return None
    if not ctx.params.at_least(bound, 0):
        raise ctx.unsupported(f"whether {bound} is negative is not known: make it constant")
    ctx.nonnegative(size - bound)
    return bound.to_affine()


def _main_diagonal(ctx: Lowering, first: int) -> None:
    """Input `first` of a later version of an op is the diagonal, or a range of them."""
    if len(ctx.node.inputs) > first and any(ctx.host_ints(first)):
        raise ctx.unsupported("it is of other diagonals than the main one")


def _on_diagonal(
    own: Value, dims: Sequence[Dim], other: Callable[[Indices], Expr], by_column: bool = False
) -> Callable[[Indices], Expr]:
    """Element j of `own` at row j and column j, `other` elsewhere.

    It is read at the row, or at the column, whichever is always one of its positions.
    """

    def at(i: Indices) -> Expr:
        lead, row, column = _place(dims, i)
        middle = len(lead) + len(dims[-2])
        place = i[middle:] if by_column else i[len(lead) : middle]
        same = _compared("eq", row, column)
        return call("select", same, own.at((*lead, *place)), other(i))

    return at


@lowers("MatrixDiag", "MatrixDiagV2", "MatrixDiagV3")
def _diagonal(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    _main_diagonal(ctx, 1)
    filler: Expr = zero(x.dtype)
    if len(node.inputs) > 1:
        sizes = ctx.host_int(2), ctx.host_int(3)
        if any(size != -1 and poly(size) != x.shape[-1] for size in sizes):
            raise ctx.unsupported("its result is not square: num_rows and num_cols must be equal")
        filler = ctx.input(4).at(())
    dims = [*x.dims, x.dims[-1]]
    return ctx.define(x.dtype, dims, _on_diagonal(x, dims, lambda i: filler))


@lowers("MatrixSetDiag", "MatrixSetDiagV2", "MatrixSetDiagV3")
def _set_diagonal(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    _main_diagonal(ctx, 2)
    rows, columns = x.shape[-2:]
    by_column = not ctx.params.at_least(columns, rows)
    if by_column and not ctx.params.at_least(rows, columns):
        raise ctx.unsupported(
            "whether the matrix has more rows or more columns is not known: fix its sizes"
        )
    own = conform(ctx, ctx.input(1), [*x.dims[:-2], x.dims[-1 if by_column else -2]])
    return ctx.define(x.dtype, x.dims, _on_diagonal(own, x.dims, x.at, by_column))


@lowers("MatrixDiagPart", "MatrixDiagPartV2", "MatrixDiagPartV3")
def _part(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    _main_diagonal(ctx, 1)
    dims = [*x.dims[:-2], values.dim_of(ctx.params.opaque("min", *x.shape[-2:]))]
    lead = sum(len(d) for d in dims[:-1])

    def source(i: Indices) -> Indices:
        place = values.flat_index(dims[-1], i[lead:])
        ends = (values.unflatten(d, place) if d else () for d in x.dims[-2:])
        return (*i[:lead], *(k for end in ends for k in end))

    return x.view(dims, source)
