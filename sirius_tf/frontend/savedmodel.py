# SPDX-License-Identifier: Apache-2.0
"""Reading a SavedModel: a Graph for each signature, functions inlined and constants resolved."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import function_pb2, types_pb2
from tensorflow.core.protobuf import (
    config_pb2,
    meta_graph_pb2,
    rewriter_config_pb2,
    trackable_object_graph_pb2,
)
from tensorflow.python.framework import function_def_to_graph, op_def_registry
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.saved_model import loader_impl

from sirius_tf.errors import SiriusError
from sirius_tf.frontend import inlining
from sirius_tf.frontend.convert import Body, Source, convert, dtype_name, static_shape
from sirius_tf.frontend.functional import functional
from sirius_tf.frontend.graph import Argument, Graph, Shape
from sirius_tf.frontend.variables import Saved, Tracked, Variables

PROBE = "sirius_output_"
"""Name of the Identity nodes that stand for the outputs of an inlined signature, in order."""
_INIT_OP = "__saved_model_init_op"
_CHECKPOINT = "variables/variables"
_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"
_TYPES = {t for t in types_pb2.DataType.values() if 0 < t < types_pb2.DT_FLOAT_REF}
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Errors of reading where something is not what TensorFlow writes there."""


@dataclass(frozen=True)
class Tensor:
    """An argument or a result of a signature: its tensor in the main graph, and its type."""

    name: str
    dtype: str
    shape: Shape | None


@dataclass(frozen=True)
class Signature:
    """A signature; an argument of `graph` is called as the node of the input's tensor.

    `inlined` is the GraphDef that `graph` shows.
    """

    name: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    graph: Graph
    inlined: Any


@dataclass(frozen=True)
class Model:
    """A SavedModel as far as it was read; `skipped` says why signatures are not read."""

    path: Path
    signatures: Mapping[str, Signature]
    skipped: Mapping[str, str]


def read(path: str | os.PathLike[str], signatures: Sequence[str] | None = None) -> Model:
    """Read the named signatures of a SavedModel, or all that take and return dense tensors."""
    try:
        return _read(Path(path), signatures)
    except SiriusError:
        raise
    except (*_MALFORMED, tf.errors.OpError) as error:
        raise SiriusError(
            f"{os.fspath(path)} cannot be read as a SavedModel ({type(error).__name__}: {error}): "
            "restore its files, or save the model anew"
        ) from error


def _read(path: Path, signatures: Sequence[str] | None) -> Model:
    meta_graph = load_meta_graph(path)
    known = [key for key in meta_graph.signature_def if key != _INIT_OP]
    names = sorted(known) if signatures is None else list(signatures)
    for name in names:
        if name not in known:
            listed = ", ".join(f"'{key}'" for key in sorted(known)) or "none"
            raise SiriusError(f"{path} has no signature '{name}'; it has {listed}")
    skipped = {name: why for name in names if (why := _composite(meta_graph.signature_def[name]))}
    if signatures is not None and skipped:
        name, why = next(iter(skipped.items()))
        raise SiriusError(f"signature '{name}': {why}; leave the signature out")
    values = _constant_values(path, meta_graph)
    read = {name: _signature(meta_graph, name, values) for name in names if name not in skipped}
    return Model(path, read, skipped)


def load_meta_graph(path: str | os.PathLike[str]) -> Any:
    """The MetaGraphDef of a SavedModel that is for serving, else its first."""
    path = Path(path)
    if not path.is_dir():
        raise SiriusError(f"{path} is not a directory: name that of a SavedModel")
    try:
        saved_model = loader_impl.parse_saved_model(str(path))
    except OSError as error:
        raise SiriusError(f"{path} is not a SavedModel: {error}") from error
    if not saved_model.meta_graphs:
        raise SiriusError(f"{path} has no MetaGraphDef: save the model anew")
    for meta_graph in saved_model.meta_graphs:
        if "serve" in meta_graph.meta_info_def.tags:
            return meta_graph
    return saved_model.meta_graphs[0]


def between(
    graph_def: Any,
    name: str,
    inputs: Sequence[str],
    outputs: Mapping[str, Tensor | str],
    values: Mapping[str, np.ndarray[Any, Any]],
) -> tuple[Any, Graph]:
    """Cut a GraphDef between tensors: the GraphDef with function calls inlined, and its Graph.

    Results are called by the keys of `outputs`: tensors, or names of some of unknown types.
    """
    inlined = inline(graph_def, inputs, list(outputs.values()))
    probes = {key: f"{PROBE}{index}:0" for index, key in enumerate(outputs)}
    return inlined, graph_of(inlined, name, inputs, probes, values)


