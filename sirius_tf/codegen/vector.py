# SPDX-License-Identifier: Apache-2.0
"""Functions of the IR on vectors of SIRIUS_LANES elements (native/sirius_math.h).

A vector of bool is a mask: an sr_i32 of zeros and minus ones.
"""

from __future__ import annotations

from collections.abc import Sequence

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
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_LOGIC = {"and": "&", "or": "|", "bitand": "&", "bitor": "|", "bitxor": "^"}
_FUNCTIONS = {"exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "erfc"}
_FUNCTIONS |= {"sin", "cos", "floor", "ceil", "round", "abs", "pow", "max", "min"}


class NotVectorizableError(Exception):
    """An expression that only scalar code computes."""


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


def apply(fn: str, args: Sequence[str], dtypes: Sequence[str], dtype: str) -> str:
    """C of `fn(*args)`, where the arguments are vectors of `dtypes`."""
    vector_type(dtype)
    source = dtypes[-1]
    if fn in _INFIX and dtype != "bool" and (fn != "div" or dtype.startswith("float")):
        return f"({args[0]} {_INFIX[fn]} {args[1]})"
    if fn in _COMPARE:
        mask = f"({args[0]} {_COMPARE[fn]} {args[1]})"
        return convert(mask, "int32") if source in _WIDE else mask
    if fn in _LOGIC:
        return f"({args[0]} {_LOGIC[fn]} {args[1]})"
    match fn:
        case "neg" if dtype != "bool":
            return f"(-{args[0]})"
        case "not":
            return f"(~{args[0]})"
        case "select":
            mask = convert(args[0], "int64") if dtype in _WIDE else args[0]
            return f"({mask} ? {args[1]} : {args[2]})"
        case "cast":
            return _cast(args[0], source, dtype)
        case "sign" if dtype != "bool":
            one, zero = splat("1", dtype), splat("0", dtype)
            lower = apply("lt", [args[0], zero], [dtype] * 2, "bool")
            upper = apply("gt", [args[0], zero], [dtype] * 2, "bool")
            negative = apply("select", [lower, f"(-{one})", args[0]], dtypes, dtype)
            return apply("select", [upper, one, negative], dtypes, dtype)
        case "isnan":
            return apply("ne", [args[0]] * 2, [source] * 2, "bool")
        case "isfinite":
            magnitude = apply("abs", args, dtypes, source)
            return apply("lt", [magnitude, splat("__builtin_inff()", source)], [source] * 2, "bool")
        case "max" | "min" if dtype in ("int32", "int64"):
            return f"__builtin_elementwise_{fn}({args[0]}, {args[1]})"
        case _ if fn in _FUNCTIONS and dtype in ("float32", "float64"):
            suffix = "" if dtype == "float32" else "_f64"
            return f"sr_{fn}{suffix}({', '.join(args)})"
    raise NotVectorizableError(f"{fn} of {dtype}")


def _cast(value: str, source: str, dtype: str) -> str:
    if source == dtype:
        return value
    if source == "bool":
        return convert(f"(-{value})", dtype)
    if "bfloat16" in (dtype, source):
        return f"sr_{'to' if dtype == 'bfloat16' else 'from'}_bf16v({value})"
    if dtype == "bool":
        return apply("ne", [value, splat("0", source)], [source, source], dtype)
    return convert(value, dtype)
