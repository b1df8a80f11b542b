# SPDX-License-Identifier: Apache-2.0
"""A MetaGraphDef in which signatures use regions, edited in place.

Of a TF2 model only the functions of signatures change, and of a TF1 model the nodes of the main
graph that signatures compute with; every signature, variable, table, asset and saver stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import control_flow_pb2, meta_graph_pb2
from tensorflow.python.framework import op_def_registry

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.convert import VARIABLES
from sirius_tf.frontend.graph import Node
from sirius_tf.frontend.savedmodel import PROBE, Signature
from sirius_tf.frontend.upstream import node_of
from sirius_tf.rewrite import methods
from sirius_tf.rewrite.asset import ASSET, CHECK, INIT_OP, READ, add_asset, has
from sirius_tf.rewrite.function import drop_unused, with_body
from sirius_tf.rewrite.nodedef import enum, full
from sirius_tf.rewrite.substitute import ACCEPTS, OP, Use, substitute

_CONTEXTS = {
    "cond_context": control_flow_pb2.CondContextDef,
    "while_context": control_flow_pb2.WhileContextDef,
}
"""Notes of TF1 on branches and loops, by collection: for their gradients only."""
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


@dataclass(frozen=True)
class Edit:
    """A signature, and the regions to be used there."""

    signature: Signature
    uses: tuple[Use, ...]


def rewrite(meta_graph: Any, edits: Sequence[Edit], bundle: Path) -> Any:
    """The MetaGraphDef with the edits made; `bundle` is the file among the assets."""
    made = meta_graph_pb2.MetaGraphDef()
    made.CopyFrom(meta_graph)
    edits = [edit for edit in edits if edit.uses]
    if not edits:
        return made
    asset = add_asset(made, bundle, {use for edit in edits for use in edit.uses})
    done: set[str] = set()
    others = [key for key in meta_graph.signature_def if key != INIT_OP]
    library = {f.signature.name: f for f in meta_graph.graph_def.library.function}
    for edit in edits:
        graph_def = substitute(edit.signature.inlined, edit.signature.graph, edit.uses, READ)
        _add_functions(made.graph_def.library, graph_def.library)
        call = function_call(meta_graph, edit.signature)
        if call is None:
            _edit_main(made, edit, graph_def, alone=len(others) == 1)
        elif call.attr["f"].func.name not in done:
            done.add(call.attr["f"].func.name)
            _edit_function(made, edit.signature, call, graph_def, asset)
            if asset is not None:
                answer = _answer(library, edit.signature, call, graph_def)
                methods.share(made, library, answer, asset)
    if any(function_call(meta_graph, edit.signature) is None for edit in edits):
        nodes = [n for edit in edits for use in edit.uses for n in use.region.graph.nodes]
        _prune(made, nodes)
    for op in (OP, ACCEPTS, CHECK, methods.RESULTS):
        made.meta_info_def.stripped_op_list.op.add().CopyFrom(op_def_registry.get(op))
    return made


def function_call(meta_graph: Any, signature: Signature) -> Any:
    """The node that calls the function of a signature; None if the main graph computes it."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    calls = {node_of(tensor.name) for tensor in signature.outputs.values()}
    call = nodes[min(calls)] if len(calls) == 1 else None
    if call is None or call.op not in _CALLS:
        return None
    arguments = {node_of(tensor) for tensor in call.input}
    fed = {node_of(tensor.name) for tensor in signature.inputs.values()}
    return call if fed <= arguments | {call.name} else None


