# SPDX-License-Identifier: Apache-2.0
"""Numbers of half precision: stored so, computed in float32, and rounded once when they are stored.

    y[i] = x[i] + 1, in float16   ->   y[i] = float16(float32(x[i]) + 1)

That is what TensorFlow's CPU kernels do, op by op; a reduction accumulates in float32. So half
precision occurs in the tensors of a program, in loads, constants and casts, and nowhere else.
"""

from __future__ import annotations

from sirius_tf.ir.dtypes import HALF, numpy_dtype
from sirius_tf.ir.expr import Call, Const, DType, Expr, Index, Load, rewrite


def wide(dtype: DType) -> DType:
    """The dtype that values of `dtype` are computed in."""
    return "float32" if dtype in HALF else dtype


def widened(expr: Expr, dtype: DType) -> Expr:
    """`expr`, to be stored as `dtype`, with its arithmetic in float32."""
    expr = rewrite(expr, _widened)
    return _cast(expr, dtype) if dtype in HALF else expr


def _widened(node: Expr) -> Expr | None:
    """A node, whose arguments are widened already, in float32 if it is of half precision."""
    match node:
        case Const(value, dtype) if dtype in HALF:
            return Const(float(numpy_dtype(dtype).type(value)), "float32")
        case Index(value, dtype) if dtype in HALF:
            return _cast(_cast(Index(value, "float32"), dtype), "float32")
        case Load(_, _, dtype) if dtype in HALF:
            return _cast(node, "float32")
        case Call("cast", (x,), dtype) if dtype in HALF:  # others go through float32, too
            return _cast(_cast(_cast(x, "float32"), dtype), "float32")
        case Call(fn, args, dtype) if dtype in HALF:
            return Call(fn, args, "float32")
    return None


def _cast(x: Expr, dtype: DType) -> Expr:
    """A conversion, but not back from a wider type: that changes nothing."""
    match x:
        case Call("cast", (y,), "float32") if y.dtype == dtype and dtype in HALF:
            return y
    return x if x.dtype == dtype else Call("cast", (x,), dtype)
