# SPDX-License-Identifier: Apache-2.0
"""Scalar expressions of the IR in C."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence

from sirius_tf.errors import Unsupported
from sirius_tf.ir.affine import Affine, FloorDiv
from sirius_tf.ir.expr import Call, Const, Dim, Expr, Index, Load

TYPES = {
    "float32": "float",
    "float64": "double",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "uint8": "uint8_t",
    "bool": "uint8_t",
}

PRELUDE = """\
#include "sirius_abi.h"
#include "sirius_barrier.h"
#include "sirius_math.h"
#define HELPER static inline __attribute__((unused))
HELPER int64_t sirius_max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
HELPER int64_t sirius_min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
HELPER int64_t sirius_floordiv(int64_t a, int64_t b) {
  return a / b - (a % b && (a < 0) != (b < 0));
}
HELPER int64_t sirius_floormod(int64_t a, int64_t b) { return a - sirius_floordiv(a, b) * b; }
/* A data-dependent index: out of range, it fails the call, and reads element 0 if there is one. */
HELPER int64_t sirius_bounded(SiriusCall *call, int64_t i, int64_t extent) {
  if ((uint64_t)i < (uint64_t)extent) return i;
  if (!__atomic_exchange_n(&call->failed, 1, __ATOMIC_RELAXED))
    call->error = (SiriusError){"index %lld is not in [0, %lld)", {i, extent}};
  return 0;
}
"""

_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "truncdiv": "/",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "and": "&&",
    "or": "||",
}
_VECTOR = {"exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "sin", "cos"}
_VECTOR |= {"floor", "ceil", "round", "abs", "pow"}


def index(value: Affine) -> str:
    """A quasi-affine expression as an int64_t."""
    text = "" if value.const == 0 and value.terms else str(value.const)
    for key, coefficient in value.terms:
        if isinstance(key, FloorDiv):
            name = f"sirius_floordiv({index(key.numerator)}, {key.divisor})"
        else:
            name = key
        factor = name if coefficient == 1 else f"{coefficient} * {name}"
        text = f"{text} + {factor}" if text else factor
    return f"({text})"


def flat(indices: Sequence[Affine | str], shape: Sequence[Affine]) -> str:
    """Row-major position, by Horner's rule."""
    text = ""
    for i, extent in zip(indices, shape, strict=True):
        one = i if isinstance(i, str) else index(i)
        text = f"({text}) * {index(extent)} + {one}" if text else one
    return text or "0"


def string(text: str) -> str:
    """A C string literal (JSON's escapes of ASCII text are C's)."""
    return json.dumps(text.encode("ascii", "replace").decode())


def expression(expr: Expr, address: Callable[[Load], str], inputs: Mapping[str, int]) -> str:
    """C of `expr`; `address` spells a Load, `inputs` numbers the region's inputs for Dim."""
    match expr:
        case Const(value, dtype):
            return literal(value, dtype)
        case Index(value, dtype):
            return f"({TYPES[dtype]}){index(value)}"
        case Dim(tensor, axis, _):
            return f"in[{inputs[tensor]}].dims[{axis}]"
        case Load():
            return address(expr)
        case Call(fn, args, dtype):
            return apply(fn, [expression(a, address, inputs) for a in args], dtype)


def literal(value: bool | int | float, dtype: str) -> str:
    """A constant of `dtype`, exactly."""
    if dtype in ("float32", "float64"):
        number = float(value)
        if math.isnan(number):
            return '__builtin_nanf("")'
        if math.isinf(number):
            return "-__builtin_inff()" if number < 0 else "__builtin_inff()"
        return f"({TYPES[dtype]}){number.hex()}"
    return f"({TYPES[dtype]}){int(value)}"


def identity(op: str, dtype: str) -> str:
    """Start of a reduction."""
    if op in ("max", "min"):
        if dtype.startswith("float"):
            return literal(-math.inf if op == "max" else math.inf, dtype)
        bits = int("".join(c for c in dtype if c.isdigit()) or 8)
        low, high = (
            (0, 2**bits - 1) if dtype[0] in "ub" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )
        return (
            f"({TYPES[dtype]}){low if op == 'max' else high}ULL"
            if low == 0
            else _signed(op, low, high)
        )
    return literal(1 if op in ("mul", "and") else 0, dtype)


def _signed(op: str, low: int, high: int) -> str:
    return f"({low + 1}LL - 1)" if op == "max" else f"{high}LL"


def apply(fn: str, args: list[str], dtype: str) -> str:
    """C of `fn(*args)` with a result of `dtype`; Unsupported where there is none yet."""
    c_type = TYPES[dtype]
    if fn in _INFIX:
        return f"({c_type})({args[0]} {_INFIX[fn]} {args[1]})"
    match fn:
        case "neg":
            return f"(-{args[0]})"
        case "not":
            return f"(!{args[0]})"
        case "select":
            return f"({args[0]} ? {args[1]} : {args[2]})"
        case "cast":
            return f"({c_type})({args[0]} != 0)" if dtype == "bool" else f"({c_type})({args[0]})"
        case "bounded":
            return f"sirius_bounded(call, {args[0]}, {args[1]})"
        case "floordiv" | "floormod" if dtype.startswith("int"):
            return f"({c_type})sirius_{fn}({args[0]}, {args[1]})"
        case "max" | "min" if dtype == "float32":
            return f"sr_{fn}((sr_f32)({args[0]}), (sr_f32)({args[1]}))[0]"
        case "max" | "min" if dtype.startswith("int"):
            return f"({c_type})sirius_{fn}_i64({args[0]}, {args[1]})"
        case _ if fn in _VECTOR and dtype == "float32":
            spread = ", ".join(f"(sr_f32)({a})" for a in args)
            return f"sr_{fn}({spread})[0]"
    raise Unsupported("", fn, f"no C code for {fn} of {dtype}")
