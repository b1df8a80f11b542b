# SPDX-License-Identifier: Apache-2.0
"""Programs of testdata/programs, with numbers for their constants and inputs."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

from sirius_tf import observers, pipeline
from sirius_tf.ir import interp
from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.parser import parse
from sirius_tf.ir.printer import show_statement
from sirius_tf.ir.verify import verify
from sirius_tf.mapping.targets import machine_of
from sirius_tf.schedule import overlap
from sirius_tf.schedule.machine import cpu
from tests.support import ROOT
from tests.support.arrays import assert_rounded

FOLDER = ROOT / "testdata" / "programs"
UNROLLED = ROOT / "testdata" / "unrolled"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.txt")))
MACHINES = {"one": cpu(1), "cpu": cpu(2), "cuda": machine_of("sm_90")}
_CONSTANT = re.compile(r"^  constant (\w+)\[([\d, ]*)\]: (\w+)$", re.MULTILINE)


@functools.cache
def read(name, folder=FOLDER):
    """A program of the folder."""
    return parsed((folder / f"{name}.txt").read_text())


def parsed(text):
    """A program of a text, whose domains may have a line of their own; the same random numbers
    each time for constants that the text does not hold."""
    text = text.replace("\n    for ", "   for ")
    rng = np.random.default_rng(3)
    values = {
        constant: _numbers(rng, [int(n) for n in shape.split(", ") if n], dtype)
        for constant, shape, dtype in _CONSTANT.findall(text)
    }
    return parse(text, values)


def edited(text, *edits):
    """A program of a text in which other words, each there once, stand for some."""
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    program = parsed(text)
    verify(program)
    return program


def agree(before, after, bound=None, tolerance=None):
    """Both programs compute the same of numbers; integers are below the bound."""
    verify(after)
    for size in (0, 1, 3):
        feeds = inputs(before, size)
        feeds |= {n: x % bound for n, x in feeds.items() if bound and x.dtype == np.int32}
        assert_rounded(interp.run(after, feeds), interp.run(before, feeds), tolerance)


def statements(program):
    """The texts of a program's statements, without their nodes."""
    return [show_statement(s).split("   # ")[0] for s in program.statements]


def slide_over_small_images(monkeypatch):
    """Have what is slid over in tiles, though the images of these programs fit into caches."""
    monkeypatch.setattr(overlap, "CACHE", 1 << 12)
    monkeypatch.setattr(overlap, "READ", 40)


@functools.cache
def passed(name, target):
    """What the passes for one of MACHINES do to a program of the folder: those that changed it, the
    program behind them, and its dependences. All tests share what is found once."""
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        slide_over_small_images(patch)
        watching = [steps.append, observers.check]
        program, context = pipeline.run(read(name), MACHINES[target], watching=watching)
    return tuple(step for step in steps if step.changed), program, context.flows


def inputs(program, size):
    """Numbers for the inputs of a program whose unknown sizes are all `size`."""
    rng = np.random.default_rng(size)
    found = {}
    for name in program.inputs:
        t = program.tensor[name]
        shape = [e.const if e.is_const else size for e in t.shape]
        found[name] = _numbers(rng, shape, t.dtype)
    return found


def _numbers(rng, shape, dtype):
    if dtype.startswith("int"):
        return rng.integers(0, 40, shape).astype(numpy_dtype(dtype))
    return (rng.standard_normal(shape) / 2).astype(numpy_dtype(dtype))
