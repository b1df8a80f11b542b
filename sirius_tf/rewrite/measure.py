# SPDX-License-Identifier: Apache-2.0
"""How far two results are apart, and how long two calls take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sirius_tf.frontend.graph import Graph

Array = np.ndarray[Any, Any]
_TRIES = 4
_ULPS = 16  # what a sum of some hundred terms may be off by in any order
_STEPS = 4.0  # that results may be off by where they are rounded in every op
_HALF_STEP = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_SECONDS = 0.5  # of measuring, per pair
_ROUNDS = (5, 50)  # at least, at most


def allowed(graph: Graph, tolerance: float) -> float:
    """The tolerance, or some steps of the coarsest type that a graph rounds its results to."""
    dtypes = {dtype for node in graph.nodes for dtype in node.dtypes}
    steps = [_STEPS * step for dtype, step in _HALF_STEP.items() if dtype in dtypes]
    return max([tolerance, *steps, *(allowed(body, tolerance) for body in graph.bodies.values())])


def interleaved(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """The least times of two calls in milliseconds, taken in turns: other load only ever adds."""
    times: tuple[list[float], list[float]] = ([], [])
    for call in (first, second, first, second):
        call()
    end = time.perf_counter() + _SECONDS
    while len(times[0]) < _ROUNDS[0] or (len(times[0]) < _ROUNDS[1] and time.perf_counter() < end):
        for call, taken in zip((first, second), times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(1e3 * (time.perf_counter() - start))
    return min(times[0]), min(times[1])


def rounding(
    call: Callable[[Sequence[Array]], Sequence[Array]], inputs: Sequence[Array]
) -> list[float]:
    """How much each result of a function changes where inputs change in their last bits.

    No computation in another order can be expected to come nearer than that: a model that
    normalizes by its least value may turn 1e-7 into 1e-4. The greatest error of a few tries.
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


def relative_error(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> float:
    """The relative error in the L2 norm; infinite if shapes, types or not-finite elements differ.

    What are not floating-point numbers must be equal.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if want.dtype.kind not in "fcV":  # V: bfloat16 and the like
        return 0.0 if np.array_equal(got, want) else float("inf")
    kind = np.complex128 if want.dtype.kind == "c" else np.float64
    a, b = got.astype(kind), want.astype(kind)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    difference = float(np.linalg.norm((a - b)[finite]))
    scale = float(np.linalg.norm(b[finite]))
    return difference / scale if scale else difference
