# SPDX-License-Identifier: Apache-2.0
"""Tensors of the program as Values, and what else an edge of the graph may carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Const, DType, Expr, Load
from sirius_tf.ir.polynomial import Poly
from sirius_tf.lower.value import Dim, Indices, Value


@dataclass(frozen=True)
class Write:
    """Element `position` of a list is `value`."""

    position: Poly
    value: Value
    grows: bool = False
    """Whether a position behind the end makes the list longer."""


@dataclass(frozen=True)
class Read:
    """Element `position` of a list that the loop being lowered writes, read by an iteration.

    What it is shows when it is known what an iteration writes: `tensor` is defined then.
    """

    tensor: str
    position: Poly
    dims: tuple[Dim, ...]


@dataclass(frozen=True)
class TensorList:
    """TF's TensorList: `length` tensors of one dtype and shape.

    `stack` holds all of them, elements first; None is a list of which nothing is written yet.
    `writes` replace elements of it. `element` is the declared shape of each, -1 for sizes that are
    not declared; None declares nothing. While a loop is lowered that writes a list it carries,
    `carrier` names the variable, and `stack` is what the list was before the loop.
    """

    dtype: DType
    length: Poly
    stack: Value | None = None
    writes: tuple[Write, ...] = ()
    carrier: str = ""
    element: tuple[Poly, ...] | None = None


Carried = Value | TensorList


def iterators(letter: str, box: Sequence[Affine]) -> Indices:
    """The iterators of a box as indices."""
    return tuple(symbol(f"{letter}{k}") for k in range(len(box)))


def literal(element: Poly, dtype: DType) -> Expr:
    """A polynomial as an expression."""
    if element.is_const:
        return Const(bool(element.const) if dtype == "bool" else element.const, dtype)
    return element.to_expr(dtype)


def load(name: str, dtype: DType, dims: Sequence[Dim], shape: Sequence[Affine]) -> Value:
    """A tensor as a Value; where dims leave size-1 axes of `shape` out, they are read at 0."""
    atoms = [a for dim in dims for a in dim]
    all_there = len(atoms) == len(shape)

    def at(i: Indices) -> Expr:
        rest = iter(i)
        index = i if all_there else (affine(0) if a == affine(1) else next(rest) for a in shape)
        return Load(name, tuple(index), dtype)

    return Value(dtype, tuple(dims), at)