def _edit_function(
    meta_graph: Any, signature: Signature, call: Any, graph_def: Any, asset: int | None
) -> None:
    """Give the function of a signature a new body, and the bundle's path as one more argument."""
    name = call.attr["f"].func.name
    library = {f.signature.name: f for f in meta_graph.graph_def.library.function}
    function = library[name]
    for caller in library.values():
        if any(node.attr["f"].func.name == name for node in caller.node_def if "f" in node.attr):
            raise SiriusError(
                f"signature '{signature.name}': its function {name} is called by "
                f"{caller.signature.name} too; leave the signature out"
            )
    function.signature.input_arg.add(name=ASSET, type=enum("string"))
    if "_input_shapes" in function.attr:
        function.attr["_input_shapes"].list.shape.add()
    arguments = [*(t for t in call.input if not t.startswith("^")), READ]
    results = _results(signature, call, function)
    body = with_body(function, graph_def, arguments, results, library)
    function.CopyFrom(body)
    for node in meta_graph.graph_def.node:
        if node.op in _CALLS and node.attr["f"].func.name == name:
            data = [t for t in node.input if not t.startswith("^")]
            node.input.insert(len(data), READ)
            node.attr["Tin"].list.type.append(enum("string"))
    if asset is not None and name in meta_graph.object_graph_def.concrete_functions:
        meta_graph.object_graph_def.concrete_functions[name].bound_inputs.append(asset)
        drop_unused(meta_graph, function)


def _answer(
    library: Mapping[str, Any], signature: Signature, call: Any, graph_def: Any
) -> methods.Answer:
    """The answer of the function of a signature, for methods that have the same."""
    results = _results(signature, call, library[call.attr["f"].func.name])
    shapes = {f"{PROBE}{k}": t.shape for k, t in enumerate(signature.outputs.values())}
    return methods.Answer.of(library, call, results, [shapes[r] for r in results], graph_def)


def _results(signature: Signature, call: Any, function: Any) -> list[str]:
    """The node that computes each result of the function of a signature."""
    probes: dict[str, str] = {}
    for index, tensor in enumerate(signature.outputs.values()):
        node, _, number = tensor.name.partition(":")
        probes[f"{node}:{number or 0}"] = f"{PROBE}{index}"
    wanted = [f"{call.name}:{k}" for k in range(len(function.signature.output_arg))]
    missing = [tensor for tensor in wanted if tensor not in probes]
    if missing:
        raise SiriusError(
            f"signature '{signature.name}': the result {missing[0]} of its function is not one of "
            "its outputs; leave the signature out"
        )
    return [probes[tensor] for tensor in wanted]


def _edit_main(meta_graph: Any, edit: Edit, graph_def: Any, alone: bool) -> None:
    """Replace nodes of the main graph, or with other signatures there put new ones beside them."""
    main = {node.name: node for node in meta_graph.graph_def.node}
    outputs = {f"{PROBE}{k}": key for k, key in enumerate(edit.signature.outputs)}
    changed = {
        node.name
        for node in graph_def.node
        if node.name not in main or list(node.input) != list(main[node.name].input)
    }
    if not alone:
        _spread(graph_def, changed)
        prefix = f"{edit.uses[0].region.name}/"  # is a name of its own
        graph_def = _renamed(graph_def, {name: prefix + name for name in changed})
        changed = {prefix + name for name in changed}
        outputs = {prefix + probe: key for probe, key in outputs.items()}
    for node in graph_def.node:
        key = outputs.get(node.name)
        if key is None and node.name in changed:
            target = main.get(node.name)
            (meta_graph.graph_def.node.add() if target is None else target).CopyFrom(node)
        elif key is not None:
            tensor = full(node.input[0])
            if len(node.input) > 1:  # the output has to wait for effects
                meta_graph.graph_def.node.add().CopyFrom(node)
                tensor = f"{node.name}:0"
            meta_graph.signature_def[edit.signature.name].outputs[key].name = tensor


