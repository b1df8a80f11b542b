# SPDX-License-Identifier: Apache-2.0
"""The pass behind which there is no schedule that isl accepts.

A pass may leave results as they are, and still say something wrong of the order of execution.
It marks loops that are run in order, and says how far a statement of a loop is behind another.
"""

from __future__ import annotations

from sirius_tf import pipeline
from sirius_tf.compile import schedule_program
from sirius_tf.debug.differences import Finding
from sirius_tf.errors import InvalidArgument
from sirius_tf.ir.program import Program
from sirius_tf.pipeline import PIPELINE, Pipeline, Step
from sirius_tf.schedule.machine import CPU, Machine

STAGE = "schedule"


def in_schedule(
    program: Program, machine: Machine = CPU, passes: Pipeline = PIPELINE
) -> Finding | None:
    """Find the last pass before which the program can be scheduled, if it cannot be behind all.

    That is the scheduler itself if there is no such pass.
    """
    steps = list[Step]()
    program, _ = pipeline.run(program, machine, passes, [steps.append])
    rest = Pipeline((), passes.options)
    problem = _problem(program, machine, rest)
    if not problem:
        return None
    changed = [step for step in reversed(steps) if step.changed]
    names = (step.name for step in changed if not _problem(step.before, machine, rest))
    return Finding(next(names, STAGE), problem)


def _problem(program: Program, machine: Machine, passes: Pipeline) -> str:
    """The reason why a program has no schedule; "" if it has one."""
    try:
        schedule_program(program, machine, passes=passes)
    except InvalidArgument:
        raise
    except Exception as error:  # a defect of the scheduler may be any
        return f"{type(error).__name__}: {error}"
    return ""
