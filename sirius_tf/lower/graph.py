# SPDX-License-Identifier: Apache-2.0
"""From a graph to a Program, with the rules of all ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sirius_tf.frontend.graph import Graph
from sirius_tf.ir import program as ir
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.live import live_nodes
from sirius_tf.lower.ops import (  # noqa: F401  they register their rules
    colors,
    control,
    counting,
    diagonals,
    elementwise,
    images,
    indexing,
    linalg,
    lists,
    loops,
    movement,
    quantization,
    scatter,
    selection,
    shapes,
    sources,
    windows,
)
from sirius_tf.lower.rules import RULES
from sirius_tf.transform.exit_guards import awaited


def lower(graph: Graph, hints: Mapping[str, Sequence[int]] | None = None) -> ir.Program:
    """The Program of a graph. `hints` gives the sample shape of inputs by name."""
    lowering = Lowering(graph=graph, hints=hints or {}, rules=RULES)
    for argument in graph.inputs:
        lowering.argument(argument)
    for node in live_nodes(graph):
        lowering.lower_node(node)
    return awaited(lowering.finish())
