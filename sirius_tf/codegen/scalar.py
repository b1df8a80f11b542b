# SPDX-License-Identifier: Apache-2.0
"""Scalar expressions of the IR in C."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np

from sirius_tf.errors import Unsupported
from sirius_tf.ir.affine import Affine, FloorDiv
from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.expr import Call, Const, Dim, Expr, Index, Load

PRELUDE = """\
#include "sirius_abi.h"
#include "sirius_barrier.h"
#include "sirius_math.h"
#include "sirius_math64.h"
#define HELPER static inline __attribute__((unused))
HELPER int64_t sirius_max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
HELPER int64_t sirius_min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
HELPER int64_t sirius_floordiv(int64_t a, int64_t b) {
  if (b == -1) return (int64_t)(0 - (uint64_t)a); /* a / b overflows for the least a */
  return a / b - (a % b && (a < 0) != (b < 0));
}
HELPER int64_t sirius_floormod(int64_t a, int64_t b) {
  return (int64_t)((uint64_t)a - (uint64_t)sirius_floordiv(a, b) * (uint64_t)b);
}
/* Arithmetic of sizes, in a function whose variable `overflow` keeps that a result did not fit. */
#define sirius_add(a, b) sirius_add_i64(a, b, &overflow)
#define sirius_mul(a, b) sirius_mul_i64(a, b, &overflow)
HELPER int64_t sirius_add_i64(int64_t a, int64_t b, int32_t *overflow) {
  int64_t sum;
  *overflow |= __builtin_add_overflow(a, b, &sum);
  return sum;
}
HELPER int64_t sirius_mul_i64(int64_t a, int64_t b, int32_t *overflow) {
  int64_t product;
  *overflow |= __builtin_mul_overflow(a, b, &product);
  return product;
}
HELPER int64_t sirius_estimate(double work) {
  return work < 0x1p62 ? (int64_t)work : INT64_C(1) << 62;
}
HELPER void sirius_fail(SiriusCall *call, const char *format, int64_t a, int64_t b) {
  if (!__atomic_exchange_n(&call->failed, 1, __ATOMIC_RELAXED))
    call->error = (SiriusError){format, {a, b}};
}
/* A data-dependent index: out of range, it fails the call, and reads element 0 if there is one. */
HELPER int64_t sirius_bounded(SiriusCall *call, int64_t i, int64_t extent) {
  if ((uint64_t)i < (uint64_t)extent) return i;
  sirius_fail(call, "index %lld is not in [0, %lld)", i, extent);
  return 0;
}
/* A divisor: zero fails the call. */
HELPER int64_t sirius_divisor(SiriusCall *call, int64_t b) {
  if (b) return b;
  sirius_fail(call, "integer division by zero", 0, 0);
  return 1;
}
/* The number of a tile of a worker's share that nobody has taken, or one that is too high. */
HELPER int64_t sirius_take(SiriusCall *call, int64_t whose, int32_t turn) {
  return __atomic_fetch_add(&call->queues[whose].taken[turn], 1, __ATOMIC_RELAXED);
}
HELPER int32_t sirius_next_turn(SiriusCall *call, int32_t worker, int32_t turn) {
  __atomic_store_n(&call->queues[worker].taken[turn], 0, __ATOMIC_RELAXED);
  return !turn;
}
HELPER int64_t sirius_truncdiv(int64_t a, int64_t b) {
  return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
}
"""

_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "and": "&&",
    "or": "||",
    "bitand": "&",
    "bitor": "|",
    "bitxor": "^",
}
_WRAPPED = {"int32": "uint32_t", "int64": "uint64_t"}  # narrower ones are computed as int
_VECTOR = {"exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "erfc", "sin", "cos", "pow"}
_BUILTIN = {"sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "round": "roundeven", "abs": "abs"}


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


class Language:
    """The spelling of scalars in C. A language that is close to it overrides what it spells
    otherwise."""

    report: ClassVar = "call"
    """The argument by which helpers report failures."""
    failed: ClassVar = "__atomic_load_n(&call->failed, __ATOMIC_RELAXED)"
    """Whether one has."""
    demand: ClassVar = "sirius_fail(call, 0, {number}, 0)"
    """C that reports a condition which does not hold, by the number of the region's message."""
    infinity: ClassVar = "__builtin_inff()"
    nan: ClassVar = '__builtin_nanf("")'
    types: ClassVar[Mapping[str, str]] = {
        "float16": "_Float16",
        "bfloat16": "uint16_t",  # its bits
        "float32": "float",
        "float64": "double",
        "int8": "int8_t",
        "int16": "int16_t",
        "int32": "int32_t",
        "int64": "int64_t",
        "uint8": "uint8_t",
        "bool": "uint8_t",
    }

    def expression(
        self, expr: Expr, address: Callable[[Load], str], inputs: Mapping[str, int]
    ) -> str:
        """C of `expr`; `address` spells a Load, `inputs` numbers the region's inputs for Dim."""
        match expr:
            case Const(value, dtype):
                return self.literal(value, dtype)
            case Index(value, dtype):
                return f"({self.types[dtype]}){self.index(value)}"
            case Dim(tensor, axis, _):
                return f"in[{inputs[tensor]}].dims[{axis}]"
            case Load():
                return address(expr)
            case Call(fn, args, dtype):
                texts = [self.expression(a, address, inputs) for a in args]
                return self.apply(fn, texts, dtype, args[-1].dtype)

    def index(self, value: Affine) -> str:
        """C of a quasi-affine expression, an int64_t."""
        return index(value)

    def plus(self, a: str, b: str) -> str:
        """C of the sum of two sizes."""
        return f"({a} + {b})"

    def times(self, a: str, b: str) -> str:
        """C of the product of two sizes."""
        return f"{a} * {b}"

    def literal(self, value: bool | int | float, dtype: str) -> str:
        """A constant of `dtype`, exactly."""
        if dtype == "bfloat16":
            return f"(uint16_t){int(numpy_dtype(dtype).type(value).view(np.uint16))}"
        if dtype.startswith("float"):
            number = float(value)
            if math.isnan(number):
                return self.nan
            if math.isinf(number):
                return f"-{self.infinity}" if number < 0 else self.infinity
            return f"({self.types[dtype]}){number.hex()}"
        return f"({self.types[dtype]}){int(value)}"

    def identity(self, op: str, dtype: str) -> str:
        """Start of a reduction."""
        if op in ("max", "min"):
            if dtype.startswith("float"):
                return self.literal(-math.inf if op == "max" else math.inf, dtype)
            bits = int("".join(c for c in dtype if c.isdigit()) or 8)
            low, high = (
                (0, 2**bits - 1) if dtype[0] in "ub" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            )
            return (
                f"({self.types[dtype]}){low if op == 'max' else high}ULL"
                if low == 0
                else _signed(op, low, high)
            )
        return self.literal(1 if op in ("mul", "and") else 0, dtype)

    def apply(self, fn: str, args: list[str], dtype: str, source: str = "") -> str:
        """C of `fn(*args)` with a result of `dtype`; the last argument's dtype is `source`.

        Unsupported where there is none yet.
        """
        c_type = self.types[dtype]
        a, b = args[0], args[-1]
        floating = dtype.startswith("float")
        if fn in ("add", "sub", "mul", "neg") and dtype in _WRAPPED:
            unsigned = _WRAPPED[dtype]  # signed overflow is undefined in C, and wraps in TF
            left, sign = ("0", "-") if fn == "neg" else (f"({unsigned}){a}", _INFIX[fn])
            return f"({c_type})({left} {sign} ({unsigned}){b})"
        if fn in _INFIX:
            return f"({c_type})({a} {_INFIX[fn]} {b})"
        match fn:
            case "neg":
                return f"({c_type})(-{a})"
            case "not":
                return f"(!{a})"
            case "select":
                return f"({a} ? {args[1]} : {args[2]})"
            case "sign":
                return f"({c_type})({a} > 0 ? 1 : {a} < 0 ? -1 : {a})"
            case "isnan":
                return f"({a} != {a})"
            case "isfinite":
                return f"({a} - {a} == 0)"
            case "cast" if "bfloat16" in (dtype, source):
                return f"sr_{'to' if dtype == 'bfloat16' else 'from'}_bf16({a})"
            case "cast":
                return f"({c_type})({a} != 0)" if dtype == "bool" else f"({c_type})({a})"
            case "demand":
                return f"({c_type})({a} || ({self.demand.format(number=b)}, 0))"
            case "bounded":
                return f"sirius_bounded({self.report}, {a}, {b})"
            case "floordiv" | "floormod" | "truncdiv" if not floating:
                return f"({c_type})sirius_{fn}({a}, sirius_divisor({self.report}, {b}))"
            case "floordiv" if floating:
                return self.builtin("floor", dtype, f"({c_type})({a} / {b})")
            case "max" | "min":
                return self.extreme(fn, a, b, dtype)
            case "rsqrt" if floating:
                return f"(1 / {self.builtin('sqrt', dtype, f'({c_type})({a})')})"
            case "abs" if dtype.startswith("u"):
                return a
            case _ if fn in _BUILTIN and (floating or fn == "abs"):
                return f"({c_type}){self.builtin(fn, dtype, f'({c_type})({a})')}"
            case _ if fn in _VECTOR and floating:
                return self.elementary(fn, args, dtype)
        raise Unsupported("", fn, f"no C code for {fn} of {dtype}")

    def extreme(self, fn: str, a: str, b: str, dtype: str) -> str:
        """C of the maximum or minimum; of floating-point numbers NaN, if one is."""
        c_type = self.types[dtype]
        if dtype.startswith("float"):
            order = ">" if fn == "max" else "<"
            return f"(({a} {order} {b}) | ({a} != {a}) ? {a} : {b})"
        if dtype == "int64":
            return f"({c_type})sirius_{fn}_i64({a}, {b})"
        # in its own width, else the compiler makes no vectors of a loop
        return self.builtin(fn, dtype, f"({c_type})({a})", f"({c_type})({b})")

    def builtin(self, fn: str, dtype: str, *args: str) -> str:
        """C of a function that takes an instruction or two, of arguments of `dtype`."""
        return f"__builtin_elementwise_{_BUILTIN.get(fn, fn)}({', '.join(args)})"

    def elementary(self, fn: str, args: Sequence[str], dtype: str) -> str:
        """C of an elementary function of floating-point numbers."""
        vector, suffix = ("sr_f32", "") if dtype == "float32" else ("sr_f64", "_f64")
        spread = ", ".join(f"({vector})({x})" for x in args)
        return f"sr_{fn}{suffix}({spread})[0]"

    def opaque(self, pointer: str) -> list[str]:
        """Statements after which the compiler knows nothing of a pointer's value."""
        return [f'__asm__("" : "+r"({pointer}));']

    def fused(self, x: str, y: str, z: str) -> str:
        """C of x * y + z in float32, rounded once."""
        return f"__builtin_fmaf({x}, {y}, {z})"


def _signed(op: str, low: int, high: int) -> str:
    return f"({low + 1}LL - 1)" if op == "max" else f"{high}LL"


C = Language()
