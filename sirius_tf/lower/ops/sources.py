# SPDX-License-Identifier: Apache-2.0
"""Rules of constants, variables, casts, and of ops that hand on their inputs."""

from __future__ import annotations

import numpy as np

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.dtypes import FLOAT
from sirius_tf.ir.expr import DType, call
from sirius_tf.ir.polynomial import poly
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import agree
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.tensors import Carried
from sirius_tf.lower.value import Host, Value


@lowers("Identity", "StopGradient", "PreventGradient", "Snapshot")
def _identity(ctx: Lowering, node: Node) -> Carried:
    return ctx.carried(node.inputs[0])


@lowers("EnsureShape")
def _ensure_shape(ctx: Lowering, node: Node) -> Value:
    x, shape = ctx.input(0), node.attr_shape("shape")
    if shape is not None:
        agree(ctx, [poly(-1 if size is None else size) for size in shape], x.shape)
    return x


@lowers("IdentityN")
def _identities(ctx: Lowering, node: Node) -> list[Carried]:
    return [ctx.carried(edge) for edge in node.inputs]


@lowers("NoOp")
def _nothing(ctx: Lowering, node: Node) -> list[Value]:
    return []


@lowers("Const", "Variable")
def _constant(ctx: Lowering, node: Node) -> Value:
    return ctx.constant(np.asarray(node.attr_array()))


def _fitting(host: Host, dtype: DType) -> Host:
    """Elements as a dtype holds them: constants wrap, and sizes are taken to fit."""
    result = np.empty(host.shape, object)
    for point in np.ndindex(*host.shape):
        number = values.element(host, point)
        if number.is_const:
            number = poly(int(np.asarray(number.const).astype(dtype)))
        result[point] = number
    return result


@lowers("Cast")
def _cast(ctx: Lowering, node: Node) -> Value:
    x, dtype = ctx.input(0), node.dtypes[0]
    host = ctx.known(x)
    if host is not None and dtype in ("int32", "int64") and x.dtype != "bool":
        return ctx.from_host(_fitting(host, dtype), dtype)
    number = values.element(host, ()) if host is not None and x.rank == 0 else None
    if number is not None and number.is_const and dtype in FLOAT:
        return ctx.constant(np.array(number.const, np.dtype(dtype)))
    return x if x.dtype == dtype else ctx.map(lambda e: call("cast", e, dtype=dtype), x)
