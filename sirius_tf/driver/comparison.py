# SPDX-License-Identifier: Apache-2.0
"""Regions beside TensorFlow: those that differ, or are slower, go back to it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from sirius_tf.bundle import cache, library
from sirius_tf.config import Options
from sirius_tf.driver.accuracy import Exact, exact
from sirius_tf.driver.kernels import Compiled
from sirius_tf.driver.parts import Part, computes, hints, region_values
from sirius_tf.errors import DifferenceError
from sirius_tf.frontend.graph import Edge
from sirius_tf.report import Accuracy, RegionReport
from sirius_tf.rewrite import checkpoint
from sirius_tf.rewrite.samples import Array
from sirius_tf.rewrite.session import Session
from sirius_tf.rewrite.substitute import Use


def compare_and_time(
    work: Path | None,
    meta_graph: Any,
    part: Part,
    kernels: Mapping[str, Compiled],
    bundle: Path,
    times: dict[str, tuple[float, float]],
    options: Options,
) -> Part:
    """Compare and time each region; those that differ or are slower go back to TensorFlow.

    DifferenceError if one differs that might not with `strict_math`. `times` are those of kernels,
    of TensorFlow and ours, in milliseconds.
    """
    if not part.uses:
        return part
    graph, name = part.signature.graph, part.signature.name
    reports, reasons = [], {}
    bytes_of = cache.content(bundle), checkpoint.variables_hash(work) if work else ""
    with ExitStack() as stack:

        @functools.cache
        def session() -> Session:
            made = Session(work, meta_graph, part.signature.inlined, graph, part.uses, bundle)
            return stack.enter_context(made)

        for use in part.uses:
            region = use.region.name
            shape, arrays = hints(part, use.region), region_values(part, use.region)
            of = (use.kernel, use.region.digest, *bytes_of, arrays, options.tolerance)
            find = functools.partial(_difference, session, use, part.values, options.tolerance)
            problem = cache.remembered("differences", (*of, machine()), find, _is_none)
            if problem and not options.strict_math:
                raise DifferenceError(f"region {region}: {problem}")
            if not problem and use.kernel not in times:
                measure = functools.partial(_best_times, session, use, part.values)
                key = (use.region.digest, kernels[use.kernel].code, shape, machine())
                times[use.kernel] = cache.remembered("times", key, measure, _is_faster)
            tf_ms, our_ms = (0.0, 0.0) if problem else times[use.kernel]
            if our_ms > tf_ms and not options.keep_slow:
                problem = f"slower than TensorFlow ({our_ms:.3g} ms against {tf_ms:.3g} ms)"
            if problem:
                reasons[region] = problem
            count = sum(computes(graph.by_name[node]) for node in use.region.nodes)
            code = kernels[use.kernel]
            errors = Accuracy(because=problem) if problem else _accuracy(session, part, use, code)
            found = tf_ms, our_ms, not problem, code.launch, errors, use.may_refuse
            reports.append(RegionReport(region, name, count, *found))
    return replace(part.without(reasons), timed=tuple(reports))


def with_exact(parts: Sequence[Part], kernels: Mapping[str, Compiled]) -> list[Part]:
    """The parts, whose constants are there still, with the errors of their regions against float64
    as far as they are remembered, and the exact results of the others, once for equal regions."""
    made: dict[str, Exact | Accuracy] = {}

    def find(part: Part, use: Use) -> Exact | Accuracy:
        region = use.region

        def inputs() -> list[Array]:
            return [part.values[edge] for edge in region.inputs if edge in part.values]

        key = _errors_key(part, use, kernels[use.kernel])
        known = cache.remembered("errors", key, lambda: None, lambda errors: errors is not None)
        return known or exact(part.signature.graph, region, hints(part, region), inputs)

    def found(part: Part, use: Use) -> Exact | Accuracy:
        key = repr(_errors_key(part, use, kernels[use.kernel]))
        if key not in made:
            made[key] = find(part, use)
        return made[key]

    return [replace(p, exact={use.region.name: found(p, use) for use in p.uses}) for p in parts]


def _accuracy(session: Callable[[], Session], part: Part, use: Use, code: Compiled) -> Accuracy:
    """The errors of a region against float64, on the samples."""
    known = part.exact[use.region.name]
    if isinstance(known, Accuracy):
        return known

    def find() -> Accuracy:
        return known.accuracy(*session().results(use, part.values))

    return cache.remembered("errors", _errors_key(part, use, code), find)


def _errors_key(part: Part, use: Use, code: Compiled) -> object:
    return use.region.digest, code.code, region_values(part, use.region), machine()


def machine() -> tuple[str, int, str, str]:
    """The machine that runs the code, as a key: the processor, the workers, TensorFlow, and the
    host of bundles."""
    return cache.processor(), len(os.sched_getaffinity(0)), tf.__version__, library.digest()


def _difference(
    session: Callable[[], Session], use: Use, values: Mapping[Edge, Array], tolerance: float
) -> str | None:
    return session().difference(use, values, tolerance)


def _is_none(problem: str | None) -> bool:
    """Whether there is no problem; the text of one names nodes of the region that had it first."""
    return problem is None


def _is_faster(times: tuple[float, float]) -> bool:
    """Whether ours is no slower; what was, on a busy machine, may not be another time."""
    theirs, ours = times
    return ours <= theirs


def _best_times(
    session: Callable[[], Session], use: Use, values: Mapping[Edge, Array]
) -> tuple[float, float]:
    """Milliseconds of TensorFlow and ours; taken again before a region is given up."""
    theirs, ours = session().time(use, values)
    if ours > theirs:
        again = session().time(use, values)
        theirs, ours = min(theirs, again[0]), min(ours, again[1])
    return theirs, ours
