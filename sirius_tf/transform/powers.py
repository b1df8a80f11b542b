# SPDX-License-Identifier: Apache-2.0
"""Third and fourth powers become products.

    y[i] = pow(x[i], 3)    ->    y[i] = x[i] * x[i] * x[i]

The approximate gelu has a third power of each element. A product is rounded once for each factor
but the first, so that the result may be off by 2 or 3 units in the last place: by about as much as
the function itself.
"""

from __future__ import annotations

from sirius_tf.ir.expr import Call, Const, Expr, call, rewrite, walk
from sirius_tf.ir.functions import FUNCTIONS
from sirius_tf.ir.program import Program
from sirius_tf.ir.rewrite import map_exprs, map_statements


def multiply_out(program: Program) -> Program:
    """The program with small integral powers of what costs little as products."""
    return map_statements(program, lambda s: map_exprs(s, lambda e: rewrite(e, _product)))


def _product(expr: Expr) -> Expr | None:
    match expr:
        case Call("pow", (x, Const(value))) if value in (3.0, 4.0) and _is_cheap(x):
            square = call("mul", x, x)
            return call("mul", square, x if value == 3.0 else square)
    return None


def _is_cheap(x: Expr) -> bool:
    """Whether an expression may be written several times: C compilers compute it once."""
    return all(FUNCTIONS[e.fn].short for e in walk(x) if isinstance(e, Call))
