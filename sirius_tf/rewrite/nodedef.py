# SPDX-License-Identifier: Apache-2.0
"""Nodes and tensors of a GraphDef by name."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from sirius_tf.frontend.convert import CALLS
from sirius_tf.frontend.graph import Edge, Graph


def tensor_name(edge: Edge, graph: Graph) -> str:
    """The tensor of an edge; an argument may be called as a tensor."""
    if edge.node in graph.arguments:
        return full(edge.node)
    edge = graph.original(edge)
    return f"{edge.node}:{edge.output}"


def full(tensor: str) -> str:
    """The name of a tensor with its number; a control input stays one."""
    return tensor if ":" in tensor or tensor.startswith("^") else f"{tensor}:0"


def restore_lowering(node: Any) -> None:
    """Inlining had to switch this off."""
    if node.op in CALLS and "_lower_using_switch_merge" in node.attr:
        node.attr["_lower_using_switch_merge"].b = True


def enum(dtype: str) -> int:
    """TensorFlow's number of a dtype."""
    return int(tf.dtypes.as_dtype(dtype).as_datatype_enum)
