# SPDX-License-Identifier: Apache-2.0
"""Graphs without the values of their constants: once a model is compiled, nothing reads them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sirius_tf.frontend.graph import Graph, Node
from sirius_tf.rewrite.regions import Region


def hollow(graph: Graph) -> Graph:
    """The graph with zeros in place of its arrays, which take no memory."""
    bodies = {name: hollow(body) for name, body in graph.bodies.items()}
    return replace(graph, nodes=tuple(map(_hollow_node, graph.nodes)), bodies=bodies)


def hollow_region(region: Region) -> Region:
    """The region, which still knows its digest."""
    return replace(region, graph=hollow(region.graph), known=region.digest)


def _hollow_node(node: Node) -> Node:
    arrays = {key: value for key, value in node.attrs.items() if isinstance(value, np.ndarray)}
    zeros = {k: np.broadcast_to(np.zeros((), a.dtype), a.shape) for k, a in arrays.items()}
    return replace(node, attrs={**node.attrs, **zeros})
