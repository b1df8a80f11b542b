# SPDX-License-Identifier: Apache-2.0
"""The rules by op name, and what is known of ops besides."""

from __future__ import annotations

from collections.abc import Callable

from sirius_tf.errors import SiriusError, Unsupported
from sirius_tf.frontend.graph import Graph, Node
from sirius_tf.lower.context import Rule

RULES: dict[str, Rule] = {}
EFFECTS = ("Assert", "CheckNumerics", "CheckNumericsV2")
"""Ops with a rule of which others may have to wait."""


def lowers(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule; a second rule for one op is an error."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise SiriusError(f"two rules lower {op}")
            RULES[op] = rule
        return rule

    return register


def outer(node: Node, error: Unsupported) -> Unsupported:
    """The error of a node of a body as one of the node that has the body."""
    if error.node == node.name:
        return error
    return Unsupported(node.name, node.op, f"{error.node} ({error.op}) inside: {error.reason}")


def has_effect(graph: Graph, node: Node) -> bool:
    """Whether others may have to wait for a node, or for one in its bodies."""
    bodies = (graph.bodies.get(v) for v in node.attrs.values() if isinstance(v, str))
    return node.op in EFFECTS or any(has_effect(b, n) for b in bodies if b for n in b.nodes)
