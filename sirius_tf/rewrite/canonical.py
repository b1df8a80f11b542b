# SPDX-License-Identifier: Apache-2.0
"""Digests of regions: two that are the same up to the names of nodes share a kernel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from sirius_tf.frontend.graph import Edge, Graph


def digest(graph: Graph) -> str:
    """A hash of what a graph computes, constants included, names not."""
    sha = hashlib.sha256()
    for part in _parts(graph):
        sha.update(part.encode() + b"\0")
    return sha.hexdigest()


def array_digest(array: np.ndarray[Any, Any]) -> str:
    """A hash of an array: its type, shape and elements."""
    raw = np.ascontiguousarray(array)
    data = repr(raw.tolist()).encode() if raw.dtype.hasobject else raw.tobytes()
    return f"{raw.dtype}{array.shape}{hashlib.sha256(data).hexdigest()}"


def _parts(graph: Graph) -> list[str]:
    names = {argument.name: f"a{k}" for k, argument in enumerate(graph.inputs)}
    names |= {node.name: f"n{k}" for k, node in enumerate(graph.nodes)}

    def edge(given: Edge) -> str:
        return f"{names[given.node]}:{given.output}"

    parts = [f"{argument.dtype} {argument.shape}" for argument in graph.inputs]
    for node in graph.nodes:
        attrs = [f"{key}={_value(graph.bodies, node.attrs[key])}" for key in sorted(node.attrs)]
        inputs = [edge(e) for e in node.inputs]
        parts.append(f"{node.op} {inputs} {attrs} {node.dtypes} {node.shapes}")
    return [*parts, str([edge(e) for _, e in graph.outputs])]


def _value(bodies: Mapping[str, Graph], value: object) -> str:
    if isinstance(value, np.ndarray):
        return array_digest(value)
    if isinstance(value, str) and value in bodies:
        return digest(bodies[value])
    if isinstance(value, list):
        return str([_value(bodies, item) for item in value])
    return repr(value)
