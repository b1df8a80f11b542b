# SPDX-License-Identifier: Apache-2.0
"""Regions become SiriusRegion ops in the GraphDef of a signature.

    control:  c ^-> r     r -> n        where r is in a region, c and n are not
    becomes   c ^-> S     S -> r' -> n          if c depends on no region
              c ^-> r'    S -> r' -> n          if it does

S is the SiriusRegion op; r' is the EnsureShape that has r's name and the region's result. A region
has no effects, so that it may run before c; what reads its result must not, and does not.

A region may refuse a call that TensorFlow accepts. It has the original ops beside it then:

    a    = SiriusAccepts(x, bundle)            whether the checks hold
    F, T = Switch(bundle, a)
    r    = Merge(SiriusRegion(x, T), f(x) behind F)        f: the original ops (original.py)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

from sirius_tf.frontend.graph import Edge, Graph, Shape
from sirius_tf.frontend.upstream import node_of
from sirius_tf.lower.live import has_effect
from sirius_tf.rewrite.nodedef import enum, restore_lowering, tensor_name
from sirius_tf.rewrite.original import original
from sirius_tf.rewrite.regions import Region, is_variable

OP = "SiriusRegion"
ACCEPTS = "SiriusAccepts"


@dataclass(frozen=True)
class Use:
    """A region in a graph, and the kernel that computes it: another region may share it.

    If it `may_refuse` a call that TensorFlow accepts, the original ops answer what it refuses.
    """

    region: Region
    kernel: str
    may_refuse: bool = False


def substitute(graph_def: Any, graph: Graph, uses: Sequence[Use], bundle: str) -> Any:
    """The GraphDef with regions in place of their nodes; `graph` is the Graph of `graph_def`.

    `bundle` is the tensor with the bundle's path, which need not be there yet. What the outputs of
    `graph` do not need is dropped.
    """
    moved = _Moved(graph, uses)
    made = graph_pb2.GraphDef(versions=graph_def.versions, library=graph_def.library)
    handles = {node.name: node for node in graph_def.node}
    for node in graph_def.node:
        if node.name not in moved.region_of:
            kept = made.node.add()
            kept.CopyFrom(node)
            del kept.input[:]
            kept.input.extend(moved.inputs(node.input))
            restore_lowering(kept)
    for use in uses:
        made.node.extend(_region_nodes(graph, moved, use, bundle, handles, made.library))
    return _needed(made, [edge.node for _, edge in graph.outputs])


def region_op(
    name: str, use: Use, graph: Graph, inputs: Iterable[str], bundle: str, controls: Iterable[str]
) -> Any:
    """The NodeDef of a SiriusRegion."""
    region = use.region
    node = node_def_pb2.NodeDef(name=name, op=OP)
    node.input.extend([*inputs, bundle, *(f"^{c}" for c in controls)])
    node.attr["Tin"].list.SetInParent()
    node.attr["Tin"].list.type.extend(enum(graph.dtype(edge)) for edge in region.inputs)
    node.attr["Tout"].list.type.extend(enum(graph.dtype(edge)) for edge in region.outputs)
    node.attr["region"].s = use.kernel.encode()
    node.attr["digest"].s = region.digest.encode()
    return node


def table_reads(
    use: Use, graph: Graph, name: str, is_resource: Callable[[str], bool]
) -> tuple[list[Any], dict[int, str]]:
    """Nodes that read the tables of a region; the tensor of input k, where that is a table."""
    nodes: list[Any] = []
    tensors: dict[int, str] = {}
    for k, edge in enumerate(use.region.inputs):
        if edge.node not in graph.by_name or not is_variable(graph.by_name[edge.node]):
            continue
        resource = is_resource(edge.node)
        read = node_def_pb2.NodeDef(
            name=f"{name}/table_{k}", op="ReadVariableOp" if resource else "Identity"
        )
        read.input.append(edge.node)
        read.attr["dtype" if resource else "T"].type = enum(graph.dtype(edge))
        if resource:  # a ResourceGather anywhere would make every read copy all of it
            share = node_def_pb2.NodeDef(name=f"{name}/share_{k}", op="DisableCopyOnRead")
            share.input.append(edge.node)
            read.input.append(f"^{share.name}")
            nodes.append(share)
        nodes.append(read)
        tensors[k] = f"{read.name}:0"
    return nodes, tensors


class _Moved:
    """The edges from and into regions, as they are afterwards."""

    def __init__(self, graph: Graph, uses: Sequence[Use]) -> None:
        self.region_of = {node: use.region for use in uses for node in use.region.nodes}
        for replaced, name in graph.standing.items():
            if name in self.region_of:
                self.region_of[replaced] = self.region_of[name]
        self._graph = graph
        self._waits: dict[str, set[str]] = {}
        self._dependent = _downstream(graph, self.region_of)
        for node in graph.nodes:
            self._visit(node.name)

    def _visit(self, name: str) -> None:
        node = self._graph.by_name[name]
        region = self.region_of.get(name)
        before = {edge.node for edge in node.inputs} | set(node.control_inputs)
        if region is None:
            return
        waits: set[str] = set()
        for need in before:
            if self.region_of.get(need) is region or (
                need in node.control_inputs and need in self.region_of
            ):
                waits |= self._waits[need]
            elif need in node.control_inputs:
                waits.add(need)
        waits.update(
            self.op_name(self.region_of[c])
            for c in node.control_inputs
            if c in self.region_of
            and self.region_of[c] is not region
            and has_effect(self._graph, self._graph.by_name[c])
        )
        self._waits[name] = waits

    def op_name(self, region: Region) -> str:
        """The name of the SiriusRegion node."""
        return f"sirius/{region.name}"

    def early(self, region: Region) -> list[str]:
        """The nodes that the region itself waits for."""
        waits = set[str]().union(*(self._waits[node] for node in region.nodes))
        early = [w for w in waits if w in self._graph.by_name and w not in self._dependent]
        return self._waited(early)

    def late(self, node: str) -> list[str]:
        """The nodes that readers of a region's node, and nodes that wait for it, wait for besides
        the region."""
        node = self._graph.standing.get(node, node)
        early = self.early(self.region_of[node])
        return sorted(set(self._waited(self._waits[node])) - set(early))

    def _waited(self, names: Iterable[str]) -> list[str]:
        """The nodes to wait for where these are to be waited for."""
        found = set[str]()
        for name in names:
            node = self._graph.by_name.get(name)
            results = node.results if node else ()
            found.update([edge.node for edge in results if edge] or [name])
        return sorted(found)

    def result(self, edge: Edge) -> str:
        """The tensor that carries what an edge carried."""
        node = self._graph.by_name.get(edge.node)
        if edge.node not in self.region_of or node is None or node.stands_for:
            return tensor_name(edge, self._graph)
        single = len(node.dtypes) == 1
        return f"{edge.node}:0" if single else f"{edge.node}/sirius_{edge.output}:0"

    def inputs(self, tensors: Iterable[str]) -> list[str]:
        """The inputs of a node that stays."""
        data: list[str] = []
        controls: dict[str, None] = {}
        for tensor in tensors:
            name = node_of(tensor)
            region = self.region_of.get(name)
            if region is None and tensor.startswith("^"):
                controls[name] = None
            elif region is None:
                data.append(tensor)
            elif tensor.startswith("^"):
                controls.update(dict.fromkeys([self.op_name(region), *self.late(name)]))
            else:
                edge = Edge(name, int(tensor.partition(":")[2] or 0))
                data.append(self.result(self._graph.carried.get(edge, edge)))
        return data + [f"^{name}" for name in controls]


def _downstream(graph: Graph, names: Iterable[str]) -> set[str]:
    """Nodes, and all that depends on them."""
    readers: dict[str, list[str]] = {}
    for node in graph.nodes:
        for need in {edge.node for edge in node.inputs} | set(node.control_inputs):
            readers.setdefault(need, []).append(node.name)
    seen: set[str] = set()
    stack = list(names)
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack.extend(readers.get(name, ()))
    return seen


def _region_nodes(
    graph: Graph,
    moved: _Moved,
    use: Use,
    bundle: str,
    nodes: Mapping[str, Any],
    library: Any,
) -> list[Any]:
    region = use.region
    name = moved.op_name(region)
    made, tables = table_reads(use, graph, name, lambda node: nodes[node].op == "VarHandleOp")
    inputs = [tables.get(k) or moved.result(edge) for k, edge in enumerate(region.inputs)]
    results = [f"{name}:{k}" for k in range(len(region.outputs))]
    if use.may_refuse:
        found = original(region, graph, nodes, library)
        library.function.add().CopyFrom(found.function)
        others = [*moved.inputs(found.arguments), *(f"^{c}" for c in moved.early(region))]
        made += _choice(name, use, graph, inputs, bundle)
        made.append(found.call(f"{name}/original", [*others, f"^{name}/refused"]))
        bundle, pairs = f"{name}/side:1", list(enumerate(region.outputs))
        made += [_merged(name, k, graph.dtype(edge)) for k, edge in pairs]
        results = [f"{name}/either_{k}:0" for k, _ in pairs]
    made.append(region_op(name, use, graph, inputs, bundle, moved.early(region)))
    for edge, result in zip(region.outputs, results, strict=True):
        tensor = moved.result(edge)
        made.append(shaped(node_of(tensor), result, enum(graph.dtype(edge)), graph.shape(edge)))
        made[-1].input.extend(f"^{control}" for control in moved.late(edge.node))
    return made


def _choice(name: str, use: Use, graph: Graph, inputs: Sequence[str], bundle: str) -> list[Any]:
    """Nodes that decide who answers a call. Side 1 of the Switch is the region's."""
    accepts = region_op(f"{name}/accepts", use, graph, inputs, bundle, ())
    accepts.op = ACCEPTS
    side = node_def_pb2.NodeDef(name=f"{name}/side", op="Switch")
    side.input.extend([bundle, f"{accepts.name}:0"])
    refused = node_def_pb2.NodeDef(name=f"{name}/refused", op="Identity")
    refused.input.append(f"{side.name}:0")
    for node in (side, refused):
        node.attr["T"].type = enum("string")
    return [accepts, side, refused]


