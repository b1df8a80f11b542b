# SPDX-License-Identifier: Apache-2.0
"""Methods of the object graph that compute what a signature does: they run the compiled code, too.

The function of a signature is most often a wrapper that hands its arguments on to the function that
was traced, and methods (`serve`, `__call__`) have that one, or another wrapper around it:

    signature -> wrapper -> f <- serve          serve -> f': results = compiled(x, variables)

f' is a function of its own, since others may call f. It has the gradient of f, by a call of f that
nothing reads until somebody asks for the gradient (runtime/op.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.python.framework import op_def_registry

from sirius_tf.frontend.convert import CALLS, VARIABLES
from sirius_tf.lower.live import EFFECTS
from sirius_tf.rewrite.asset import ASSET, READ
from sirius_tf.rewrite.function import with_body
from sirius_tf.rewrite.nodedef import enum, full
from sirius_tf.rewrite.substitute import shaped

RESULTS = "SiriusResults"
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_CALL = "sirius/original"
_PURE = {*CALLS, *VARIABLES, *EFFECTS, "ReadVariableOp", "ResourceGather", "ResourceGatherNd"}
_PURE |= {"HashTableV2", "LookupTableFindV2", "LookupTableSizeV2"}
"""Ops that are stateful, but of which one more call does nothing more."""


@dataclass(frozen=True)
class Forwarded:
    """The function that answers in the end, and which of the caller's own arguments are its
    arguments; of the caller's results, which of that function's they are."""

    function: str
    arguments: tuple[int, ...]
    results: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """The nodes that compute what a function does.

    `arguments` and `results` are tensors, and nodes, of `graph_def` by the numbers of the arguments
    and results of the function; `shapes` are those of the results.
    """

    function: str
    arguments: tuple[str, ...]
    results: Mapping[int, str]
    shapes: Mapping[int, tuple[int | None, ...] | None]
    graph_def: Any

    @staticmethod
    def of(
        library: Mapping[str, Any],
        call: Any,
        results: Sequence[str],
        shapes: Sequence[tuple[int | None, ...] | None],
        graph_def: Any,
    ) -> Answer:
        """The answer of a call in the main graph; `results` are the nodes for its results."""
        found = forwarded(library, call.attr["f"].func.name)
        given = [tensor for tensor in call.input if not tensor.startswith("^")]
        tensors = tuple(full(given[k]) for k in found.arguments)
        known = dict(zip(found.results, results, strict=True))
        extents = dict(zip(found.results, shapes, strict=True))
        return Answer(found.function, tensors, known, extents, graph_def)


def forwarded(library: Mapping[str, Any], name: str) -> Forwarded:
    """The function that another one hands its arguments on to; itself, if it computes anything."""
    function = library[name]
    own = [argument.name for argument in function.signature.input_arg]
    returned = [function.ret[result.name] for result in function.signature.output_arg]
    itself = Forwarded(name, tuple(range(len(own))), tuple(range(len(returned))))
    nodes = {node.name: node for node in function.node_def}
    calls = [node for node in nodes.values() if node.op in _CALLS]
    if len(calls) != 1 or any(n.op not in (*_CALLS, "Identity", "NoOp") for n in nodes.values()):
        return itself

    def source(tensor: str) -> str:
        node = nodes.get(tensor.partition(":")[0])
        return source(node.input[0]) if node is not None and node.op == "Identity" else tensor

    given = [source(tensor) for tensor in calls[0].input if not tensor.startswith("^")]
    sources = [source(tensor) for tensor in returned]
    if not set(given) <= set(own) or any(s.partition(":")[0] != calls[0].name for s in sources):
        return itself
    inner = forwarded(library, calls[0].attr["f"].func.name)
    arguments = tuple(own.index(given[k]) for k in inner.arguments)
    numbers = [int(tensor.rpartition(":")[2]) for tensor in sources]
    return Forwarded(inner.function, arguments, tuple(inner.results[k] for k in numbers))


def share(meta_graph: Any, library: Mapping[str, Any], answer: Answer, asset: int) -> None:
    """Give methods that have the answer functions that compute it; `asset` is the bundle's number
    among the objects, and `library` has the functions as they were.

    A function with effects, which its gradient would have once more, stays as it is.
    """
    if not _is_pure(library, answer.function):
        return
    objects = meta_graph.object_graph_def
    called = {n.attr["f"].func.name for n in meta_graph.graph_def.node if n.op in _CALLS}
    for name in sorted(objects.concrete_functions.keys() - called):
        made = _method(library, name, answer) if name in library else None
        if made is None or made.signature.name in objects.concrete_functions:
            continue
        meta_graph.graph_def.library.function.add().CopyFrom(made)
        kept, new = objects.concrete_functions[name], made.signature.name
        objects.concrete_functions[new].CopyFrom(kept)
        objects.concrete_functions[new].bound_inputs.append(asset)
        for node in objects.nodes:
            _renamed(node, name, new)


def _renamed(node: Any, old: str, new: str) -> None:
    """Have an object use a function under another name."""
    kind = node.WhichOneof("kind")
    if kind == "function":
        names = node.function.concrete_functions
        names[:] = [new if name == old else name for name in names]
    elif kind == "bare_concrete_function":
        bare = node.bare_concrete_function
        if bare.concrete_function_name == old:
            bare.concrete_function_name = new


def _method(library: Mapping[str, Any], name: str, answer: Answer) -> Any | None:
    """A function like the named one that runs the compiled code; None if it has another answer."""
    found, function = forwarded(library, name), library[name]
    own = len(function.signature.input_arg)
    if (
        found.function != answer.function
        or _repeats(found.arguments)
        or _repeats(answer.arguments)
        or not set(found.results) <= answer.results.keys()
    ):
        return None
    tensors = [f"{ASSET}/unused_{k}:0" for k in range(own)]
    for tensor, k in zip(answer.arguments, found.arguments, strict=True):
        tensors[k] = tensor
    interface = function_pb2.FunctionDef()
    interface.CopyFrom(function)
    interface.signature.name = re.sub("^(__inference_)?", r"\1sirius_", name)
    interface.signature.input_arg.add(name=ASSET, type=enum("string"))
    if "_input_shapes" in interface.attr:
        interface.attr["_input_shapes"].list.shape.add()
    results = [answer.results[k] for k in found.results]
    made = with_body(interface, answer.graph_def, [*tensors, READ], results, library)
    made.node_def.extend(_with_gradient(function, made, [answer.shapes[k] for k in found.results]))
    return made


def _is_pure(library: Mapping[str, Any], name: str) -> bool:
    """Whether a call of a function changes nothing, and draws no random numbers."""
    stack, seen = [name], {name}
    while stack:
        for node in library[stack.pop()].node_def:
            definition = op_def_registry.get(node.op)
            if definition is None or (definition.is_stateful and node.op not in _PURE):
                return False
            called = {f.name for a in node.attr.values() for f in (a.func, *a.list.func)}
            new = (called & library.keys()) - seen
            seen |= new
            stack += new
    return True


def _repeats(items: Sequence[object]) -> bool:
    return len(set(items)) < len(items)


def _with_gradient(
    function: Any, made: Any, shapes: Sequence[tuple[int | None, ...] | None]
) -> Iterator[Any]:
    """The nodes that give the results of a function the gradient of another one."""
    arguments = function.signature.input_arg
    results = made.signature.output_arg
    call = node_def_pb2.NodeDef(name=_CALL, op="PartitionedCall")
    call.input.extend(argument.name for argument in arguments)
    call.attr["f"].func.name = function.signature.name
    node = node_def_pb2.NodeDef(name="sirius/results", op=RESULTS)
    node.input.extend([*(made.ret[result.name] for result in results), *call.input])
    node.attr["original"].s = _CALL.encode()
    for each in (call, node):
        each.attr["Tin"].list.SetInParent()
        each.attr["Tin"].list.type.extend(argument.type for argument in arguments)
        each.attr["Tout"].list.type.extend(result.type for result in results)
    yield from (call, node)
    for k, (result, shape) in enumerate(zip(results, shapes, strict=True)):
        last = shaped(f"sirius/result_{k}", f"{node.name}:results:{k}", result.type, shape)
        made.ret[result.name] = f"{last.name}:output:0"
        yield last
