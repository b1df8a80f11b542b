# SPDX-License-Identifier: Apache-2.0
"""Rules of constants, variables, casts, and of ops that hand on their inputs."""

from __future__ import annotations

import numpy as np

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.dtypes import FLOAT
from sirius_tf.ir.expr import call
from sirius_tf.lower import value as values
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.tensors import Carried
from sirius_tf.lower.value import Value


@lowers("Identity", "StopGradient", "PreventGradient", "Snapshot", "EnsureShape")
def _identity(ctx: Lowering, node: Node) -> Carried:
    return ctx.carried(node.inputs[0])


@lowers("IdentityN")
def _identities(ctx: Lowering, node: Node) -> list[Carried]:
    return [ctx.carried(edge) for edge in node.inputs]


@lowers("NoOp")
def _nothing(ctx: Lowering, node: Node) -> list[Value]:
    return []


@lowers("Const", "Variable")
def _constant(ctx: Lowering, node: Node) -> Value:
    return ctx.constant(np.asarray(node.attr_array()))


@lowers("Cast")
def _cast(ctx: Lowering, node: Node) -> Value:
    x, dtype = ctx.input(0), node.dtypes[0]
    host = ctx.known(x)
    if host is not None and dtype in ("int32", "int64") and x.dtype != "bool":
        return ctx.from_host(host, dtype)
    number = values.element(host, ()) if host is not None and x.rank == 0 else None
    if number is not None and number.is_const and dtype in FLOAT:
        return ctx.constant(np.array(number.const, np.dtype(dtype)))
    return x if x.dtype == dtype else ctx.map(lambda e: call("cast", e, dtype=dtype), x)
