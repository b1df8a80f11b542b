# SPDX-License-Identifier: Apache-2.0
"""A bare GraphDef in which regions take the place of nodes; its tensors keep their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.savedmodel import PROBE, Signature, Tensor, between
from sirius_tf.frontend.upstream import node_of
from sirius_tf.rewrite.asset import ASSET
from sirius_tf.rewrite.metagraph import Edit
from sirius_tf.rewrite.nodedef import enum, full
from sirius_tf.rewrite.substitute import substitute

SIGNATURE = "graph"


def as_signature(graph_def: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Signature:
    """Cut a GraphDef between tensors, as a signature; its keys are the given names."""
    results = {key: key for key in outputs}
    inlined, graph = between(graph_def, SIGNATURE, inputs, results, {})
    known = {full(a.name): a for a in graph.inputs}
    arguments = {key: known[full(key)] for key in inputs}
    return Signature(
        SIGNATURE,
        {key: Tensor(full(key), a.dtype, a.shape) for key, a in arguments.items()},
        {key: Tensor(full(key), graph.dtype(e), graph.shape(e)) for key, e in graph.outputs},
        graph,
        inlined,
    )


def named_parts(signature: Signature) -> dict[str, str]:
    """Nodes of several outputs that cannot be replaced, as tensors of theirs are asked for."""
    graph = signature.graph
    probed = [edge for _, probe in graph.outputs for edge in graph.by_name[probe.node].inputs]
    return {
        edge.node: "one of its outputs is a result by name"
        for edge in probed
        if edge.node in graph.by_name
        and not graph.by_name[edge.node].stands_for
        and len(graph.by_name[edge.node].dtypes) > 1
    }


def rewrite(graph_def: Any, edit: Edit, bundle: Path) -> Any:
    """The GraphDef with the regions; the path of the bundle is a constant in it."""
    signature = edit.signature
    made = substitute(signature.inlined, signature.graph, edit.uses, f"{ASSET}:0")
    path = made.node.add(name=ASSET, op="Const")
    path.attr["dtype"].type = enum("string")
    path.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(str(bundle.resolve())))
    nodes = {node.name: node for node in made.node}
    for original in graph_def.node:
        fed = any(node_of(t.name) == original.name for t in signature.inputs.values())
        if fed and original.name not in nodes:
            made.node.add().CopyFrom(original)
    for k, (key, tensor) in enumerate(signature.outputs.items()):
        probe = nodes[f"{PROBE}{k}"]
        if len(probe.input) > 1 or full(probe.input[0]) != tensor.name:
            if tensor.name.endswith(":0") and node_of(tensor.name) not in nodes:
                probe.name = node_of(tensor.name)
                continue
            raise SiriusError(f"output '{key}' is a result of a call; name an Identity behind it")
        made.node.remove(probe)
    return made
