# SPDX-License-Identifier: Apache-2.0
"""Scalars in CUDA C++, where its spelling differs from C's (native/sirius_cuda.cuh)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from sirius_tf.codegen.scalar import C, Language
from sirius_tf.ir.dtypes import HALF, numpy_dtype

_HALF = {"float16": "f16", "bfloat16": "bf16"}
_NAMES = {"round": "rint", "abs": "fabs"}


class CudaLanguage(Language):
    """Half precision is its bits; elementary functions are the header's."""

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

    def apply(self, fn: str, args: list[str], dtype: str, source: str = "") -> str:
        """C of `fn(*args)` with a result of `dtype`; half precision is only cast."""
        if fn != "cast" or dtype == source or HALF.isdisjoint((dtype, source)):
            return super().apply(fn, args, dtype, source)
        value = f"sirius_from_{_HALF[source]}({args[0]})" if source in HALF else args[0]
        if dtype in HALF:
            return f"sirius_to_{_HALF[dtype]}((float)({value}))"
        return super().apply(fn, [value], dtype, "float32")

    def builtin(self, fn: str, dtype: str, *args: str) -> str:
        """C of a function that takes an instruction or two."""
        a, b = args[0], args[-1]
        if dtype.startswith("float"):
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
