# SPDX-License-Identifier: Apache-2.0
"""GraphDefs as Grappler inlines their calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sirius_tf.frontend.convert import CALLS
from sirius_tf.frontend.upstream import upstream

_MARKS = ("_noinline", "_XlaMustCompile", "api_implements")
"""Attributes of functions that are not inlined; Keras 2 gives its LSTM and GRU the last one."""


def prune(graph_def: Any, tensors: Iterable[str]) -> None:
    """Take out all nodes but those that compute some tensors, or nodes.

    Calls of other signatures, and what restores and saves, would be inlined, too, into several
    times as many nodes.
    """
    needed = upstream({node.name: node for node in graph_def.node}, tensors)
    for k in reversed(range(len(graph_def.node))):
        if graph_def.node[k].name not in needed:
            del graph_def.node[k]


def unmark(graph_def: Any) -> None:
    """Take the marks from nodes and functions that keep calls from being inlined.

    Hints of the shapes of calls go, too: Grappler drops results that nobody reads, and leaves the
    shapes of all of them. Those of other ops are true, and the only ones of what a table returns.
    """
    functions = graph_def.library.function
    calls = {*CALLS, *(function.signature.name for function in functions)}
    for function in functions:
        for attr in _MARKS:
            function.attr.pop(attr, None)
    for nodes in [graph_def.node, *(function.node_def for function in functions)]:
        for node in nodes:
            if node.op in calls:
                node.attr.pop("_output_shapes", None)
            if node.op in CALLS:
                node.attr.pop("_XlaMustCompile", None)
                if "_lower_using_switch_merge" in node.attr:
                    node.attr["_lower_using_switch_merge"].b = False


def give_rank(graph_def: Any) -> set[str]:
    """Give the placeholders of unknown rank one, without which Grappler rejects the graph."""
    names = set()
    for node in graph_def.node:
        if node.op == "Placeholder" and node.attr["shape"].shape.unknown_rank:
            names.add(node.name)
            node.attr["shape"].shape.unknown_rank = False
            node.attr["shape"].shape.dim.add(size=-1)
    return names
