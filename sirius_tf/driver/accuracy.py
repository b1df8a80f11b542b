# SPDX-License-Identifier: Apache-2.0
"""The error of regions, and of the ops that they replace, against the same graph in float64.

The interpreter computes that on the samples, which takes seconds: regions with more work than
MOST_POINTS, or more constants than MOST_BYTES, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sirius_tf.frontend.graph import Graph
from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.interp import run
from sirius_tf.ir.program import Program
from sirius_tf.ir.widen import widened
from sirius_tf.lower.graph import lower
from sirius_tf.report import Accuracy
from sirius_tf.rewrite.difference import relative_error
from sirius_tf.rewrite.regions import Region, is_variable
from sirius_tf.rewrite.samples import Array
from sirius_tf.schedule.plan import work

MOST_POINTS = 1 << 27
MOST_BYTES = 1 << 26

Hints = Mapping[str, tuple[int, ...]]
Results = Callable[[], tuple[Sequence[Array], Sequence[Array]]]
"""The results of TensorFlow's ops, and of the region, on the samples."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A region's graph with its constants, and the variables that it reads where they are.

    `without` says why there is none, lest large constants are kept.
    """

    graph: Graph | None = None
    tables: Mapping[int, Array] = field(default_factory=dict)
    without: str = ""

    def accuracy(
        self, hints: Hints, inputs: Callable[[], Sequence[Array]], both: Results
    ) -> Accuracy:
        """The errors; `inputs` are the values of what the region reads and is no variable."""
        if self.graph is None:
            return Accuracy(because=self.without)
        program = lower(self.graph, hints)
        points = sum(work(s, program.hints) for s in program.statements)
        if points > MOST_POINTS:
            return Accuracy(because=f"it has {points:.1e} points, more than {MOST_POINTS:.1e}")
        try:
            exact = self._run(program, inputs())
        except Exception as error:  # costs this number and no more
            return Accuracy(because=f"float64 fails: {type(error).__name__}: {error}")
        theirs, ours = (_worst(results, exact) for results in both())
        if math.inf in (theirs, ours):
            return Accuracy(because="data decides otherwise in float64")
        return Accuracy(ours, theirs)

    def _run(self, program: Program, inputs: Sequence[Array]) -> Sequence[Array]:
        wide, values = widened(program), iter(inputs)
        given = {
            name: self.tables[k] if k in self.tables else next(values)
            for k, name in enumerate(program.inputs)
        }
        return run(wide, {n: a.astype(numpy_dtype(wide.tensor[n].dtype)) for n, a in given.items()})


def reference(graph: Graph, region: Region) -> Reference:
    """The reference of a region of a graph, whose constants are there still."""
    nodes = graph.by_name
    tables = {
        k: nodes[edge.node].attr_array()
        for k, edge in enumerate(region.inputs)
        if edge.node in nodes and is_variable(nodes[edge.node])
    }
    size = sum(a.nbytes for a in tables.values()) + _constants(region.graph)
    if size > MOST_BYTES:
        return Reference(without=f"its constants have {size:.1e} bytes, more than {MOST_BYTES:.1e}")
    return Reference(region.graph, tables)


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
