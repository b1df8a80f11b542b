# SPDX-License-Identifier: Apache-2.0
"""The manifest of a bundle: how to run a signature without TensorFlow, or why that cannot be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import Edge, Graph
from sirius_tf.frontend.savedmodel import PROBE, Signature, Tensor, saved_variables
from sirius_tf.rewrite import checkpoint
from sirius_tf.rewrite.regions import Region, is_variable
from sirius_tf.rewrite.substitute import Use

VERSION = 2


def manifest(
    model: Path | None,
    meta_graph: Any,
    signatures: Mapping[str, tuple[Signature, Sequence[Use]]],
) -> dict[str, object]:
    """The manifest of a model, or of a GraphDef, and the regions its signatures use.

    "uses" names the kernel of each region; "region" is the one that is all of a signature.
    """
    tables = _Tables(model, meta_graph)
    return {
        "sirius": VERSION,
        "variables_hash": checkpoint.variables_hash(model) if model else "",
        "signatures": {
            name: {
                "inputs": {key: _type(tensor) for key, tensor in signature.inputs.items()},
                "outputs": {key: _type(tensor) for key, tensor in signature.outputs.items()},
                "uses": {use.region.name: use.kernel for use in uses},
                **_whole(signature, uses, tables),
            }
            for name, (signature, uses) in signatures.items()
        },
    }


class _Tables:
    """The places, in the file of a checkpoint, of the variables that regions look up."""

    def __init__(self, model: Path | None, meta_graph: Any) -> None:
        self._saved = saved_variables(model, meta_graph) if model else {}
        self._places = checkpoint.tensor_places(model) if model and self._saved else {}

    def of(self, graph: Graph, edge: Edge) -> dict[str, object]:
        saved = self._saved[edge.node]
        if saved.part or saved.key not in self._places:
            raise SiriusError(f"the variable '{saved.key}' that it looks up is saved in parts")
        place = self._places[saved.key]
        return {
            "key": saved.key,
            "dtype": graph.dtype(edge),
            "shape": list(graph.shape(edge) or ()),
            "file": place.file,
            "offset": place.offset,
            "crc32c": place.crc32c,
        }


def _type(tensor: Tensor) -> dict[str, object]:
    return {"dtype": tensor.dtype, "shape": None if tensor.shape is None else list(tensor.shape)}


def _whole(signature: Signature, uses: Sequence[Use], tables: _Tables) -> dict[str, object]:
    """The region that is all of a signature, with its arguments and results; or the reason that
    none is."""
    try:
        if len(uses) != 1:
            raise SiriusError(f"{len(uses)} regions and TensorFlow compute it together")
        region = uses[0].region
        arguments = [_argument(signature, region, edge, tables) for edge in region.inputs]
        results = {
            key: _result(signature, region, f"{PROBE}{k}")
            for k, key in enumerate(signature.outputs)
        }
    except SiriusError as error:
        return {"region": None, "reason": str(error), "arguments": [], "results": {}}
    return {"region": uses[0].kernel, "arguments": arguments, "results": results}


def _argument(
    signature: Signature, region: Region, edge: Edge, tables: _Tables
) -> dict[str, object]:
    graph = signature.graph
    edge = _origin(graph, edge)
    if edge.node in graph.arguments:
        return {"input": _key(signature, edge)}
    if is_variable(graph.by_name[edge.node]):
        return {"table": tables.of(graph, edge)}
    node = graph.by_name[edge.node]
    raise SiriusError(f"TensorFlow computes {edge} ({node.op}) for it")


def _result(signature: Signature, region: Region, probe: str) -> dict[str, object]:
    graph = signature.graph
    node = graph.by_name[probe]
    if any(control not in region.nodes for control in node.control_inputs):
        raise SiriusError("it has effects, which TensorFlow carries out")
    edge = node.inputs[0]
    if edge in region.outputs:
        return {"output": region.outputs.index(edge)}
    edge = _origin(graph, edge)
    if edge.node in graph.arguments:
        return {"input": _key(signature, edge)}
    raise SiriusError(f"TensorFlow computes its result {edge}")


def _origin(graph: Graph, edge: Edge) -> Edge:
    """The edge whose value this one carries, behind Identity ops."""
    while edge.node in graph.by_name and graph.by_name[edge.node].op == "Identity":
        edge = graph.by_name[edge.node].inputs[0]
    return edge


def _key(signature: Signature, edge: Edge) -> str:
    """The input of a signature whose tensor an argument is."""
    names = {edge.node, f"{edge.node}:0"}
    return next(key for key, tensor in signature.inputs.items() if tensor.name in names)