def _merged(name: str, k: int, dtype: str) -> Any:
    """Result `k` of the region or, where it refuses a call, of the original ops."""
    node = node_def_pb2.NodeDef(name=f"{name}/either_{k}", op="Merge")
    node.input.extend([f"{name}:{k}", f"{name}/original:{k}"])
    node.attr["T"].type = enum(dtype)
    node.attr["N"].i = 2
    return node


def shaped(name: str, tensor: str, dtype: int, shape: Shape | None) -> Any:
    """An op that hands a tensor on, and states its static shape: the region's op knows none."""
    node = node_def_pb2.NodeDef(name=name, op="Identity" if shape is None else "EnsureShape")
    node.input.append(tensor)
    node.attr["T"].type = dtype
    if shape is not None:
        node.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return node


def _needed(graph_def: Any, roots: Iterable[str]) -> Any:
    """The GraphDef without what the roots do not need; nor do colocations keep anything."""
    nodes = {node.name: node for node in graph_def.node}
    stack, seen = list(roots), set()
    while stack:
        name = stack.pop()
        if name not in seen and name in nodes:
            seen.add(name)
            stack.extend(node_of(tensor) for tensor in nodes[name].input)
    made = graph_pb2.GraphDef(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        if node.name not in seen:
            continue
        kept = made.node.add()
        kept.CopyFrom(node)
        places = [p for p in kept.attr["_class"].list.s if p.decode().partition("@")[2] in seen]
        kept.attr.pop("_class")
        if places:
            kept.attr["_class"].list.s.extend(places)
    return made
