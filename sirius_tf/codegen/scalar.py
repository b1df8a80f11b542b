# SPDX-License-Identifier: Apache-2.0
"""Scalar expressions of the IR in C."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sirius_tf.errors import Unsupported
from sirius_tf.ir.affine import Affine, FloorDiv
from sirius_tf.ir.dtypes import UNSIGNED, is_float, numpy_dtype
from sirius_tf.ir.expr import Call, Const, Dim, Expr, Index, Load
from sirius_tf.ir.functions import ELEMENTARY, is_generated

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


def index(value: Affine) -> str:
    """A quasi-affine expression as an int64_t."""
    return f"({combined(value, index, '{} + {}'.format, '{} * {}'.format)})"


def combined(
    value: Affine,
    numerator: Callable[[Affine], str],
    plus: Callable[[str, str], str],
    times: Callable[[str, str], str],
) -> str:
    """A quasi-affine expression, of which functions spell numerators of floors, sums, products."""
    text = "" if value.const == 0 and value.terms else str(value.const)
    for key, coefficient in value.terms:
        if isinstance(key, FloorDiv):
            name = f"sirius_floordiv({numerator(key.numerator)}, {key.divisor})"
        else:
            name = key
        factor = name if coefficient == 1 else times(str(coefficient), name)
        text = plus(text, factor) if text else factor
    return text


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


@dataclass(frozen=True)
class Applied:
    """A function applied to C of its arguments, of which the last one's dtype is `source`; the
    result's is `dtype`, in C `c_type`."""

    fn: str
    args: Sequence[str]
    dtype: str
    source: str
    c_type: str


Spelling = str | Callable[["Language", Applied], str]
"""C of a function: a template of its arguments and the result's type, or what makes C of them."""

OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&&", "or": "||"}
OPERATORS |= {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
OPERATORS |= {"bitand": "&", "bitor": "|", "bitxor": "^"}
_WRAPPED = {"int32": "uint32_t", "int64": "uint64_t"}  # narrower ones are computed as int


def _arithmetic(language: Language, f: Applied) -> str:
    a, b, operator, unsigned = *f.args, OPERATORS[f.fn], _WRAPPED.get(f.dtype)
    if unsigned:  # signed overflow is undefined in C, and wraps in TF
        a, b = f"({unsigned}){a}", f"({unsigned}){b}"
    return f"({f.c_type})({a} {operator} {b})"


def _negated(language: Language, f: Applied) -> str:
    unsigned = _WRAPPED.get(f.dtype)
    return f"({f.c_type})({f'0 - ({unsigned})' if unsigned else '-'}{f.args[0]})"


def cast(language: Language, f: Applied) -> str:
    """C of a conversion."""
    if "bfloat16" in (f.dtype, f.source):
        return f"sr_{'to' if f.dtype == 'bfloat16' else 'from'}_bf16({f.args[0]})"
    return f"({f.c_type})({f.args[0]}{' != 0' if f.dtype == 'bool' else ''})"


def _demand(language: Language, f: Applied) -> str:
    failure = language.demand.format(number=f.args[1])
    return f"({f.c_type})({f.args[0]} || ({failure}, 0))"


def _quotient(language: Language, f: Applied) -> str:
    a, b = f.args
    if is_float(f.dtype):
        return language.builtin("floor", f.dtype, f"({f.c_type})({a} / {b})")
    return f"({f.c_type})sirius_{f.fn}({a}, sirius_divisor({language.report}, {b}))"


def _shifted(language: Language, f: Applied) -> str:
    value, bits = f.args[0], 8 * numpy_dtype(f.dtype).itemsize
    by = f"sirius_max_i64(0, sirius_min_i64({f.args[1]}, {bits - 1}))"
    if f.fn == "rshift":
        return f"({f.c_type})({value} >> {by})"
    return f"({f.c_type})((uint{bits}_t){value} << {by})"  # of a negative number, C has no shift


def _extreme(language: Language, f: Applied) -> str:
    a, b = f.args
    if is_float(f.dtype):
        return f"(({a} {'>' if f.fn == 'max' else '<'} {b}) | ({a} != {a}) ? {a} : {b})"
    if f.dtype == "int64":
        return f"({f.c_type})sirius_{f.fn}_i64({a}, {b})"
    # in its own width, else the compiler makes no vectors of a loop
    return language.builtin(f.fn, f.dtype, f"({f.c_type})({a})", f"({f.c_type})({b})")


def _builtin(language: Language, f: Applied) -> str:
    return f"({f.c_type}){language.builtin(f.fn, f.dtype, f'({f.c_type})({f.args[0]})')}"


def _absolute(language: Language, f: Applied) -> str:
    return f.args[0] if f.dtype in UNSIGNED else _builtin(language, f)


def _reciprocal_root(language: Language, f: Applied) -> str:
    return f"(1 / {language.builtin('sqrt', f.dtype, f'({f.c_type})({f.args[0]})')})"


def _elementary(language: Language, f: Applied) -> str:
    return language.elementary(f.fn, f.args, f.dtype)


FUNCTIONS: Mapping[str, Spelling] = {
    **{fn: f"({{type}})({{0}} {operator} {{1}})" for fn, operator in OPERATORS.items()},
    **dict.fromkeys(("add", "sub", "mul"), _arithmetic),
    **dict.fromkeys(("floordiv", "floormod", "truncdiv"), _quotient),
    **dict.fromkeys(("max", "min"), _extreme),
    **dict.fromkeys(("lshift", "rshift"), _shifted),
    **dict.fromkeys(("sqrt", "floor", "ceil", "round"), _builtin),
    **dict.fromkeys(ELEMENTARY, _elementary),
    "neg": _negated,
    "abs": _absolute,
    "sign": "({type})({0} > 0 ? 1 : {0} < 0 ? -1 : {0})",
    "rsqrt": _reciprocal_root,
    "not": "(!{0})",
    "isnan": "({0} != {0})",
    "isfinite": "({0} - {0} == 0)",
    "select": "({0} ? {1} : {2})",
    "cast": cast,
    "bounded": "sirius_bounded({report}, {0}, {1})",
    "demand": _demand,
}


class Language:
    """The spelling of scalars in C. A language that is close to it overrides what it spells
    otherwise."""

    functions: ClassVar[Mapping[str, Spelling]] = FUNCTIONS
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
        if is_float(dtype):
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
            if is_float(dtype):
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

        Unsupported where there is none.
        """
        if not is_generated(fn, dtype):
            raise Unsupported("", fn, f"no code for {fn} of {dtype}")
        spelling, c_type = self.functions[fn], self.types[dtype]
        if isinstance(spelling, str):
            return spelling.format(*args, type=c_type, report=self.report)
        return spelling(self, Applied(fn, args, dtype, source, c_type))

    def builtin(self, fn: str, dtype: str, *args: str) -> str:
        """C of a function that takes an instruction or two, of arguments of `dtype`."""
        name = "roundeven" if fn == "round" else fn
        return f"__builtin_elementwise_{name}({', '.join(args)})"

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
