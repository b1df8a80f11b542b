# SPDX-License-Identifier: Apache-2.0
"""A signature of a SavedModel in a session in which every edge of its Graph can be fed and read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.saved_model import loader_impl

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import Edge, Graph
from sirius_tf.rewrite.measure import interleaved, relative_error, rounding
from sirius_tf.rewrite.substitute import Use, region_op, restore_lowering, table_reads, tensor_name

Array = np.ndarray[Any, Any]
Call = Callable[[], list[Array]]
_LEAST = 1e-3  # milliseconds
_BUNDLE = "sirius_timed/bundle"


class Session:
    """Runs edges of a graph on values of others.

    With `uses` and a bundle, also the regions that are to take the place of nodes; what the nodes
    wait for is then left out.
    """

    def __init__(
        self,
        path: Path | None,
        meta_graph: Any,
        inlined: Any,
        graph: Graph,
        uses: Sequence[Use] = (),
        bundle: Path | None = None,
    ) -> None:
        merged = meta_graph_pb2.MetaGraphDef()
        merged.CopyFrom(meta_graph)
        names = {node.name for node in merged.graph_def.node}
        merged.graph_def.node.extend(node for node in inlined.node if node.name not in names)
        known = {function.signature.name for function in merged.graph_def.library.function}
        merged.graph_def.library.function.extend(
            f for f in inlined.library.function if f.signature.name not in known
        )
        for node in merged.graph_def.node:
            restore_lowering(node)
        if bundle is not None:
            _without_controls(merged.graph_def, {n for use in uses for n in use.region.nodes})
            merged.graph_def.node.extend(_timed(graph, uses, merged.graph_def, bundle))
        self._graph = graph
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            self._load(path, merged)

    def _load(self, path: Path | None, meta_graph: Any) -> None:
        if path is None:
            tf.import_graph_def(meta_graph.graph_def, name="")
            return
        saver = tf.compat.v1.train.import_meta_graph(meta_graph)
        loader = loader_impl.SavedModelLoader(str(path))
        try:
            loader.restore_variables(self._session, saver)
            loader.run_init_ops(self._session, list(meta_graph.meta_info_def.tags))
        except tf.errors.OpError as error:
            raise SiriusError(f"TensorFlow cannot load {path}: {error}") from error

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.close()

    def values(self, feeds: Mapping[str, Array], edges: Sequence[Edge]) -> dict[Edge, Array]:
        """What edges carry when the graph is run on values of tensors."""
        names = {edge: tensor_name(edge, self._graph) for edge in edges}
        try:
            found = self._session.run(names, dict(feeds)) if names else {}
        except tf.errors.OpError as error:
            raise SiriusError(f"the model does not run on the sample inputs: {error}") from error
        return dict(found)

    def time(self, use: Use, values: Mapping[Edge, Array]) -> tuple[float, float]:
        """Milliseconds that TensorFlow's ops and the region take from values of its inputs.

        What any call of a session takes is not counted.
        """
        their_call, our_call, nothing = self._calls(use, values)
        theirs, ours = interleaved(their_call, our_call)
        overhead = min(interleaved(nothing, nothing))
        return max(theirs - overhead, _LEAST), max(ours - overhead, _LEAST)

    def difference(self, use: Use, values: Mapping[Edge, Array], tolerance: float) -> str | None:
        """How the results of a region differ from those of TensorFlow's ops, if they do."""
        theirs, ours, _ = self._calls(use, values)
        want = theirs()
        try:
            got = ours()
        except tf.errors.OpError as error:
            return f"the region fails: {_reason(error.message, _timed_name(use))}"
        pairs = zip(got, want, strict=True)
        errors = [relative_error(np.asarray(a), np.asarray(b)) for a, b in pairs]
        if all(error <= tolerance for error in errors):
            return None
        floor = self._rounding(use, values)
        for edge, distance, least in zip(use.region.outputs, errors, floor, strict=True):
            if not distance <= max(tolerance, least):
                return f"its result {edge} would have an error of {distance:.1e}"
        return None

    def _rounding(self, use: Use, values: Mapping[Edge, Array]) -> list[float]:
        """How much TensorFlow's results change with the last bits of what a region reads."""
        fed = [edge for edge in use.region.inputs if edge in values]
        names = [tensor_name(edge, self._graph) for edge in use.region.outputs]
        run = self._session.make_callable(names, [tensor_name(e, self._graph) for e in fed])
        return rounding(
            lambda arrays: [np.asarray(x) for x in run(*arrays)], [values[e] for e in fed]
        )

    def _calls(self, use: Use, values: Mapping[Edge, Array]) -> tuple[Call, Call, Call]:
        """TensorFlow's ops, the region, and nothing, all on the same values."""
        region = use.region
        theirs = [tensor_name(edge, self._graph) for edge in region.outputs]
        ours = [f"{_timed_name(use)}:{k}" for k in range(len(region.outputs))]
        fed = [edge for edge in region.inputs if edge in values]
        feeds = [tensor_name(edge, self._graph) for edge in fed]
        arrays = [values[edge] for edge in fed]

        def call(fetches: list[str]) -> Call:
            run = self._session.make_callable(fetches, feeds)
            return lambda: list(run(*arrays))

        return call(theirs), call(ours), call([f"{_BUNDLE}:0"])


def _without_controls(graph_def: Any, nodes: Collection[str]) -> None:
    """Have nodes of regions wait for nothing: the effects are no part of what is compared."""
    for node in graph_def.node:
        if node.name in nodes:
            data = [tensor for tensor in node.input if not tensor.startswith("^")]
            del node.input[:]
            node.input.extend(data)


def _reason(message: str, node: str) -> str:
    """Of TensorFlow's report about a node, what the node itself says."""
    said = [line for line in message.splitlines() if line.startswith(f"{node}: ")]
    return said[0].removeprefix(f"{node}: ") if said else message


def _timed_name(use: Use) -> str:
    return f"sirius_timed/{use.region.name}"


def _timed(graph: Graph, uses: Sequence[Use], graph_def: Any, bundle: Path) -> list[Any]:
    """Each region as an op that reads the tensors its nodes read, and so the values fed there."""
    path = tf.compat.v1.NodeDef(name=_BUNDLE, op="Const")
    path.attr["dtype"].type = tf.string.as_datatype_enum
    path.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(str(bundle)))
    ops = {node.name: node.op for node in graph_def.node}
    made = [path]
    for use in uses:
        name = _timed_name(use)
        reads, tables = table_reads(use, graph, name, lambda node: ops[node] == "VarHandleOp")
        inputs = [
            tables.get(k, tensor_name(edge, graph)) for k, edge in enumerate(use.region.inputs)
        ]
        made += [*reads, region_op(name, use, graph, inputs, f"{_BUNDLE}:0", ())]
    return made
