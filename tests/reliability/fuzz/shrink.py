# SPDX-License-Identifier: Apache-2.0
"""A smaller graph that fails in the same way: fewer outputs, and inputs in place of nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tests.reliability.fuzz.case import OUTPUT, Case, forget, trim
from tests.reliability.fuzz.drawing import CONSTANT, DTYPES, M, N

LONGEST = 60.0  # seconds for one graph


def shrunk(case: Case, fails: Callable[[Case], bool], seconds: float = LONGEST) -> Case:
    """The smallest graph that was found."""
    until, again = time.monotonic() + seconds, True
    while again:
        again = False
        for smaller in _smaller(case):
            if time.monotonic() > until:
                return case
            if fails(smaller):
                case, again = smaller, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    if len(case.outputs) > 1:
        for name in case.outputs:
            yield _needed(case, case.graph_def, [name])
    types = _types(case)
    for node in reversed(case.graph_def.node):
        if node.op in ("Placeholder", "Const") or node.name.startswith(OUTPUT):
            continue
        made = _cut(case, node, types)
        if made is not None:
            yield made


def _needed(case: Case, graph_def: graph_pb2.GraphDef, outputs: list[str]) -> Case:
    made = tf.compat.v1.graph_util.extract_sub_graph(graph_def, outputs)
    made.library.CopyFrom(graph_def.library)
    trim(made)
    return Case(case.name, made)


def _types(case: Case) -> dict[str, tuple[tf.DType, list[int] | None]]:
    """The type of each tensor, with the sizes with which the graph was drawn."""
    drawn = graph_pb2.GraphDef()
    drawn.CopyFrom(case.graph_def)
    for node in drawn.node:
        if node.op == "Placeholder":
            sizes = node.attr["_sizes"].list.i
            for dim, size in zip(node.attr["shape"].shape.dim, sizes, strict=True):
                dim.size = size
    graph, found = tf.Graph(), {}
    with graph.as_default():
        tf.import_graph_def(drawn, name="")
    for op in graph.get_operations():
        for t in op.outputs:
            known = t.shape.is_fully_defined()
            found[t.name] = (t.dtype, t.shape.as_list() if known else None)
    return found


def _cut(case: Case, node, types) -> Case | None:
    """The graph with inputs in place of the results of a node."""
    made, names = graph_pb2.GraphDef(), {}
    made.CopyFrom(case.graph_def)
    used = {x for n in made.node for x in n.input if x.split(":")[0] == node.name}
    if any(x.startswith("^") for x in used) or f"^{node.name}" in {
        x for n in made.node for x in n.input
    }:
        return None
    for number, x in enumerate(sorted(used)):
        dtype, shape = types[x if ":" in x else f"{x}:0"]
        strange = shape is None or any(s > CONSTANT and s not in (N, M) for s in shape)
        if strange or dtype.name not in DTYPES:
            return None
        fresh = made.node.add(name=f"{node.name}_cut{number}", op="Placeholder")
        fresh.attr["dtype"].type = dtype.as_datatype_enum
        fresh.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
        fresh.attr["_sizes"].list.i[:] = shape
        names[x] = fresh.name
    for other in made.node:
        for k, x in enumerate(other.input):
            other.input[k] = names.get(x, x)
    forget(made)
    return _needed(case, made, case.outputs)
