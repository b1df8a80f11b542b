# SPDX-License-Identifier: Apache-2.0
"""Loops that Python unrolled: the program that each becomes, and its results."""

import random
from dataclasses import replace

import pytest

from sirius_tf.ir import interp, printer
from sirius_tf.ir.verify import verify
from sirius_tf.transform.reroll import reroll
from tests.support import saved
from tests.support.arrays import assert_close

pytestmark = pytest.mark.ir

NAMES = sorted(path.stem for path in saved.UNROLLED.glob("*.txt"))


@pytest.mark.parametrize("name", NAMES)
def test_the_loop(golden, name):
    program = saved.read(name, saved.UNROLLED)
    rolled = reroll(program)
    verify(rolled)
    golden(name, "\n".join(map(printer.show_statement, rolled.statements)) + "\n")
    statements = list(program.statements)
    random.Random(1).shuffle(statements)
    again = reroll(replace(program, statements=tuple(statements)))
    assert len(again.statements) == len(rolled.statements)
    for size in (0, 3):
        feeds = saved.inputs(program, size)
        expected = interp.run(program, feeds)
        for one in (rolled, again):
            assert_close(interp.run(one, feeds), expected, 1e-6)
