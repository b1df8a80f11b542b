# SPDX-License-Identifier: Apache-2.0
"""The nodes of a graph that have to be run, and those that others have to wait for.

    y = If(p, linspace, x)      neither branch reads its first argument: linspace may fail

TensorFlow inlines bodies, and prunes after that. A node is run if it is an output, if another one
reads it or waits for it, or if it has an effect. To pass it to bodies that do not read it is no
reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from sirius_tf.frontend.convert import CALLS
from sirius_tf.frontend.graph import Edge, Graph, Node, called

EFFECTS = ("Assert", "CheckNumerics", "CheckNumericsV2")
"""Ops with a rule of which others may have to wait."""


def has_effect(graph: Graph, node: Node) -> bool:
    """Whether others may have to wait for a node, or for one in its bodies."""
    bodies = _bodies(graph, node)
    return node.op in EFFECTS or any(has_effect(b, n) for b in bodies for n in b.nodes)


def live_nodes(graph: Graph) -> list[Node]:
    """The nodes to lower, in the order of the graph."""
    return _live(graph)[0]


def _live(graph: Graph) -> tuple[list[Node], set[str]]:
    """The nodes to lower, and the names of nodes and arguments that these or outputs read."""
    waited = {name for node in graph.nodes for name in node.control_inputs}
    given = {edge.node for node in graph.nodes for edge in node.inputs} - waited
    found, read = list[Node](), {edge.node for _, edge in graph.outputs}
    for node in reversed(graph.nodes):
        if node.name in read or node.name not in given or has_effect(graph, node):
            found.append(node)
            read.update(edge.node for edge in _read(graph, node))
    return found[::-1], read


def _read(graph: Graph, node: Node) -> Iterable[Edge]:
    """The inputs of a node but for arguments that no body reads."""
    bodies = _bodies(graph, node)
    if not bodies or node.op.endswith("While"):  # a loop hands on what it does not read
        return node.inputs
    start = CALLS[node.op]
    reads = [_live(body)[1] for body in bodies]
    passed = zip(node.inputs[start:], *(body.inputs for body in bodies), strict=True)
    kept = (e for e, *own in passed if any(a.name in r for a, r in zip(own, reads, strict=True)))
    return chain(node.inputs[:start], kept)


def _bodies(graph: Graph, node: Node) -> list[Graph]:
    """The bodies that an op with some calls."""
    return list(called(node, graph.bodies).values()) if node.op in CALLS else []
