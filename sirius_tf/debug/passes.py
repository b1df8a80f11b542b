# SPDX-License-Identifier: Apache-2.0
"""The first pass that changes results by more than rounding may.

Programs are interpreted in double precision, where they differ by the rounding of constants that
passes have computed, and hardly by the order of terms. How much that can be is measured: it is what
becomes of results when inputs and constants change in the last bit of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from sirius_tf import observers, pipeline
from sirius_tf.debug.differences import Finding, first_wrong, unlike, wrong
from sirius_tf.errors import SiriusError
from sirius_tf.ir.functions import Array
from sirius_tf.ir.interp import Trace, trace
from sirius_tf.ir.program import Program
from sirius_tf.ir.widen import wide, widened
from sirius_tf.pipeline import PIPELINE, Pipeline, Step
from sirius_tf.schedule.machine import CPU, Machine

Inputs = Mapping[str, Array]
LAST_BIT = 2.0**-24
FLOOR = 1e-9  # of the largest number of a result: double precision, in any order
ROUNDINGS = {"none": 8.0, "order": 8.0, "more": 256.0}
"""Factors by which results may change behind a pass, of their change with the last bits."""


def in_passes(
    program: Program,
    inputs: Inputs,
    machine: Machine = CPU,
    passes: Pipeline = PIPELINE,
    say: Callable[[str], None] = lambda _: None,
) -> Finding | None:
    """Find the first pass that is wrong; None if all are right on these inputs.

    `say` is told what is being done.
    """
    steps = list[Step]()
    failure = _failure(program, machine, passes, steps)
    changed = [step for step in steps if step.changed]
    for step in changed:
        try:
            observers.check(step)
        except SiriusError as error:
            return Finding(step.name, str(error))
    if failure:
        return failure
    say("program")
    exact, feed = widened(program), wide(inputs)
    before = trace(exact, feed)
    noise = _noise(exact, feed, before)
    for step in changed:
        say(step.name)
        try:
            after = trace(widened(step.after), feed)
        except SiriusError as error:
            return Finding(step.name, f"{type(error).__name__}: {error}")
        tolerance = max(FLOOR, ROUNDINGS[step.rounding] * noise)
        if found := _between(step, before, after, tolerance):
            return found
        before = after
    return None


def _failure(
    program: Program, machine: Machine, passes: Pipeline, steps: list[Step]
) -> Finding | None:
    """Run the passes and keep their steps. A finding if one of them fails."""
    try:
        _, context = pipeline.run(program, machine, passes, [steps.append])
        assert context.flows is not None
    except Exception as error:  # a defect of a pass may be any
        names = [p.name for p in passes.passes if machine.target in p.targets]
        name = names[len(steps)] if len(steps) < len(names) else "dependences"
        return Finding(name, f"{type(error).__name__}: {error}")
    return None


def _between(step: Step, before: Trace, after: Trace, tolerance: float) -> Finding | None:
    """The first wrong element behind a pass, if outputs differ."""
    for output, got, want in zip(step.after.outputs, after.outputs, before.outputs, strict=True):
        if got.shape != want.shape:
            return Finding(
                step.name, f"{output.tensor} has the shape {got.shape}, not {want.shape}"
            )
        differ = wrong(got, want, tolerance)
        if differ.any():
            element = first_wrong(after, after.arrays, before.arrays, tolerance)
            if element:
                return element.found(step.name)
            at = tuple(int(i) for i in np.argwhere(differ)[0])
            problem = f"{output.tensor}{list(at)} is {unlike(got[at], want[at])}"
            return Finding(step.name, problem, output.tensor)
    return None


def _noise(program: Program, inputs: Inputs, exact: Trace) -> float:
    """The largest change of results with the last bits of inputs and constants, as a share of the
    largest number of a result."""
    rng = np.random.default_rng(0)

    def moved(array: Array) -> Array:
        if array.dtype.kind != "f":
            return array
        return np.asarray(array * (1 + LAST_BIT * rng.choice([-1.0, 1.0], array.shape)))

    tensors = tuple(
        t if t.value is None else replace(t, value=moved(t.value)) for t in program.tensors
    )
    other = trace(replace(program, tensors=tensors), {name: moved(x) for name, x in inputs.items()})
    found = [0.0]
    for got, want in zip(other.outputs, exact.outputs, strict=True):
        if want.dtype.kind == "f" and got.shape == want.shape:
            finite = np.isfinite(want) & np.isfinite(got)
            apart = np.abs(got - want)[finite].max(initial=0.0)
            found.append(apart / max(np.abs(want[finite]).max(initial=0.0), 1e-300))
    return float(max(found))
