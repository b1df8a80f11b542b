# SPDX-License-Identifier: Apache-2.0
"""The rules by op name, and what is known of ops besides."""

from __future__ import annotations

from collections.abc import Callable

from sirius_tf.errors import SiriusError, Unsupported
from sirius_tf.frontend.graph import Node
from sirius_tf.lower.context import Rule

RULES: dict[str, Rule] = {}


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
