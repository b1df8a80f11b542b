# SPDX-License-Identifier: Apache-2.0
"""Rules of scans: every element is a sum, or product, of those before it along an axis.

    y[i] = sum over j of (x[j] where j <= i, else 0)

A prefix sum is a reduction here, of n^2 terms: it is parallel and vectorized, where a recurrence
of n steps would have a barrier after each.
"""

from __future__ import annotations

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.expr import Const, Expr, index
from sirius_tf.ir.program import ReduceOp
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import axis_of, zero
from sirius_tf.lower.registry import Lowering, call, lowers
from sirius_tf.lower.value import Indices, Value

LONGEST = 512
"""Elements on the sample inputs, at most: a longer scan is faster step by step, on TensorFlow."""


@lowers("Cumsum", "Cumprod")
def _scan(ctx: Lowering, node: Node) -> Value:
    x = ctx.input(0)
    axis = axis_of(ctx, ctx.host_int(1), x.rank)
    if not x.rank:
        return x
    if x.shape[axis].evaluate(ctx.params.hints) > LONGEST:
        raise ctx.unsupported(f"a scan of more than {LONGEST} elements")
    op: ReduceOp = "add" if node.op == "Cumsum" else "mul"
    one = Const(1.0 if "float" in x.dtype else 1, x.dtype)
    neutral = zero(x.dtype) if op == "add" else one
    order = ("l" if node.attrs.get("reverse") else "g") + (
        "t" if node.attrs.get("exclusive") else "e"
    )
    dim = x.dims[axis]
    before = sum(len(d) for d in x.dims[:axis])

    def at(i: Indices, r: Indices) -> Expr:
        own, other = (
            values.flat_index(dim, i[before : before + len(dim)]),
            values.flat_index(dim, r),
        )
        counts = call(order, index(own, "int32"), index(other, "int32"), dtype="bool")
        return call("select", counts, x.at((*i[:before], *r, *i[before + len(dim) :])), neutral)

    return ctx.contract(op, x.dtype, x.dims, x.atoms, dim, at)
