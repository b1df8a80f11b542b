# SPDX-License-Identifier: Apache-2.0
"""A Program as files: its text, and an .npz of the constants that are too long for a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sirius_tf.ir import printer
from sirius_tf.ir.parser import parse
from sirius_tf.ir.program import Program


def write(program: Program, text: Path) -> None:
    """Write the text, and the values of long constants beside it."""
    text.write_text(printer.show(program))
    values = {t.name: t.value for t in program.tensors if t.value is not None}
    longer = {name: v for name, v in values.items() if v.size > printer.SHORT}
    np.savez(text.with_suffix(".npz"), **longer)  # type: ignore[arg-type]


def read(text: Path) -> Program:
    """The program of a text, with the values beside it, if there are any."""
    values = text.with_suffix(".npz")
    if not values.exists():
        return parse(text.read_text())
    with np.load(values) as arrays:
        return parse(text.read_text(), dict(arrays))
