# SPDX-License-Identifier: Apache-2.0
"""Programs of testdata/programs, with numbers for their constants and inputs."""

from __future__ import annotations

import re

import numpy as np

from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.parser import parse
from sirius_tf.ir.printer import show_statement
from sirius_tf.schedule import overlap
from tests.support import ROOT

FOLDER = ROOT / "testdata" / "programs"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.txt")))
_CONSTANT = re.compile(r"^  constant (\w+)\[([\d, ]*)\]: (\w+)$", re.MULTILINE)


def read(name):
    """A program of the folder."""
    return parsed((FOLDER / f"{name}.txt").read_text())


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


def statements(program):
    """The texts of a program's statements, without their nodes."""
    return [show_statement(s).split("   # ")[0] for s in program.statements]


def slide_over_small_images(monkeypatch):
    """Have what is slid over in tiles, though the images of these programs fit into caches."""
    monkeypatch.setattr(overlap, "CACHE", 1 << 12)
    monkeypatch.setattr(overlap, "READ", 40)


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