def inline(graph_def: Any, inputs: Sequence[str], tensors: Sequence[Tensor | str]) -> Any:
    """A GraphDef that computes these tensors of `graph_def`, function calls inlined.

    Tensor i is the Identity `sirius_output_<i>`, whose control inputs are the side effects.
    While and If stay functional. Of other nodes only inputs are left. `graph_def` is not changed.
    """
    work = meta_graph_pb2.MetaGraphDef()
    work.graph_def.CopyFrom(graph_def)
    for index, tensor in enumerate(_typed(graph_def, tensors)):
        probe = work.graph_def.node.add(name=f"{PROBE}{index}", op="Identity")
        probe.input.append(tensor.name)
        probe.attr["T"].type = tf.dtypes.as_dtype(tensor.dtype).as_datatype_enum
        work.collection_def["train_op"].node_list.value.append(probe.name)
    inlining.unmark(work.graph_def)
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.min_graph_nodes = -1
    rewrite.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    rewrite.optimizers.append("function")
    rewrite.function_optimization = rewriter_config_pb2.RewriterConfig.AGGRESSIVE
    unranked = inlining.give_rank(work.graph_def)
    _check_nodes(work.graph_def)
    probes = work.collection_def["train_op"].node_list.value
    inlining.prune(work.graph_def, [*probes, *inputs])
    try:
        inlined = tf_optimizer.OptimizeGraph(config, work)
    except (ValueError, tf.errors.OpError) as error:
        names = ", ".join(tensor if isinstance(tensor, str) else tensor.name for tensor in tensors)
        raise SiriusError(f"TensorFlow cannot inline what computes {names}: {error}") from error
    for node in inlined.node:
        if node.name in unranked:
            node.attr["shape"].shape.Clear()
            node.attr["shape"].shape.unknown_rank = True
    return inlined


def _check_nodes(graph_def: Any) -> None:
    """Raise SiriusError for what would end the process inside of Grappler: a placeholder of no
    type, a constant of a negative size. Hints of placeholders' shapes go: `shape` says it all."""
    for node in graph_def.node:
        if node.op == "Placeholder":
            node.attr.pop("_output_shapes", None)
            if (dtype := node.attr["dtype"].type) not in _TYPES:
                raise _malformed(node, f"has no type that TensorFlow knows ({dtype})")
    for nodes in [graph_def.node, *(function.node_def for function in graph_def.library.function)]:
        for node in nodes:
            for attr in node.attr.values():
                if any(size.size < 0 for size in attr.tensor.tensor_shape.dim):
                    raise _malformed(node, "has a constant of a negative size")


def _malformed(node: Any, problem: str) -> SiriusError:
    return SiriusError(f"node '{node.name}' ({node.op}) {problem}: save the model anew")


def graph_of(
    graph_def: Any,
    name: str,
    inputs: Sequence[str],
    outputs: Mapping[str, str],
    values: Mapping[str, np.ndarray[Any, Any]],
) -> Graph:
    """The Graph of a GraphDef between tensors, shapes inferred; `values` are of variables."""
    graph = tf.Graph()
    try:
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
    except (ValueError, tf.errors.OpError) as error:
        raise SiriusError(f"TensorFlow rejects graph '{name}': {error}") from error
    arguments = {}
    for tensor in (_tensor(graph, name, given) for given in inputs):
        label = tensor.op.name if len(tensor.op.outputs) == 1 else tensor.name
        arguments[tensor.name] = Argument(label, dtype_name(tensor), static_shape(tensor))
    results = [(key, _tensor(graph, name, tensor)) for key, tensor in outputs.items()]
    functions = {f.signature.name: f for f in graph_def.library.function}

    def body(function: str, shapes: Sequence[Shape | None]) -> Body:
        return _body(graph, functions, function, shapes)

    source = Source(values, body, tf.make_ndarray, lambda number: _dtype(number))
    return functional(convert(source, name, arguments, results))


def _tensor(graph: Any, owner: str, name: str) -> Any:
    try:
        return graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
    except (KeyError, ValueError) as error:
        raise SiriusError(f"graph '{owner}' has no tensor '{name}'") from error


def _dtype(number: int) -> str:
    return str(tf.dtypes.as_dtype(number).base_dtype.name)


def _body(
    graph: Any, functions: Mapping[str, Any], name: str, shapes: Sequence[Shape | None]
) -> Body:
    """A function of the library as a graph, its shapes inferred from these arguments."""
    if name not in functions:
        raise SiriusError(f"the graph calls a function '{name}', which it does not have")
    definition = function_pb2.FunctionDef.FromString(functions[name].SerializeToString())
    definition.arg_attr.clear()  # shapes there would take the place of `shapes`
    with graph.as_default():
        made = function_def_to_graph.function_def_to_graph(
            definition, input_shapes=[tf.TensorShape(shape) for shape in shapes]
        )
    names = [argument.name for argument in definition.signature.output_arg]
    effects = [made.get_operation_by_name(n) for n in sorted(definition.control_ret.values())]
    return Body(list(made.inputs), list(zip(names, made.outputs, strict=True)), effects)


def _typed(graph_def: Any, tensors: Sequence[Tensor | str]) -> list[Tensor]:
    """Tensors of a GraphDef; it is read where only their names are known."""
    graph = tf.Graph()
    try:
        with graph.as_default():
            if any(isinstance(tensor, str) for tensor in tensors):
                tf.import_graph_def(graph_def, name="")
    except (ValueError, tf.errors.OpError) as error:
        raise SiriusError(f"TensorFlow rejects the main graph: {error}") from error
    found = {t: _tensor(graph, "main", t) for t in tensors if isinstance(t, str)}
    return [
        Tensor(t, dtype_name(found[t]), static_shape(found[t])) if isinstance(t, str) else t
        for t in tensors
    ]


