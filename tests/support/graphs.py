# SPDX-License-Identifier: Apache-2.0
"""What holds of every graph."""

from __future__ import annotations

from collections import Counter

from sirius_tf.frontend.graph import Graph


def ops(graph: Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes)


def check(graph: Graph) -> None:
    """Every edge leads to an argument or an earlier node; bodies too."""
    known = {argument.name: 1 for argument in graph.inputs}
    for node in graph.nodes:
        assert node.name not in known
        assert all(edge.output < known[edge.node] for edge in node.inputs), node
        assert all(name in known for name in node.control_inputs), node
        assert len(node.dtypes) == len(node.shapes)
        known[node.name] = len(node.dtypes)
    for _, edge in graph.outputs:
        assert edge.output < known[edge.node]
    for body in graph.bodies.values():
        check(body)
