# SPDX-License-Identifier: Apache-2.0
"""Types of elements: classes of them, their numpy types, and literals.

What a class holds is said here alone: a test of a name, as `"float" in dtype` or
`dtype.startswith("float")`, would decide anew whether bfloat16 is one.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from sirius_tf.ir.expr import Const, DType

HALF = frozenset({"float16", "bfloat16"})
"""Types that numbers are stored as, but not computed in."""

FLOAT = frozenset({"float32", "float64"})
"""Floating types that are computed in."""

UNSIGNED = frozenset({"uint8", "uint16", "uint32", "uint64"})

INTEGER = UNSIGNED | {"int8", "int16", "int32", "int64"}
"""bool is none of them."""


def is_float(dtype: DType) -> bool:
    """Whether numbers of a dtype have fractions, be they computed in it or only stored."""
    return dtype in FLOAT or dtype in HALF


def number(value: float, dtype: DType) -> Const:
    """A number as a literal of any dtype."""
    kind = bool if dtype == "bool" else float if is_float(dtype) else int
    return Const(kind(value), dtype)


def zero(dtype: DType) -> Const:
    """The zero of a dtype."""
    return number(0, dtype)


def identity(op: str, dtype: DType) -> Const:
    """The identity element of a reduction: combined with it, a number stays what it is."""
    if op in ("max", "min"):
        if dtype in INTEGER:
            info = np.iinfo(dtype)
            return Const(int(info.min if op == "max" else info.max), dtype)
        low, high = (-inf, inf) if is_float(dtype) else (False, True)
        return Const(low if op == "max" else high, dtype)
    return number({"add": 0, "mul": 1, "and": 1, "or": 0}[op], dtype)


def numpy_dtype(name: DType) -> np.dtype[Any]:
    """The numpy dtype of an IR dtype name, bfloat16 included."""
    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)
