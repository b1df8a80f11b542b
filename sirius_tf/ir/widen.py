# SPDX-License-Identifier: Apache-2.0
"""Programs in double precision, to tell the error of narrower ones.

y[i] = cast(x[i] * 0.5, float16), of float32    becomes    y[i] = x[i] * 0.5, of float64
"""

from __future__ import annotations

from dataclasses import replace

from sirius_tf.ir.dtypes import is_float
from sirius_tf.ir.expr import Call, Const, DType, Expr, Load, rewrite
from sirius_tf.ir.program import Program
from sirius_tf.ir.rewrite import map_exprs, map_statements


def widened(program: Program) -> Program:
    """The program with float64 in place of all floating types: inputs, constants and results."""
    tensors = tuple(replace(t, dtype=_wide(t.dtype)) for t in program.tensors)
    params = tuple(replace(p, value=_of_expr(p.value)) for p in program.params)
    checks = tuple(replace(c, condition=_of_expr(c.condition)) for c in program.checks)
    program = replace(program, tensors=tensors, params=params, checks=checks)
    return map_statements(program, lambda s: map_exprs(s, _of_expr))


def _wide(dtype: DType) -> DType:
    return "float64" if is_float(dtype) else dtype


def _of_expr(expr: Expr) -> Expr:
    def of_node(node: Expr) -> Expr | None:
        if isinstance(node, Call | Const | Load):
            return replace(node, dtype=_wide(node.dtype))
        return None

    return rewrite(expr, of_node)
