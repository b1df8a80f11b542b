# SPDX-License-Identifier: Apache-2.0
"""Functions of the IR on vectors of SIRIUS_LANES elements (native/sirius_math.h).

A vector of bool is a mask: an sr_i32 of zeros and minus ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sirius_tf.codegen.scalar import OPERATORS
from sirius_tf.errors import VerifyError
from sirius_tf.ir.dtypes import FLOAT, INTEGER
from sirius_tf.ir.functions import ELEMENTARY, is_generated

TYPES = {
    "float16": "sr_f16",
    "bfloat16": "sr_u16",  # its bits
    "float32": "sr_f32",
    "float64": "sr_f64",
    "int32": "sr_i32",
    "int64": "sr_i64",
    "bool": "sr_i32",
}
MEMORY = {"float32": "f32", "float64": "f64", "int32": "i32", "int64": "i64", "bool": "u8"}
MEMORY |= {"float16": "f16", "bfloat16": "u16"}

_WIDE = ("float64", "int64")


class NotVectorizableError(VerifyError):
    """A plan has lanes where only scalar code computes; cpu/plans.py tells where."""


def vector_type(dtype: str) -> str:
    """The C type of a vector; NotVectorizableError if there is none."""
    if dtype not in TYPES:
        raise NotVectorizableError(dtype)
    return TYPES[dtype]


def splat(scalar: str, dtype: str) -> str:
    """A scalar in every lane."""
    if dtype == "bool":
        return f"(sr_i32)(-(int32_t)({scalar}))"
    return f"({vector_type(dtype)})({scalar})"


def convert(value: str, dtype: str) -> str:
    """Elementwise conversion to the vector type of `dtype`."""
    return f"__builtin_convertvector({value}, {vector_type(dtype)})"


def has(fn: str, dtypes: Sequence[str], dtype: str) -> bool:
    """Whether `apply` has a function of vectors of these dtypes."""
    if not {dtype, *dtypes} <= TYPES.keys() or fn in SCALAR or not is_generated(fn, dtype):
        return False
    if fn in ("max", "min") and dtype in INTEGER:
        return True
    source = dtypes[-1] if fn == "isfinite" else dtype
    return source in FLOAT or (fn != "isfinite" and FUNCTIONS[fn] not in (_of_header, _extreme))


def apply(fn: str, args: Sequence[str], dtypes: Sequence[str], dtype: str) -> str:
    """C of `fn(*args)`, where the arguments are vectors of `dtypes`."""
    vector_type(dtype)
    if fn in SCALAR or not is_generated(fn, dtype):
        raise NotVectorizableError(f"{fn} of {dtype}")
    spelling = FUNCTIONS[fn]
    if isinstance(spelling, str):
        return spelling.format(*args)
    return spelling(Applied(fn, args, dtypes, dtype))


@dataclass(frozen=True)
class Applied:
    """A function applied to vectors of `dtypes`; the result is one of `dtype`."""

    fn: str
    args: Sequence[str]
    dtypes: Sequence[str]
    dtype: str

    @property
    def source(self) -> str:
        """The dtype of the last argument."""
        return self.dtypes[-1]


def _comparison(f: Applied) -> str:
    mask = f"({f.args[0]} {OPERATORS[f.fn]} {f.args[1]})"
    return convert(mask, "int32") if f.source in _WIDE else mask


def _select(f: Applied) -> str:
    mask = convert(f.args[0], "int64") if f.dtype in _WIDE else f.args[0]
    return f"({mask} ? {f.args[1]} : {f.args[2]})"


def _sign(f: Applied) -> str:
    one, zero = splat("1", f.dtype), splat("0", f.dtype)
    lower, upper = (apply(fn, [f.args[0], zero], [f.dtype] * 2, "bool") for fn in ("lt", "gt"))
    negative = apply("select", [lower, f"(-{one})", f.args[0]], f.dtypes, f.dtype)
    return apply("select", [upper, one, negative], f.dtypes, f.dtype)


def _is_nan(f: Applied) -> str:
    return apply("ne", [f.args[0]] * 2, [f.source] * 2, "bool")


def _is_finite(f: Applied) -> str:
    magnitude, infinity = apply("abs", f.args, f.dtypes, f.source), "__builtin_inff()"
    return apply("lt", [magnitude, splat(infinity, f.source)], [f.source] * 2, "bool")


def _extreme(f: Applied) -> str:
    if f.dtype in INTEGER:
        return f"__builtin_elementwise_{f.fn}({f.args[0]}, {f.args[1]})"
    return _of_header(f)


def _shifted(f: Applied) -> str:
    kind, bits = [f.dtype] * 2, 64 if f.dtype in _WIDE else 32
    by = apply("min", [f.args[1], splat(str(bits - 1), f.dtype)], kind, f.dtype)
    by = apply("max", [by, splat("0", f.dtype)], kind, f.dtype)
    if f.fn == "rshift":
        return f"({f.args[0]} >> {by})"
    return f"({TYPES[f.dtype]})((sr_u{bits}){f.args[0]} << (sr_u{bits}){by})"


def _of_header(f: Applied) -> str:
    if f.dtype not in FLOAT:
        raise NotVectorizableError(f"{f.fn} of {f.dtype}")
    return f"sr_{f.fn}{'' if f.dtype == 'float32' else '_f64'}({', '.join(f.args)})"


def _cast(f: Applied) -> str:
    value, source, dtype = f.args[0], f.source, f.dtype
    if source == dtype:
        return value
    if source == "bool":
        return convert(f"(-{value})", dtype)
    if "bfloat16" in (dtype, source):
        return f"sr_{'to' if dtype == 'bfloat16' else 'from'}_bf16v({value})"
    if dtype == "bool":
        return apply("ne", [value, splat("0", source)], [source, source], dtype)
    return convert(value, dtype)


FUNCTIONS: Mapping[str, str | Callable[[Applied], str]] = {
    **{fn: f"({{0}} {operator} {{1}})" for fn, operator in OPERATORS.items()},
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), _comparison),
    **dict.fromkeys(("max", "min"), _extreme),
    **dict.fromkeys(("lshift", "rshift"), _shifted),
    **dict.fromkeys(("sqrt", "rsqrt", "floor", "ceil", "round", "abs", *ELEMENTARY), _of_header),
    "and": "({0} & {1})",
    "or": "({0} | {1})",
    "not": "(~{0})",
    "neg": "(-{0})",
    "sign": _sign,
    "isnan": _is_nan,
    "isfinite": _is_finite,
    "select": _select,
    "cast": _cast,
}
"""Templates of the arguments, or what makes C of them."""

SCALAR = frozenset({"bounded", "demand", "floordiv", "floormod", "truncdiv"})
"""Functions that only scalar code computes: those that can fail do so for one element."""
