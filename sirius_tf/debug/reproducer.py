# SPDX-License-Identifier: Apache-2.0
"""A program with inputs, and how it is compiled: what a bisection is of, and what it leaves.

folder/program.txt, program.npz      the program, and its long constants (ir/files.py)
folder/inputs.npz                    arrays by the names of the inputs
folder/how.json                      target, workers, what is left out, the tolerance
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sirius_tf import pipeline
from sirius_tf.debug import schedule
from sirius_tf.debug.code import STAGE, in_code
from sirius_tf.debug.differences import Finding
from sirius_tf.debug.passes import in_passes
from sirius_tf.errors import SiriusError
from sirius_tf.ir import files
from sirius_tf.ir.expr import index
from sirius_tf.ir.functions import Array
from sirius_tf.ir.program import Output, Program
from sirius_tf.mapping.targets import machine_of
from sirius_tf.pipeline import PASSES, PIPELINE, Step
from sirius_tf.schedule.machine import Machine, cpu

_ALL = tuple(p.name for p in PASSES)


@dataclass(frozen=True, eq=False)
class Case:
    """A program and its inputs. `arch` is a GPU architecture, "" for this CPU; `without` are names
    of what is left out."""

    program: Program
    inputs: Mapping[str, Array]
    arch: str = ""
    workers: int = 2
    without: tuple[str, ...] = ()
    tolerance: float = 1e-5

    @property
    def machine(self) -> Machine:
        """The machine that it is compiled for."""
        return machine_of(self.arch) if self.arch else cpu(self.workers)


def bisect(case: Case, say: Callable[[str], None] = lambda _: None) -> Finding | None:
    """The first pass that is wrong on the inputs, else the pass behind which isl accepts no
    schedule, else the first statement whose code is wrong; None if there is none of these. Code
    for GPUs is not run."""
    passes = PIPELINE.without(case.without)
    found = in_passes(case.program, case.inputs, case.machine, passes, say)
    if not found:
        say(schedule.STAGE)
        found = schedule.in_schedule(case.program, case.machine, passes)
    if found or case.arch:
        return found
    say(STAGE)
    return in_code(case.program, case.inputs, case.machine, passes, case.tolerance)


def reduced(case: Case, found: Finding) -> Case:
    """A smaller case with a finding of the same stage, if there is one: the program before that
    stage, with what the first wrong tensor needs. Else the case itself."""
    steps = list[Step]()
    try:
        pipeline.run(case.program, case.machine, PIPELINE.without(case.without), [steps.append])
    except Exception:  # a defect of a pass may be any
        if not steps:
            return case
    before = {s.name: s.before for s in steps} | {STAGE: steps[-1].after}
    program = before.get(found.stage)
    if program is None or not found.tensor or found.tensor not in program.tensor:
        return case
    if program.exits or program.guarded:
        return case
    others = (*(name for name in _ALL if name != found.stage), *case.without)
    smaller = replace(
        case, program=needed(program, found.tensor), without=tuple(dict.fromkeys(others))
    )
    again = bisect(smaller)
    return smaller if again and again.stage == found.stage else case


def needed(program: Program, name: str) -> Program:
    """The statements that one tensor needs, which is the output."""
    kept, grown = {name}, set[str]()
    while kept != grown:
        grown = set(kept)
        kept |= {x.tensor for s in program.statements if s.target in grown for x in s.loads}
    tensors = []
    for t in program.tensors:
        role = "output" if t.name == name else "temp" if t.role == "output" else t.role
        if t.name in kept or t.role == "input":
            tensors.append(replace(t, role=role))
    return replace(
        program,
        tensors=tuple(tensors),
        statements=tuple(s for s in program.statements if s.target in kept),
        outputs=(Output(name, tuple(map(index, program.tensor[name].shape))),),
    )


def save(case: Case, folder: Path) -> None:
    """Write a case, so that `load` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write(case.program, folder / "program.txt")
    np.savez(folder / "inputs.npz", **case.inputs)  # type: ignore[arg-type]
    how = {"arch": case.arch, "workers": case.workers, "tolerance": case.tolerance}
    text = json.dumps({**how, "without": list(case.without)}, indent=1)
    (folder / "how.json").write_text(text + "\n")


def load(folder: Path) -> Case:
    """The case in a folder."""
    try:
        how = json.loads((folder / "how.json").read_text())
        program = files.read(folder / "program.txt")
        with np.load(folder / "inputs.npz") as arrays:
            inputs = dict(arrays)
    except (OSError, ValueError) as error:
        raise SiriusError(f"{folder} has no case that can be replayed: {error}") from error
    without = how["without"]
    return Case(program, inputs, how["arch"], how["workers"], tuple(without), how["tolerance"])
