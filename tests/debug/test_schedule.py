# SPDX-License-Identifier: Apache-2.0
"""Passes that keep results, but leave no schedule, are named."""

from dataclasses import replace

import pytest

from sirius_tf.debug import schedule
from sirius_tf.debug.schedule import in_schedule
from sirius_tf.ir.rewrite import map_iters, map_statements
from sirius_tf.mapping.targets import machine_of
from sirius_tf.pipeline import PASSES, Pipeline
from tests.support import saved

pytestmark = pytest.mark.ir

MACHINE = machine_of("sm_90")


def ahead(program):
    """Statements of a wavefront run before those that they read."""
    return map_statements(
        program,
        lambda s: map_iters(s, lambda i: replace(i, shift=-i.shift) if i.shift else i),
    )


def spoiled(name):
    return Pipeline(
        tuple(
            replace(p, apply=lambda q, c, p=p: ahead(p.apply(q, c))) if p.name == name else p
            for p in PASSES
        )
    )


@pytest.mark.parametrize("name", ["wavefront", "layout"])
def test_the_pass_behind_which_there_is_no_schedule(name):
    program = saved.read("two_layers")
    assert in_schedule(program, MACHINE) is None
    found = in_schedule(program, MACHINE, spoiled(name))
    assert found.stage == name and "runs the sink first, e.g." in found.problem


def test_a_scheduler_that_fails_is_named(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("of no tiles")

    monkeypatch.setattr(schedule, "schedule_program", fail)
    found = in_schedule(saved.read("dense"))
    assert str(found) == "schedule: ZeroDivisionError: of no tiles"
