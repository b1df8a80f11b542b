# SPDX-License-Identifier: Apache-2.0
"""The error of regions, and of the ops that they replace, against the same graph in float64.

The interpreter computes that on the samples, which takes seconds: regions with more work than
MOST_POINTS, or more constants than MOST_BYTES, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sirius_tf.frontend.graph import Graph
from sirius_tf.ir.interp import run
from sirius_tf.ir.program import Program
from sirius_tf.ir.widen import wide, widened
from sirius_tf.lower.graph import lower
from sirius_tf.report import Accuracy
from sirius_tf.rewrite.difference import relative_error
from sirius_tf.rewrite.regions import Region, is_variable
from sirius_tf.rewrite.samples import Array
from sirius_tf.schedule.plan import work

MOST_POINTS = 1 << 27
MOST_BYTES = 1 << 26

Hints = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Exact:
    """The results of a region in float64, on the samples; or why there are none."""

    results: tuple[Array, ...] = ()
    without: str = ""

    def accuracy(self, theirs: Sequence[Array], ours: Sequence[Array]) -> Accuracy:
        """The errors of TensorFlow's ops and of the region."""
        if self.without:
            return Accuracy(because=self.without)
        their_error, our_error = _worst(theirs, self.results), _worst(ours, self.results)
        if math.inf in (their_error, our_error):
            return Accuracy(because="data decides otherwise in float64")
        return Accuracy(our_error, their_error)


def exact(
    graph: Graph, region: Region, hints: Hints, inputs: Callable[[], Sequence[Array]]
) -> Exact:
    """The results of a region of a graph, whose constants are there still; `inputs` are what it
    reads on the samples, but for variables."""
    nodes = graph.by_name
    tables = {
        k: nodes[edge.node].attr_array()
        for k, edge in enumerate(region.inputs)
        if edge.node in nodes and is_variable(nodes[edge.node])
    }
    size = sum(a.nbytes for a in tables.values()) + _constants(region.graph)
    if size > MOST_BYTES:
        return Exact(without=f"its constants have {size:.1e} bytes, more than {MOST_BYTES:.1e}")
    try:
        program = lower(region.graph, hints)
        points = sum(work(s, program.hints) for s in program.statements)
        if points > MOST_POINTS:
            return Exact(without=f"it has {points:.1e} points, more than {MOST_POINTS:.1e}")
        return Exact(_run(program, tables, inputs()))
    except Exception as error:  # costs this number and no more
        return Exact(without=f"float64 fails: {type(error).__name__}: {error}")


def _run(
    program: Program, tables: Mapping[int, Array], inputs: Sequence[Array]
) -> tuple[Array, ...]:
    values = iter(inputs)
    arrays = [tables[k] if k in tables else next(values) for k in range(len(program.inputs))]
    return run(widened(program), wide(dict(zip(program.inputs, arrays, strict=True))))


def _constants(graph: Graph) -> int:
    """Bytes of the constants of a graph and of the bodies of its loops and branches."""
    arrays = (a for n in graph.nodes for a in n.attrs.values() if isinstance(a, np.ndarray))
    return sum(a.nbytes for a in arrays) + sum(map(_constants, graph.bodies.values()))


def _worst(results: Sequence[Array], exact: Sequence[Array]) -> float:
    """The greatest error of a result; infinite where shapes or integers differ."""
    pairs = zip(results, exact, strict=True)
    return max((relative_error(_double(x), y) for x, y in pairs), default=0.0)


def _double(x: Array) -> Array:
    return x.astype(np.float64) if x.dtype.kind not in "iub" else x
