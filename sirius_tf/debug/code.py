# SPDX-License-Identifier: Apache-2.0
"""The first statement whose generated code has other results than the interpreter.

The code of the whole program is run first. If it is wrong, so that is seen where, all temporaries
that a caller could be given become outputs, of a program that is compiled anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from sirius_tf.bundle.link import ISAS, link
from sirius_tf.codegen.cpu.kernel import print_kernel
from sirius_tf.compile import schedule_program
from sirius_tf.debug.differences import Finding, first_wrong, unlike, wrong
from sirius_tf.errors import InvalidArgument, SiriusError
from sirius_tf.ir.expr import index
from sirius_tf.ir.functions import Array
from sirius_tf.ir.interp import Trace, trace
from sirius_tf.ir.program import UNLIMITED, Output, Program, Tensor
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.pipeline import PIPELINE, Pipeline
from sirius_tf.runtime import native
from sirius_tf.schedule.machine import Machine

Inputs = Mapping[str, Array]
STAGE = "code"


def in_code(
    program: Program,
    inputs: Inputs,
    machine: Machine,
    passes: Pipeline = PIPELINE,
    tolerance: float = 1e-5,
) -> Finding | None:
    """Find the first statement whose code for this CPU is wrong; None if the results are right.

    A number may be off by the tolerance times the largest number of a result.
    """
    try:
        scheduled = schedule_program(program, machine, passes=passes)
        made = scheduled.program
        want = trace(made, inputs)
        got = _run(scheduled, inputs)
    except InvalidArgument:
        raise
    except Exception as error:  # a defect of the scheduler or of a printer may be any
        return Finding(STAGE, f"{type(error).__name__}: {error}")
    for output, ours, theirs in zip(made.outputs, got, want.outputs, strict=True):
        differ = wrong(ours, theirs, tolerance)
        if differ.any():
            at = tuple(int(i) for i in np.argwhere(differ)[0])
            problem = f"{output.tensor}{list(at)} is {unlike(ours[at], theirs[at])}"
            rest = Pipeline((), passes.options)
            return _located(made, machine, inputs, want, rest, tolerance) or Finding(
                STAGE, f"{problem}, but not if all temporaries are outputs", output.tensor
            )
    return None


def _run(scheduled: Scheduled, inputs: Inputs) -> list[Array]:
    """The results of the code of a program."""
    program, kernel = scheduled.program, print_kernel(scheduled)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bundle.so")
        link([kernel], path, {}, isas=[ISAS[native.isa()]])
        bundle = native.Bundle(path)
        feeds = [inputs[name] for name in program.inputs]
        return bundle.call(program.name, feeds, scheduled.machine.workers)


def _located(
    program: Program,
    machine: Machine,
    inputs: Inputs,
    want: Trace,
    passes: Pipeline,
    tolerance: float,
) -> Finding | None:
    """The first wrong element, if it is wrong where temporaries are outputs."""
    shown = [t.name for t in program.tensors if _can_be_shown(program, t, want)]
    made = with_outputs(program, shown)
    try:
        got = _run(schedule_program(made, machine, passes=passes), inputs)
    except SiriusError:
        return None
    arrays = {
        o.tensor: array.reshape(want.arrays[o.tensor].shape)
        for o, array in zip(made.outputs, got, strict=True)
    }
    element = first_wrong(want, arrays, want.arrays, tolerance)
    return element.found(STAGE) if element else None


def with_outputs(program: Program, names: list[str]) -> Program:
    """The program with temporaries as further outputs."""
    tensors = tuple(replace(t, role="output") if t.name in names else t for t in program.tensors)
    more = (Output(n, tuple(map(index, program.tensor[n].shape))) for n in names)
    return replace(program, tensors=tensors, outputs=(*program.outputs, *more))


def _can_be_shown(program: Program, tensor: Tensor, run: Trace) -> bool:
    """Whether a temporary has a size that is known on entry, and all of it is defined."""
    late = {name for extent in tensor.shape for name in extent.names()} & program.exits.keys()
    endless = any(extent.is_const and extent.const >= UNLIMITED for extent in tensor.shape)
    if tensor.role != "temp" or tensor.name in program.conditions or late or endless:
        return False
    return bool((run.made[tensor.name] >= 0).all())