def _signature(meta_graph: Any, name: str, values: Mapping[str, np.ndarray[Any, Any]]) -> Signature:
    definition = meta_graph.signature_def[name]
    inputs, outputs = ({}, {})  # type: dict[str, Tensor], dict[str, Tensor]
    for infos, tensors in ((definition.inputs, inputs), (definition.outputs, outputs)):
        for key in sorted(infos):
            info = infos[key]
            tensors[key] = Tensor(info.name, _dtype(info.dtype), _info_shape(info.tensor_shape))
    given = [tensor.name for tensor in inputs.values()]
    inlined, graph = between(meta_graph.graph_def, name, given, outputs, values)
    return Signature(name, inputs, outputs, graph, inlined)


def _composite(definition: Any) -> str:
    """The first argument or result of a SignatureDef that is several tensors; "" if none is."""
    infos = {**definition.inputs, **definition.outputs}
    odd = (key for key in sorted(infos) if infos[key].WhichOneof("encoding") != "name")
    return next((f"'{key}' is a sparse or a ragged tensor" for key in odd), "")


def _info_shape(shape: Any) -> Shape | None:
    if shape.unknown_rank:
        return None
    return tuple(None if d.size < 0 else int(d.size) for d in shape.dim)


def saved_variables(path: Path, meta_graph: Any) -> dict[str, Saved]:
    """The checkpoint entry of each variable of the main graph, by its node.

    It is the one that the saver restores. Where there is no saver of a variable, the object graph
    says of which object, and so of which entry, it is that a call captures.
    """
    return {**_saved_by_objects(path, meta_graph), **_saved_by_saver(meta_graph)}


def unsaved_values(path: Path, meta_graph: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The values of the variables of the main graph that no saver restores."""
    restored = _saved_by_saver(meta_graph)
    found = _saved_by_objects(path, meta_graph)
    missing = {name: entry for name, entry in found.items() if name not in restored}
    checkpoint = tf.train.load_checkpoint(str(path / _CHECKPOINT)) if missing else None
    return {name: _checkpoint_value(checkpoint, entry) for name, entry in missing.items()}


def _saved_by_saver(meta_graph: Any) -> dict[str, Saved]:
    variables = Variables(meta_graph, _has_reference)
    return variables.saved(meta_graph.saver_def.restore_op_name)


def _saved_by_objects(path: Path, meta_graph: Any) -> dict[str, Saved]:
    if not (path / f"{_CHECKPOINT}.index").exists():
        return {}
    tracked = _tracked(meta_graph, tf.train.load_checkpoint(str(path / _CHECKPOINT)))
    return tracked.saved() if tracked else {}


def _constant_values(path: Path, meta_graph: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The values of the variables that have one in the checkpoint and never change."""
    saved = saved_variables(path, meta_graph)
    if not saved:
        return {}
    variables = Variables(meta_graph, _has_reference)
    checkpoint = tf.train.load_checkpoint(str(path / _CHECKPOINT))
    outputs = [
        tensor.name
        for key, signature in meta_graph.signature_def.items()
        if key != _INIT_OP
        for tensor in signature.outputs.values()
    ]
    assigned = variables.assigned(outputs)
    tracked = _tracked(meta_graph, checkpoint)
    keys = tracked.assigned(variables) if tracked else set()
    return {
        name: _checkpoint_value(checkpoint, entry)
        for name, entry in saved.items()
        if name not in assigned and entry.key not in keys
    }


def _has_reference(op: str) -> bool:
    definition = op_def_registry.get(op)
    return definition is None or any(argument.is_ref for argument in definition.input_arg)


def _checkpoint_value(checkpoint: Any, entry: Saved) -> np.ndarray[Any, Any]:
    if not checkpoint.has_tensor(entry.key):
        raise SiriusError(
            f"the checkpoint has no tensor '{entry.key}', of which a variable is made"
        )
    value = np.asarray(checkpoint.get_tensor(entry.key))
    if entry.part:  # "10 4 0,5:0,4": the shape of the whole, then start and length
        spans = [span.split(",") for span in entry.part.split()[-1].split(":")]
        slices = [slice(None) if s[0] == "-" else _span(int(s[0]), int(s[1])) for s in spans]
        value = value[tuple(slices)]
    return value


def _span(start: int, length: int) -> slice:
    return slice(start, start + length)


def _tracked(meta_graph: Any, checkpoint: Any) -> Tracked | None:
    """The objects of a SavedModel and of its checkpoint; None if there are none."""
    if not meta_graph.object_graph_def.concrete_functions or not checkpoint.has_tensor(_OBJECTS):
        return None
    raw = checkpoint.get_tensor(_OBJECTS)
    return Tracked.of(meta_graph, trackable_object_graph_pb2.TrackableObjectGraph.FromString(raw))
