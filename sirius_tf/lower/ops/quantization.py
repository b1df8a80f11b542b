# SPDX-License-Identifier: Apache-2.0
"""Rules of ops that round floats to the values of a quantized type (Jacob et al. 2018)."""

from __future__ import annotations

import numpy as np

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.dtypes import number
from sirius_tf.ir.expr import Expr, call
from sirius_tf.lower.boxes import agree
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.value import Value


def _number(value: float) -> Expr:
    return number(value, "float32")


@lowers("FakeQuantWithMinMaxArgs")
def _by_attributes(ctx: Lowering, node: Node) -> Value:
    ends = (np.float32(node.attr_float(name)) for name in ("min", "max"))
    return _rounded(ctx, node, ctx.input(0), *(ctx.constant(np.asarray(end)) for end in ends))


@lowers("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel")
def _by_inputs(ctx: Lowering, node: Node) -> Value:
    """The ends are scalars, or vectors along the last dimension."""
    x, low, high = ctx.inputs()
    for end in (low, high):
        agree(ctx, x.shape[-1:] if node.op.endswith("PerChannel") else (), end.shape)
    return _rounded(ctx, node, x, low, high)


def _rounded(ctx: Lowering, node: Node, x: Value, low: Value, high: Value) -> Value:
    """The nearest of 2^bits values from low to high, which are moved so that 0 is one of them."""
    least = 1.0 if node.attr_bool("narrow_range") else 0.0
    most = 2.0 ** node.attr_int("num_bits") - 1

    def step(low: Expr, high: Expr) -> Expr:
        return call("div", call("sub", high, low), _number(most - least))

    def origin(low: Expr, scale: Expr) -> Expr:
        """The position of 0, a whole number."""
        exact = call("sub", _number(least), call("div", low, scale))
        whole = call("floor", exact)
        up = call("ge", call("sub", exact, whole), _number(0.5), dtype="bool")
        near = call("select", up, call("add", whole, _number(1.0)), whole)
        return call("min", call("max", near, _number(least)), _number(most))

    scale = ctx.map(step, low, high)
    zero = ctx.map(origin, low, scale)

    def quantized(x: Expr, scale: Expr, zero: Expr, low: Expr, high: Expr) -> Expr:
        first, last = (call("mul", call("sub", _number(n), zero), scale) for n in (least, most))
        inverse = call("div", _number(1.0), scale)
        half = _number(0.5)
        offset = call("floor", call("add", call("mul", call("neg", first), inverse), half))
        shifted = call("sub", call("max", call("min", x, last), first), first)
        position = call("add", call("sub", call("mul", shifted, inverse), offset), half)
        none = (call("eq", end, _number(0.0), dtype="bool") for end in (low, high))
        y = call("mul", call("floor", position), scale)
        return call("select", call("and", *none, dtype="bool"), _number(0.0), y)

    return ctx.map(quantized, x, scale, zero, low, high)
