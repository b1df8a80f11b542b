# SPDX-License-Identifier: Apache-2.0
"""Types of elements: their numpy types, and their zero."""

from __future__ import annotations

from typing import Any

import numpy as np

from sirius_tf.ir.expr import Const, Expr

HALF = frozenset({"float16", "bfloat16"})
"""Types that numbers are stored as, but not computed in."""


def zero(dtype: str) -> Expr:
    """The zero of a dtype."""
    return Const(False if dtype == "bool" else 0.0 if "float" in dtype else 0, dtype)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of an IR dtype name, bfloat16 included."""
    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)
