# SPDX-License-Identifier: Apache-2.0
"""A pass that is right, but loses digits, is named."""

from dataclasses import replace

import pytest

from sirius_tf.debug.passes import in_passes
from sirius_tf.debug.rounding import roughest
from sirius_tf.ir.expr import Const
from sirius_tf.pipeline import PASSES, PIPELINE, Pipeline
from tests.support import programs, saved
from tests.support.programs import F, call

pytestmark = pytest.mark.ir


def lossy(program, context):
    """Differences of large numbers: right, but for the digits that are left."""
    large = Const(4096.0, F)
    return replace(
        program,
        statements=tuple(
            s if s.reduce else replace(s, value=call("sub", call("add", s.value, large), large))
            for s in program.statements
        ),
    )


def spoiled(name):
    return Pipeline(tuple(replace(p, apply=lossy) if p.name == name else p for p in PASSES))


def test_a_pass_that_loses_digits_is_named():
    program = programs.softmax()
    inputs = saved.inputs(program, 4)
    passes = spoiled("winograd")
    assert in_passes(program, inputs, passes=passes) is None  # it is no mistake
    added, found = roughest(program, inputs, passes=passes)
    assert found.stage == "winograd" and 1e-5 < added < 1e-2
    assert found.problem.startswith("it takes the error of results from ")


@pytest.mark.parametrize("passes", [PIPELINE, spoiled("epilogue")])
def test_passes_that_keep_to_sums_are_not_asked(passes):
    program = programs.softmax()
    assert roughest(program, saved.inputs(program, 4), passes=passes) is None
