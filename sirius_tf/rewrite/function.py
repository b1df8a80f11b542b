# SPDX-License-Identifier: Apache-2.0
"""FunctionDefs that change: their bodies, from a GraphDef in which they have been inlined, and what
they capture."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tensorflow.core.framework import function_pb2
from tensorflow.python.framework import op_def_registry

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.upstream import node_of
from sirius_tf.rewrite.nodedef import full

_READ_ONLY = "_read_only_resource_inputs"  # numbers of arguments
_SHAPES = "_input_shapes"


def with_body(
    function: Any,
    graph_def: Any,
    arguments: Sequence[str],
    results: Sequence[str],
    library: Mapping[str, Any],
) -> Any:
    """A FunctionDef of the same interface that computes nodes `results` of `graph_def`.

    `arguments` are the tensors that the function's arguments stand for. What the results wait for
    are the function's effects.
    """
    made = function_pb2.FunctionDef()
    made.CopyFrom(function)
    made.ret.clear()
    made.control_ret.clear()
    del made.node_def[:], made.signature.control_output[:]
    nodes = {node.name: node for node in graph_def.node}
    names = [str(argument.name) for argument in function.signature.input_arg]
    known: dict[str, str] = {full(t): n for t, n in zip(arguments, names, strict=True)}
    cut = {node_of(tensor) for tensor in arguments}

    def translate(tensor: str) -> str:
        if tensor.startswith("^") or full(tensor) in known:
            return known.get(full(tensor), tensor)
        node, _, number = full(tensor).rpartition(":")
        if node not in nodes:
            raise SiriusError(
                f"function '{function.signature.name}' cannot reach node '{node}'; leave its "
                "signature out"
            )
        return f"{node}:{_outputs(nodes[node], library)[int(number)]}"

    for node in graph_def.node:
        if node.name in cut:
            continue
        body = made.node_def.add()
        body.CopyFrom(node)
        del body.input[:]
        waits = [t for t in node.input if not (t.startswith("^") and node_of(t) in cut)]
        body.input.extend(translate(tensor) for tensor in waits)
    for argument, result in zip(function.signature.output_arg, results, strict=True):
        made.ret[argument.name] = translate(result)
    for effect in sorted({node_of(t) for r in results for t in nodes[r].input if t[0] == "^"}):
        if effect not in cut:
            made.control_ret[effect] = effect
            made.signature.control_output.append(effect)
    return made


def _outputs(node: Any, library: Mapping[str, Any]) -> list[str]:
    """The outputs of a node as a function spells them: `product:0`."""
    definition = op_def_registry.get(node.op)
    if definition is None:
        if node.op not in library:
            raise SiriusError(f"node '{node.name}': TensorFlow does not know the op {node.op}")
        definition = library[node.op].signature
    found = []
    for argument in definition.output_arg:
        count = 1
        if argument.number_attr:
            count = node.attr[argument.number_attr].i
        elif argument.type_list_attr:
            count = len(node.attr[argument.type_list_attr].list.type)
        found += [f"{argument.name}:{k}" for k in range(count)]
    return found


def drop_unused(meta_graph: Any, function: Any) -> None:
    """Take captured arguments that the body does not read from a function and from its callers.

    Each costs a call from Python about 6 us (measured).
    What a function captures are its last arguments, as many as its object has bound inputs.
    """
    name = function.signature.name
    bound = meta_graph.object_graph_def.concrete_functions[name].bound_inputs
    arguments = [argument.name for argument in function.signature.input_arg]
    first = len(arguments) - len(bound)
    read = _read(function)
    unused = {k for k in range(first, len(arguments)) if arguments[k] not in read}
    _keep(function.signature.input_arg, unused)
    _keep(bound, {k - first for k in unused})
    _renumber(function.arg_attr, len(arguments), unused)
    _renumber(function.resource_arg_unique_id, len(arguments), unused)
    _keep_attributes(function.attr, len(arguments), unused)
    for node in meta_graph.graph_def.node:
        if "f" in node.attr and node.attr["f"].func.name == name:
            _keep(node.input, unused)  # control inputs come last
            _keep(node.attr["Tin"].list.type, unused)
            _keep_attributes(node.attr, len(arguments), unused)


def _read(function: Any) -> set[str]:
    """The nodes and arguments whose values the body and the results of a function read."""
    tensors = [tensor for node in function.node_def for tensor in node.input]
    tensors += function.ret.values()
    return {tensor.lstrip("^").partition(":")[0] for tensor in tensors}


def _keep(items: Any, dropped: Collection[int]) -> None:
    for k in sorted(dropped, reverse=True):
        del items[k]


def _numbers(count: int, dropped: Collection[int]) -> dict[int, int]:
    """The new number of each argument that stays."""
    return {old: new for new, old in enumerate(k for k in range(count) if k not in dropped)}


def _renumber(by_argument: Any, count: int, dropped: Collection[int]) -> None:
    numbers = _numbers(count, dropped)
    kept = {numbers[k]: _copied(by_argument[k]) for k in list(by_argument) if k in numbers}
    by_argument.clear()
    for number, value in kept.items():
        if isinstance(value, int):
            by_argument[number] = value
        else:
            by_argument[number].CopyFrom(value)


def _copied(value: Any) -> Any:
    if isinstance(value, int):
        return value
    made = type(value)()
    made.CopyFrom(value)
    return made


def _keep_attributes(attributes: Any, count: int, dropped: Collection[int]) -> None:
    if _SHAPES in attributes:
        _keep(attributes[_SHAPES].list.shape, dropped)
    if _READ_ONLY in attributes:
        numbers = _numbers(count, dropped)
        kept = [numbers[k] for k in attributes[_READ_ONLY].list.i if k in numbers]
        attributes[_READ_ONLY].list.i[:] = kept
