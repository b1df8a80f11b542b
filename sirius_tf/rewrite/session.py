# SPDX-License-Identifier: Apache-2.0
"""A signature of a SavedModel in a session in which every edge of its Graph can be fed and read."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.saved_model import loader_impl

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graph import Edge, Graph
from sirius_tf.frontend.savedmodel import unsaved_values
from sirius_tf.frontend.upstream import node_of
from sirius_tf.rewrite import difference
from sirius_tf.rewrite.measure import interleaved
from sirius_tf.rewrite.nodedef import enum, restore_lowering, tensor_name
from sirius_tf.rewrite.original import copies
from sirius_tf.rewrite.substitute import Use, region_op, table_reads

Array = np.ndarray[Any, Any]
Call = Callable[[], list[Array]]
_LEAST = 1e-3  # milliseconds
_BUNDLE = "sirius_timed/bundle"


class Session:
    """Runs edges of a graph on values of others.

    With `uses` and a bundle, also each region and a copy of the nodes it is to take the place of,
    side by side on placeholders. The original nodes are no good for that: a session that is fed
    one of several results of a node may still ask for what the node itself needs.
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
            nodes = {node.name: node for node in (*merged.graph_def.node, *inlined.node)}
            merged.graph_def.node.extend(_timed(graph, uses, nodes, bundle))
        self._graph = graph
        config = tf.compat.v1.ConfigProto()
        # what runs once is not worth the seconds that Grappler takes for a large graph
        config.graph_options.rewrite_options.disable_meta_optimizer = bundle is None
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
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
            self._restore(path, meta_graph)
        except tf.errors.OpError as error:
            raise SiriusError(f"TensorFlow cannot load {path}: {error}") from error

    def _restore(self, path: Path, meta_graph: Any) -> None:
        """Give variables their values that no saver restores, only the object graph."""
        graph = self._session.graph
        for name, value in unsaved_values(path, meta_graph).items():
            handle = graph.get_tensor_by_name(f"{name}:0")
            fed = tf.compat.v1.placeholder(value.dtype, value.shape)
            assigned = tf.raw_ops.AssignVariableOp(resource=handle, value=fed)
            self._session.run(assigned, {fed: value})

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.close()
        del self._session
        gc.collect()  # its graph is a circle

    def values(self, feeds: Mapping[str, Array], edges: Sequence[Edge]) -> dict[Edge, Array]:
        """The values of edges when the graph is run on values of tensors."""
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
        """The difference of a region's results from those of TensorFlow's ops, as text; None if
        there is none."""
        theirs, ours, _ = self._calls(use, values)
        want = theirs()
        try:
            got = ours()
        except tf.errors.OpError as error:
            return f"the region fails: {_reason(error.message, _timed_name(use))}"
        compared = difference.compare(
            _by_name(use, got),
            _by_name(use, want),
            difference.allowed(use.region.graph, tolerance),
            lambda: self._rounding(use, values),
        )
        for edge in compared.wrong:
            return f"its result {edge} would have an error of {compared.errors[edge]:.1e}"
        return None

    def results(self, use: Use, values: Mapping[Edge, Array]) -> tuple[list[Array], list[Array]]:
        """The results of TensorFlow's ops, and of the region."""
        theirs, ours, _ = self._calls(use, values)
        return [np.asarray(x) for x in theirs()], [np.asarray(x) for x in ours()]

    def _rounding(self, use: Use, values: Mapping[Edge, Array]) -> list[float]:
        """The change of TensorFlow's results with the last bits of what a region reads."""
        fed = _fed(use, values)
        theirs = _their_results(use, self._graph)
        run = self._session.make_callable(theirs, [_input(use, k) for k in fed])
        return difference.rounding(
            lambda arrays: [np.asarray(x) for x in run(*arrays)],
            [values[use.region.inputs[k]] for k in fed],
        )

    def _calls(self, use: Use, values: Mapping[Edge, Array]) -> tuple[Call, Call, Call]:
        """TensorFlow's ops, the region, and nothing, all on the same values."""
        ours = [f"{_timed_name(use)}:{k}" for k in range(len(use.region.outputs))]
        fed = _fed(use, values)
        feeds = [_input(use, k) for k in fed]
        arrays = [values[use.region.inputs[k]] for k in fed]

        def call(fetches: list[str]) -> Call:
            run = self._session.make_callable(fetches, feeds)
            return lambda: list(run(*arrays))

        return call(_their_results(use, self._graph)), call(ours), call([f"{_BUNDLE}:0"])


def _by_name(use: Use, results: Sequence[Any]) -> dict[str, Array]:
    pairs = zip(use.region.outputs, results, strict=True)
    return {str(edge): np.asarray(value) for edge, value in pairs}


def _reason(message: str, node: str) -> str:
    """The part of TensorFlow's report about a node that the node itself wrote."""
    said = [line for line in message.splitlines() if line.startswith(f"{node}: ")]
    return said[0].removeprefix(f"{node}: ") if said else message


def _timed_name(use: Use) -> str:
    return f"sirius_timed/{use.region.name}"


def _input(use: Use, k: int) -> str:
    """The placeholder of input `k` of a region."""
    return f"{_timed_name(use)}/input_{k}:0"


def _fed(use: Use, values: Mapping[Edge, Array]) -> list[int]:
    """The inputs of a region that are no tables."""
    return [k for k, edge in enumerate(use.region.inputs) if edge in values]


def _copied(use: Use, node: str) -> str:
    return f"{_timed_name(use)}/copy/{node}"


def _their_results(use: Use, graph: Graph) -> list[str]:
    """The tensors of TensorFlow's ops that are the results of a region."""
    return [_copied(use, tensor_name(edge, graph)) for edge in use.region.outputs]


def _timed(graph: Graph, uses: Sequence[Use], nodes: Mapping[str, Any], bundle: Path) -> list[Any]:
    """Each region as an op, and the nodes it replaces, both on placeholders."""
    path = tf.compat.v1.NodeDef(name=_BUNDLE, op="Const")
    path.attr["dtype"].type = enum("string")
    path.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(str(bundle)))
    made = [path]
    for use in uses:
        name = _timed_name(use)
        reads, tables = table_reads(use, graph, name, lambda n: nodes[n].op == "VarHandleOp")
        given = {k: e for k, e in enumerate(use.region.inputs) if k not in tables}
        made += [*reads, *(_placeholder(_input(use, k), graph, e) for k, e in given.items())]
        inputs = [tables.get(k, _input(use, k)) for k in range(len(use.region.inputs))]
        made.append(region_op(name, use, graph, inputs, f"{_BUNDLE}:0", ()))
        fed = {tensor_name(edge, graph): _input(use, k) for k, edge in given.items()}
        rename = functools.partial(_copied, use)
        made += copies(use.region, graph, nodes, fed, rename)
    return made


def _placeholder(tensor: str, graph: Graph, edge: Edge) -> Any:
    node = tf.compat.v1.NodeDef(name=node_of(tensor), op="Placeholder")
    node.attr["dtype"].type = enum(graph.dtype(edge))
    node.attr["shape"].shape.CopyFrom(tf.TensorShape(graph.shape(edge)).as_proto())
    return node
