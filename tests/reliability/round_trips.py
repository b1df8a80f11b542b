# SPDX-License-Identifier: Apache-2.0
"""Whether texts of models are read back as what was printed.

usage: python -m tests.reliability.round_trips [--small] [NAME or FOLDER ...]

For each model of the zoo, or SavedModel in a folder (with its samples in FOLDER.npz): how many
regions there are; how many texts of programs (as they are lowered, and behind each pass that
changes something, for a CPU and for a GPU), of schedules for both, and of mappings to the GPU; and
how many of all these are refused, or read as something else. The exit code is 1 if some are.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import keras
import numpy as np

from sirius_tf.compile import allocate, laid_out, realize
from sirius_tf.driver.sampled import programs
from sirius_tf.errors import SiriusError
from sirius_tf.ir import parser, printer
from sirius_tf.ir.program import Program
from sirius_tf.mapping import text as mappings
from sirius_tf.mapping.choose import choose_mapping
from sirius_tf.mapping.targets import machine_of
from sirius_tf.pipeline import Step
from sirius_tf.poly.scop import extract
from sirius_tf.schedule import schedule as schedules
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.machine import CPU, Machine
from sirius_tf.tools import convert
from sirius_tf.tools.models import zoo
from tests.support import zoo_table
from tests.support.small_zoo import SIZES

T = TypeVar("T")
Trip = tuple[str, bool]
"""The kind of a text, and whether it is read as what was printed."""

KINDS = ("programs", "schedules", "mappings")
MACHINES = (CPU, machine_of("sm_90"))


def trips(program: Program) -> Iterator[Trip]:
    """The texts of a program on its way to a CPU, and to a GPU."""
    yield "programs", _is_read(program, printer.show, _parser(program), _are_equal)
    for machine in MACHINES:
        yield from _on_its_way(program, machine)


def _on_its_way(program: Program, machine: Machine) -> Iterator[Trip]:
    """The texts of a program behind each pass for a machine, and of what is decided about it."""
    steps = list[Step]()
    last, flows = laid_out(program, machine, watching=[steps.append])
    for made in (step.after for step in steps if step.changed):
        yield "programs", _is_read(made, printer.show, _parser(made), _are_equal)
    scop = extract(last)
    schedule = allocate(last, scop, fuse(last, flows, machine), machine)
    yield "schedules", _is_read(schedule, schedules.show, schedules.parse)
    if machine.target == "cuda":
        mapping = choose_mapping(realize(last, scop, flows, schedule, machine))
        yield "mappings", _is_read(mapping, mappings.show, mappings.parse)


def _is_read(
    value: T,
    show: Callable[[T], str],
    parse: Callable[[str], T],
    same: Callable[[T, T], bool] = lambda a, b: a == b,
) -> bool:
    """Whether a text is read as what it was printed of; says so if it is not."""
    try:
        again = parse(show(value))
    except SiriusError as error:
        print(error, file=sys.stderr)
        return False
    if not same(again, value):
        print(f"read as something else:\n{show(value)}", file=sys.stderr)
        return False
    return True


def _parser(program: Program) -> Callable[[str], Program]:
    """The parser of texts of a program, whose long constants lie beside it."""
    values = {t.name: t.value for t in program.tensors if t.value is not None}
    long = {name: value for name, value in values.items() if value.size > printer.SHORT}
    return lambda text: parser.parse(text, long)


def _are_equal(a: Program, b: Program) -> bool:
    """Whether programs are equal, with the bits of their constants."""
    pairs = ((x.value, y.value) for x, y in zip(a.tensors, b.tensors, strict=True))
    return a == b and all(x is y or _have_same_bits(x, y) for x, y in pairs)


def _have_same_bits(x: np.ndarray | None, y: np.ndarray | None) -> bool:
    if x is None or y is None:
        return False
    return (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def programs_of(name: str, small: bool) -> list[Program]:
    """The programs of the regions of a model of the zoo, or of one in a folder."""
    if name not in zoo.ZOO:
        samples = convert.read_samples(Path(name), None, {}, f"{name}.npz")
        return programs(name, samples=samples)
    keras.backend.clear_session()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        samples = zoo.build(name, path, **(SIZES[name] if small else {}))
        return programs(path, samples=samples)


def counted(name: str, small: bool) -> Counter[str]:
    """The texts of a model by their kind, and those that are wrong."""
    found = Counter[str]()
    for program in programs_of(name, small):
        found["regions"] += 1
        for kind, is_read in trips(program):
            found[kind] += 1
            found["wrong"] += not is_read
    return found


def run() -> None:
    """Run the command."""
    zoo_table.run(("regions", *KINDS, "wrong"), ["wrong"], counted, 11)


if __name__ == "__main__":
    run()
