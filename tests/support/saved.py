# SPDX-License-Identifier: Apache-2.0
"""Programs of testdata/programs, with numbers for their constants and inputs."""

from __future__ import annotations

import re

import numpy as np

from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.parser import parse
from tests.support import ROOT

FOLDER = ROOT / "testdata" / "programs"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.txt")))
_CONSTANT = re.compile(r"^  constant (\w+)\[([\d, ]*)\]: (\w+)$", re.MULTILINE)


def read(name):
    """A program; the same random numbers each time for constants that its text does not hold."""
    text = (FOLDER / f"{name}.txt").read_text()
    rng = np.random.default_rng(3)
    values = {
        constant: _numbers(rng, [int(n) for n in shape.split(", ") if n], dtype)
        for constant, shape, dtype in _CONSTANT.findall(text)
    }
    return parse(text, values)


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
