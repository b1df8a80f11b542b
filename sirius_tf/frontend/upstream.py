# SPDX-License-Identifier: Apache-2.0
"""Nodes of a GraphDef that tensors come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def node_of(tensor: str) -> str:
    """The node of a tensor or control input."""
    return tensor.lstrip("^").partition(":")[0]


def upstream(nodes: Mapping[str, Any], tensors: Iterable[str]) -> dict[str, Any]:
    """The nodes, by name, that compute some tensors, or are run for them."""
    found: dict[str, Any] = {}
    stack = [node_of(tensor) for tensor in tensors]
    while stack:
        name = stack.pop()
        if name in nodes and name not in found:
            found[name] = nodes[name]
            stack.extend(node_of(tensor) for tensor in nodes[name].input)
    return found