def _prune(meta_graph: Any, replaced: Sequence[Node]) -> None:
    """Take out of the main graph what was replaced and is read, or named, by nothing any more.

    What a loop or a branch of TF1 has that no signature needs goes with it.
    """
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    compiled = {original for node in replaced for original in node.originals}
    compiled |= _inside(nodes, replaced)
    definitions = meta_graph.signature_def.values()
    named = {
        node_of(t.name) for d in definitions for t in (*d.inputs.values(), *d.outputs.values())
    }
    for collection in meta_graph.collection_def.values():
        named.update(node_of(name) for name in collection.node_list.value)
    stack = [name for name in nodes if name not in compiled or name in named]
    needed: set[str] = set()
    while stack:
        name = stack.pop()
        if name in nodes and name not in needed:
            needed.add(name)
            stack.extend(node_of(tensor) for tensor in nodes[name].input)
    gone = compiled & nodes.keys() - needed
    read = {node_of(tensor) for name in gone for tensor in nodes[name].input}
    gone = {name for name in gone if nodes[name].op not in VARIABLES or name in read}
    kept = [node for node in meta_graph.graph_def.node if node.name not in gone]
    del meta_graph.graph_def.node[:]
    meta_graph.graph_def.node.extend(kept)
    for key, kind in _CONTEXTS.items():
        if has(meta_graph, key):
            contexts = meta_graph.collection_def[key].bytes_list.value
            left = [c for c in contexts if gone.isdisjoint(_names(kind.FromString(c)))]
            del contexts[:]
            contexts.extend(left)


def _inside(nodes: Mapping[str, Any], replaced: Sequence[Node]) -> set[str]:
    """The nodes that depend on nodes inside of loops and branches of TF1, up to where these end."""
    readers: dict[str, list[str]] = {}
    for node in nodes.values():
        for tensor in node.input:
            readers.setdefault(node_of(tensor), []).append(node.name)
    ends = {edge.node for node in replaced for edge in node.results if edge}
    stack = [name for node in replaced for name in node.stands_for if name not in ends]
    found: set[str] = set()
    while stack:
        for reader in readers.get(stack.pop(), ()):
            if reader not in found | ends:
                found.add(reader)
                stack.extend([] if nodes[reader].op == "Exit" else [reader])
    return found


def _names(context: Any) -> set[str]:
    """The nodes that a note of a branch or loop names, nested ones included."""
    return {node_of(name) for name in re.findall('"(.*?)"', str(context))}


def _spread(graph_def: Any, changed: set[str]) -> None:
    """Add to `changed` what depends on it."""
    growing = True
    while growing:
        before = len(changed)
        for node in graph_def.node:
            if any(node_of(tensor) in changed for tensor in node.input):
                changed.add(node.name)
        growing = len(changed) > before


def _renamed(graph_def: Any, names: dict[str, str]) -> Any:
    made = type(graph_def)()
    made.CopyFrom(graph_def)
    for node in made.node:
        node.name = names.get(node.name, node.name)
        for k, tensor in enumerate(node.input):
            old = node_of(tensor)
            if old in names:
                caret = "^" if tensor.startswith("^") else ""
                node.input[k] = caret + names[old] + tensor.removeprefix(caret)[len(old) :]
        for k, place in enumerate(node.attr["_class"].list.s):
            old = place.decode().partition("@")[2]
            node.attr["_class"].list.s[k] = f"loc:@{names.get(old, old)}".encode()
        if not node.attr["_class"].list.s:
            node.attr.pop("_class")
    return made


def _add_functions(library: Any, found: Any) -> None:
    """Functions that inlining has specialized."""
    known = {function.signature.name for function in library.function}
    for function in found.function:
        if function.signature.name not in known:
            library.function.add().CopyFrom(function)
            for node in library.function[-1].node_def:
                if "_lower_using_switch_merge" in node.attr:
                    node.attr["_lower_using_switch_merge"].b = True


def select(saved_model: Any) -> Any:
    """The MetaGraphDef that the frontend reads."""
    for meta_graph in saved_model.meta_graphs:
        if "serve" in meta_graph.meta_info_def.tags:
            return meta_graph
    return saved_model.meta_graphs[0]
