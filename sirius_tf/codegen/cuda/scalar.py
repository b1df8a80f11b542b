# SPDX-License-Identifier: Apache-2.0
"""Scalars in CUDA C++, where its spelling differs from C's (native/sirius_cuda.cuh)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from sirius_tf.codegen import scalar
from sirius_tf.codegen.scalar import Applied, C, Language, Spelling, cast
from sirius_tf.ir.dtypes import HALF, is_float, numpy_dtype

_HALF = {"float16": "f16", "bfloat16": "bf16"}
_NAMES = {"round": "rint", "abs": "fabs"}


def _cast(language: Language, f: Applied) -> str:
    """A conversion; the header has those from and to half precision, which are of float32."""
    if f.dtype == f.source or HALF.isdisjoint((f.dtype, f.source)):
        return cast(language, f)
    value = f"sirius_from_{_HALF[f.source]}({f.args[0]})" if f.source in HALF else f.args[0]
    if f.dtype in HALF:
        return f"sirius_to_{_HALF[f.dtype]}((float)({value}))"
    return cast(language, replace(f, args=[value], source="float32"))


FUNCTIONS: Mapping[str, Spelling] = {**scalar.FUNCTIONS, "cast": _cast}


class CudaLanguage(Language):
    """Half precision is its bits; elementary functions are the header's."""

    functions = FUNCTIONS
    report = "failure"
    failed = "atomicCAS(&failure->failed, 0, 0)"
    demand = "sirius_fail(failure, SIRIUS_FORMATS + {number}, 0, 0)"
    infinity = "__uint_as_float(0x7f800000u)"
    nan = "__uint_as_float(0x7fc00000u)"
    types: ClassVar[Mapping[str, str]] = {**C.types, "float16": "uint16_t"}

    def literal(self, value: bool | int | float, dtype: str) -> str:
        """A constant of `dtype`, exactly."""
        if dtype not in HALF:
            return super().literal(value, dtype)
        return f"(uint16_t){int(numpy_dtype(dtype).type(value).view(np.uint16))}"

    def builtin(self, fn: str, dtype: str, *args: str) -> str:
        """C of a function that takes an instruction or two."""
        a, b = args[0], args[-1]
        if is_float(dtype):
            return f"{_NAMES.get(fn, fn)}({a})"
        match fn:
            case "abs":
                return f"({a} < 0 ? -{a} : {a})"
            case "max" | "min":
                return f"({a} {'>' if fn == 'max' else '<'} {b} ? {a} : {b})"
        return super().builtin(fn, dtype, *args)

    def elementary(self, fn: str, args: Sequence[str], dtype: str) -> str:
        """C of an elementary function of floating-point numbers."""
        return f"sirius_{fn}({', '.join(args)})"

    def opaque(self, pointer: str) -> list[str]:
        """None: ptxas knows how many registers there are when it moves loads."""
        return []

    def fused(self, x: str, y: str, z: str) -> str:
        """C of x * y + z in float32, rounded once."""
        return f"fmaf({x}, {y}, {z})"


CUDA = CudaLanguage()
