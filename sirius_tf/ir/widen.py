# SPDX-License-Identifier: Apache-2.0
"""Programs in double precision, to tell the error of narrower ones.

y[i] = cast(x[i] * 0.5, float16), of float32    becomes    y[i] = x[i] * 0.5, of float64
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sirius_tf.ir.dtypes import is_float
from sirius_tf.ir.expr import Expr, rewrite
from sirius_tf.ir.functions import Array
from sirius_tf.ir.program import Program, Tensor
from sirius_tf.ir.rewrite import map_exprs, map_statements


def widened(program: Program) -> Program:
    """The program with float64 in place of all floating types: inputs, constants and results."""

    def node(expr: Expr) -> Expr | None:
        return replace(expr, dtype="float64") if is_float(expr.dtype) else None

    def exact(expr: Expr) -> Expr:
        return rewrite(expr, node)

    params = tuple(replace(p, value=exact(p.value)) for p in program.params)
    checks = tuple(replace(c, condition=exact(c.condition)) for c in program.checks)
    made = map_statements(program, lambda s: map_exprs(s, exact))
    return replace(made, tensors=tuple(map(_tensor, program.tensors)), params=params, checks=checks)


def wide(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The arrays, with float64 in place of all floating types."""
    return {name: _float64(x) if is_float(str(x.dtype)) else x for name, x in arrays.items()}


def _tensor(t: Tensor) -> Tensor:
    if not is_float(t.dtype):
        return t
    return replace(t, dtype="float64", value=None if t.value is None else _float64(t.value))


def _float64(array: Array) -> Array:
    return np.asarray(array).astype(np.float64)
