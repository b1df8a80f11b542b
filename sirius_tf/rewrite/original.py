# SPDX-License-Identifier: Apache-2.0
"""The ops that a region stands for: copies, and a function that answers what the region refuses.

So these are TensorFlow's business: its result, or its error. The function is never inlined, as a
call that is not made must cost next to nothing. It reads variables where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2
from tensorflow.python.framework import op_def_registry

from sirius_tf.frontend.graph import Edge, Graph
from sirius_tf.frontend.upstream import node_of
from sirius_tf.lower.live import has_effect
from sirius_tf.rewrite.function import with_body
from sirius_tf.rewrite.nodedef import enum, full, restore_lowering, tensor_name
from sirius_tf.rewrite.regions import Region, is_variable


@dataclass(frozen=True)
class Original:
    """A function, and the tensors that it is called with."""

    function: Any
    arguments: tuple[str, ...]

    def call(self, name: str, inputs: Iterable[str]) -> Any:
        """A node that calls it.

        It only reads variables. With a stateful node TensorFlow would not inline the caller.
        """
        node = node_def_pb2.NodeDef(name=name, op="PartitionedCall")
        node.input.extend(inputs)
        signature = self.function.signature
        node.attr["Tin"].list.type.extend(argument.type for argument in signature.input_arg)
        node.attr["Tout"].list.type.extend(result.type for result in signature.output_arg)
        node.attr["f"].func.name = signature.name
        return node


def original(region: Region, graph: Graph, nodes: Mapping[str, Any], library: Any) -> Original:
    """The nodes of a region as a function; `nodes` are those of the GraphDef of `graph`.

    It has constants of its own, and reads of variables, whose handles are arguments.
    """
    inside = {node.name: node for node in copies(region, graph, nodes, {}, str)}
    given = [e for e in region.inputs if e.node in graph.arguments or not _is_read(graph, e)]
    arguments = {full(tensor_name(e, graph)): enum(graph.dtype(e)) for e in given}
    stack = [tensor for node in inside.values() for tensor in node.input]
    while stack:
        tensor = full(stack.pop())
        name = node_of(tensor)
        if tensor.startswith("^") or name in inside or tensor in arguments:
            continue
        if nodes[name].op == "Const" or _reads_handle(nodes, name):
            inside[name] = _alone(nodes[name])
            stack += inside[name].input
        else:
            arguments[tensor] = _dtype(nodes[name], int(tensor.rpartition(":")[2]))
    results = _results(region, graph)
    body = graph_pb2.GraphDef(node=[*inside.values(), *results])
    function = _declaration(region, arguments.values(), [graph.dtype(e) for e in region.outputs])
    known = {f.signature.name: f for f in library.function}
    names = [node.name for node in results]
    made = with_body(function, body, list(arguments), names, known)
    return Original(made, tuple(arguments))


def copies(
    region: Region,
    graph: Graph,
    nodes: Mapping[str, Any],
    fed: Mapping[str, str],
    rename: Callable[[str], str],
) -> list[Any]:
    """The nodes of a region under other names, with tensors that are `fed` in place of others.

    They wait for nothing but what says in which loop or branch of TF1 they are. With them come
    constants that would wait, and what reads some of them and is no node of the graph.
    """
    members = [graph.by_name[name] for name in region.nodes]
    copied = {name for node in members for name in node.originals if name in nodes}
    flow = {name for node in members for name in node.stands_for}
    made = []
    stack = sorted(copied)
    while stack:
        node = nodes[stack.pop()]
        copy = _without_inputs(node)
        restore_lowering(copy)
        copy.name = rename(node.name)
        for tensor in node.input:
            whole = full(tensor)
            name = node_of(tensor)
            waits = tensor.startswith("^")
            if whole in fed or (waits and node.name not in flow):
                copy.input.extend([] if waits else [fed[whole]])
                continue
            if name not in copied and (
                _waits(graph, nodes[name]) or _reads(graph, nodes, name, flow)
            ):
                copied.add(name)
                stack.append(name)
            if name in copied:
                copy.input.append(f"^{rename(name)}" if waits else rename(whole))
            elif not waits:
                copy.input.append(whole)
        made.append(copy)
    return made


def _waits(graph: Graph, node: Any) -> bool:
    """Whether a constant, or what is no node of the graph, as a read of a variable, waits."""
    known = node.name in graph.by_name or node.name in graph.standing
    return (node.op == "Const" or not known) and any(t.startswith("^") for t in node.input)


def _reads(graph: Graph, nodes: Mapping[str, Any], name: str, flow: Collection[str]) -> bool:
    """Whether what is no node of the graph reads, or waits for, nodes in `flow`."""
    if name in flow or name in graph.by_name or name in graph.standing:
        return name in flow
    return any(_reads(graph, nodes, node_of(t), flow) for t in nodes[name].input)


def _is_read(graph: Graph, edge: Edge) -> bool:
    """Whether an input of a region is a variable that is read in place."""
    return is_variable(graph.by_name[edge.node])


def _reads_handle(nodes: Mapping[str, Any], name: str) -> bool:
    """Whether a node is the value of a variable, perhaps behind Identity ops."""
    while nodes[name].op == "Identity" and node_of(nodes[name].input[0]) in nodes:
        name = node_of(nodes[name].input[0])
    return bool(nodes[name].op == "ReadVariableOp")


def _alone(node: Any) -> Any:
    """A copy of a node that waits for nothing."""
    copy = _without_inputs(node)
    copy.input.extend(tensor for tensor in node.input if not tensor.startswith("^"))
    return copy


def _without_inputs(node: Any) -> Any:
    """A copy of a node that reads nothing yet, and is nowhere beside another one."""
    copy = node_def_pb2.NodeDef()
    copy.CopyFrom(node)
    copy.attr.pop("_class")
    del copy.input[:]
    return copy


def _dtype(node: Any, output: int) -> int:
    """The number of the dtype of an output."""
    types = list[int]()
    for result in op_def_registry.get(node.op).output_arg:
        count = node.attr[result.number_attr].i if result.number_attr else 1
        listed = node.attr[result.type_list_attr].list.type if result.type_list_attr else ()
        types += listed or [result.type or node.attr[result.type_attr].type] * count
    return types[output]


def _results(region: Region, graph: Graph) -> list[Any]:
    """Nodes that are the results; the first one waits for the effects of the region."""
    made = []
    for k, edge in enumerate(region.outputs):
        node = node_def_pb2.NodeDef(name=f"sirius_result_{k}", op="Identity")
        node.input.append(tensor_name(edge, graph))
        node.attr["T"].type = enum(graph.dtype(edge))
        made.append(node)
    members = (graph.by_name[name] for name in sorted(region.nodes))
    effects = [m.name for m in members if has_effect(graph, m) and not m.stands_for]
    made[0].input.extend(f"^{name}" for name in effects)
    return made


def _declaration(region: Region, arguments: Iterable[int], results: Sequence[str]) -> Any:
    """A function without a body."""
    function = function_pb2.FunctionDef()
    function.signature.name = f"sirius_original_{region.name}"
    function.attr["_noinline"].b = True
    for k, dtype in enumerate(arguments):
        function.signature.input_arg.add(name=f"sirius_argument_{k}", type=dtype)
    for k, name in enumerate(results):
        function.signature.output_arg.add(name=f"sirius_output_{k}", type=enum(name))
    return function
