# SPDX-License-Identifier: Apache-2.0
"""The body of a function from a GraphDef in which the function has been inlined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tensorflow.core.framework import function_pb2
from tensorflow.python.framework import op_def_registry

from sirius_tf.errors import SiriusError
from sirius_tf.rewrite.substitute import node_of


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
    known: dict[str, str] = {_full(t): n for t, n in zip(arguments, names, strict=True)}
    cut = {node_of(tensor) for tensor in arguments}

    def translate(tensor: str) -> str:
        if tensor.startswith("^") or _full(tensor) in known:
            return known.get(_full(tensor), tensor)
        node, _, number = _full(tensor).rpartition(":")
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


def _full(tensor: str) -> str:
    return tensor if ":" in tensor or tensor.startswith("^") else f"{tensor}:0"


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
