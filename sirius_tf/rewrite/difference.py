# SPDX-License-Identifier: Apache-2.0
"""Whether results are TensorFlow's: the one place that says so, of a region and of a model.

The error of floating-point results is relative, in the L2 norm. All else is to be equal: shapes,
types, what is not finite, integers, bools, strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sirius_tf.frontend.graph import Graph, Node, called

Array = np.ndarray[Any, Any]
_TRIES = 4
_ULPS = 16  # what a sum of some hundred terms may be off by in any order
_STEPS = 4.0  # that results may be off by where they are rounded in every op
_RANDOM = re.compile(
    "Random|Multinomial|TruncatedNormal|ParameterizedTruncatedNormal|StatefulRandom|"
    "StatefulStandardNormal|StatefulTruncatedNormal|StatefulUniform"
)
_HALF_STEP = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True)
class Compared:
    """The error of every result, and the results with a greater one than is allowed."""

    errors: Mapping[str, float]
    wrong: tuple[str, ...]

    @property
    def worst(self) -> float:
        """The greatest error of a result."""
        return max(self.errors.values(), default=0.0)


def compare(
    got: Mapping[str, Array],
    want: Mapping[str, Array],
    tolerance: float,
    rounding: Callable[[], Sequence[float]],
) -> Compared:
    """Compare results with those that are wanted, by name; one that the other side lacks is wrong.

    An error above the tolerance is allowed if it is no greater than that of `rounding`, which has
    one for each wanted result, and is asked only then.
    """
    errors = dict.fromkeys([*want, *got], float("inf"))
    errors |= {key: relative_error(got[key], want[key]) for key in want if key in got}
    if all(error <= tolerance for error in errors.values()):
        return Compared(errors, ())
    floor = dict(zip(want, rounding(), strict=True))
    right = {k for k, error in errors.items() if error <= max(tolerance, floor.get(k, 0.0))}
    return Compared(errors, tuple(key for key in errors if key not in right))


def allowed(graph: Graph, tolerance: float) -> float:
    """The tolerance, or some steps of the coarsest type that a graph rounds its results to."""
    dtypes = {dtype for node in graph.nodes for dtype in node.dtypes}
    steps = [_STEPS * step for dtype, step in _HALF_STEP.items() if dtype in dtypes]
    return max([tolerance, *steps, *(allowed(body, tolerance) for body in graph.bodies.values())])


def random_outputs(graph: Graph) -> tuple[str, ...]:
    """The outputs that depend on random numbers: no two calls return the same."""
    found: set[str] = set()
    for node in graph.nodes:
        if _is_random(graph, node) or any(edge.node in found for edge in node.inputs):
            found.add(node.name)
    return tuple(key for key, edge in graph.outputs if edge.node in found)


def _is_random(graph: Graph, node: Node) -> bool:
    """Whether an op, or what it calls, draws numbers from a generator with a state."""
    bodies = called(node, graph.bodies).values()
    return bool(_RANDOM.match(node.op)) or any(_is_random(b, n) for b in bodies for n in b.nodes)


def rounding(
    call: Callable[[Sequence[Array]], Sequence[Array]], inputs: Sequence[Array]
) -> list[float]:
    """The greatest change of each result of a function where inputs change in their last bits, of a
    few tries.

    No computation in another order can be expected to come nearer than that: a model that
    normalizes by its least value may turn 1e-7 into 1e-4.
    """
    want = call(inputs)
    generator = np.random.default_rng(0)
    worst = [0.0] * len(want)
    for _ in range(_TRIES):
        moved = [_moved(x, generator) for x in inputs]
        errors = [relative_error(got, exact) for got, exact in zip(call(moved), want, strict=True)]
        worst = [max(pair) for pair in zip(worst, errors, strict=True)]
    return [0.0 if np.isinf(error) else error for error in worst]


def _moved(x: Array, generator: np.random.Generator) -> Array:
    if x.dtype.kind != "f":
        return x
    ulps = generator.uniform(-_ULPS, _ULPS, x.shape)
    return np.asarray(x * (1 + ulps * np.finfo(x.dtype).eps)).astype(x.dtype)


def relative_error(got: Array, want: Array) -> float:
    """The relative error in the L2 norm; infinite if shapes, types or not-finite elements differ.

    It is the absolute one where all that is wanted is zero. What are not floating-point numbers
    must be equal.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if not (want.dtype.kind in "fc" or "float" in want.dtype.name):  # bfloat16 has a kind V
        return 0.0 if np.array_equal(got, want) else float("inf")
    kind = np.complex128 if want.dtype.kind == "c" else np.float64
    a, b = got.astype(kind), want.astype(kind)
    finite = np.isfinite(b)
    same = np.array_equal(a[~finite], b[~finite], equal_nan=True)
    if not (same and np.isfinite(a[finite]).all()):
        return float("inf")
    a, b = a[finite], b[finite]
    scale = float(np.abs(b).max(initial=0.0)) or 1.0  # squares of float64 overflow
    with np.errstate(over="ignore"):
        distance = float(np.linalg.norm(a / scale - b / scale))
    return distance / (float(np.linalg.norm(b / scale)) or 1.0)
