# SPDX-License-Identifier: Apache-2.0
"""Scalar expressions: what a statement computes at one point of its domain.

Five node kinds. `Call` covers everything that is computed, select and cast included; what a
function name means is said once, in `sirius_tf.ir.functions` (numpy) and once per target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sirius_tf.ir.affine import Affine, AffineLike, affine

DType = str  # numpy's name: "float32", "int32", "bool", ...; "bfloat16" as in ml_dtypes


@dataclass(frozen=True)
class Const:
    """A literal; `value` is a Python bool, int or float. There is one NaN, which equals itself."""

    value: bool | int | float
    dtype: DType

    def __post_init__(self) -> None:
        if self.value != self.value:
            object.__setattr__(self, "value", math.nan)


@dataclass(frozen=True)
class Index:
    """A quasi-affine expression of iterators and parameters, as a number of `dtype`."""

    value: Affine
    dtype: DType


@dataclass(frozen=True)
class Dim:
    """Extent of axis `axis` of program input `tensor`; only in the definition of a Param."""

    tensor: str
    axis: int
    dtype: DType = "int64"


@dataclass(frozen=True)
class Load:
    """Element `index` of `tensor`. A data-dependent index (TF's Gather) is an Expr of an integer
    dtype, wrapped in Call("bounded", (index, extent)); every other index is an Affine."""

    tensor: str
    index: tuple[Affine | Expr, ...]
    dtype: DType


@dataclass(frozen=True)
class Call:
    """`fn(*args)`, a value of `dtype`. `fn` is a key of `sirius_tf.ir.functions.FUNCTIONS`."""

    fn: str
    args: tuple[Expr, ...]
    dtype: DType


Expr = Const | Index | Dim | Load | Call


def children(expr: Expr) -> tuple[Expr, ...]:
    """Direct sub-expressions, data-dependent indices included."""
    match expr:
        case Call():
            return expr.args
        case Load():
            return tuple(i for i in expr.index if not isinstance(i, Affine))
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and everything below it, parents first."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def loads(expr: Expr) -> Iterator[Load]:
    """Every Load of the expression, those inside data-dependent indices included."""
    return (node for node in walk(expr) if isinstance(node, Load))


def names_in(expr: Expr) -> set[str]:
    """Every iterator and parameter that occurs."""
    found: set[str] = set()
    for node in walk(expr):
        match node:
            case Index(value, _):
                found.update(value.names())
            case Load(_, subscripts, _):
                for subscript in subscripts:
                    found.update(subscript.names() if isinstance(subscript, Affine) else ())
            case _:
                pass
    return found


def rewrite(expr: Expr, fn: Callable[[Expr], Expr | None]) -> Expr:
    """Replace, bottom-up, every node for which `fn(node)` is not None by that result."""
    match expr:
        case Call(name, args, dtype):
            expr = Call(name, tuple(rewrite(a, fn) for a in args), dtype)
        case Load(tensor, index, dtype):
            new = tuple(i if isinstance(i, Affine) else rewrite(i, fn) for i in index)
            expr = Load(tensor, new, dtype)
        case _:
            pass
    replaced = fn(expr)
    return expr if replaced is None else replaced


def substitute(expr: Expr, values: Mapping[str, AffineLike]) -> Expr:
    """Replace iterators and parameters by affine expressions, all at once."""

    def substituted(node: Expr) -> Expr | None:
        match node:
            case Index(value, dtype):
                return Index(value.substitute(values), dtype)
            case Load(tensor, index, dtype):
                return Load(
                    tensor,
                    tuple(i.substitute(values) if isinstance(i, Affine) else i for i in index),
                    dtype,
                )
            case _:
                return None

    return rewrite(expr, substituted)


def call(fn: str, *args: Expr, dtype: DType | None = None) -> Expr:
    """A Call whose dtype is that of its last argument unless said otherwise."""
    return Call(fn, args, dtype or args[-1].dtype)


def index(value: AffineLike, dtype: DType = "int64") -> Index:
    """An affine expression as a value."""
    return Index(affine(value), dtype)
