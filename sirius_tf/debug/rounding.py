# SPDX-License-Identifier: Apache-2.0
"""The pass whose rounding is felt most, where no pass is wrong but results are too far off.

Programs are interpreted in their own precision, sums aside, and compared with the first one in
double precision. A pass that takes differences of large numbers, as Winograd's does, leaves a
greater error behind than there was before it.
"""

from __future__ import annotations

from collections.abc import Mapping

from sirius_tf import pipeline
from sirius_tf.debug.differences import Finding
from sirius_tf.ir.functions import Array
from sirius_tf.ir.interp import run
from sirius_tf.ir.program import Program
from sirius_tf.ir.widen import wide, widened
from sirius_tf.pipeline import PIPELINE, Pipeline, Step
from sirius_tf.rewrite.difference import relative_error
from sirius_tf.schedule.machine import CPU, Machine

Inputs = Mapping[str, Array]


def roughest(
    program: Program, inputs: Inputs, machine: Machine = CPU, passes: Pipeline = PIPELINE
) -> tuple[float, Finding] | None:
    """The pass that adds most to the error of results, and how much; None if none adds to it.

    Asked are passes that do more to results than take sums in another order.
    """
    steps = list[Step]()
    pipeline.run(program, machine, passes, [steps.append])
    exact = run(widened(program), wide(inputs))

    def error(made: Program) -> float:
        pairs = zip(run(made, inputs), exact, strict=True)
        return max((relative_error(got.astype(x.dtype), x) for got, x in pairs), default=0.0)

    found = []
    for step in steps:
        if step.changed and step.rounding == "more":
            before, after = error(step.before), error(step.after)
            problem = f"it takes the error of results from {before:.1e} to {after:.1e}"
            found.append((after - before, Finding(step.name, problem)))
    added, finding = max(found, key=lambda pair: pair[0], default=(0.0, Finding("", "")))
    return (added, finding) if added > 0 else None
