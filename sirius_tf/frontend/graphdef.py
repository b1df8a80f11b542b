# SPDX-License-Identifier: Apache-2.0
"""Reading a bare GraphDef that has been frozen: its weights are Const nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sirius_tf.frontend import savedmodel
from sirius_tf.frontend.graph import Graph


def from_graph_def(
    graph_def: Any, inputs: Sequence[str], outputs: Sequence[str], name: str = "graph"
) -> Graph:
    """The Graph between tensors ("x" or "x:0") of a GraphDef; results are called as in `outputs`.

    Calls are inlined, so that an output is an Identity with its side effects as control inputs.
    """
    return savedmodel.between(graph_def, name, inputs, {key: key for key in outputs}, {})[1]
