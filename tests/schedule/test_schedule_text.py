# SPDX-License-Identifier: Apache-2.0
"""Schedules are printed, read back, and refused where they are no schedules."""

import pytest

from sirius_tf.errors import SiriusError
from sirius_tf.ir.affine import symbol
from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import Plan
from sirius_tf.schedule.schedule import Schedule, parse, show
from sirius_tf.schedule.storage import Storage, Words
from sirius_tf.schedule.tree import Band, Filter, Phase, Sequence, Tile
from tests.support import programs

pytestmark = pytest.mark.ir

t, i = symbol("t"), symbol("i")
LEAF = Tile(Sequence((Filter(("a",), Band(({"a": i},), None, (True,))), Filter(("b",)))))
TREE = Sequence(
    (
        Filter(("z",)),
        Filter(
            ("a", "b"),
            Band(
                ({"a": t, "b": t - 1},),
                Sequence(
                    (
                        Filter(
                            ("a", "b"),
                            Phase(
                                Band(
                                    ({"a": i // 8 * 8, "b": i * 8}, {"a": t, "b": i + t * 2}),
                                    LEAF,
                                    (True, True),
                                ),
                                "a after x of z",
                            ),
                        ),
                    )
                ),
            ),
        ),
    )
)
PLANS = {"z": Plan(None), "a": Plan("i", "t"), "b": Plan("k", across=True)}
STORAGE = Storage(
    {"h": (2, None)}, {"v": (None, 16)}, {"h": 0, "v": 1, "w": 0}, {"h": Words("q", 0)}
)
SCHEDULE = Schedule(TREE, PLANS, STORAGE)


def test_every_kind_of_decision_is_read_back() -> None:
    assert parse(show(SCHEDULE)) == SCHEDULE


@pytest.mark.parametrize("make", [programs.dense, programs.softmax, programs.lstm])
def test_trees_are_read_back(make) -> None:
    program = make()
    tree = fuse(program, flow(extract(program)), Machine(2))
    schedule = Schedule(tree, {}, Storage())
    assert parse(show(schedule)) == schedule


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("plans:\n", "", "has the parts schedule, plans, storage"),
        ("lanes i, rows t", "lanes i by t", "line 18 .*'lanes i by t' is not understood"),
        ("window [2, .]", "window 2", "is not understood"),
        ("a: t, b: t - 1", "a: t +, b: t", "line 5 .* an operand is missing"),
        ("          a, b\n            # phase", "          # phase", "begin with names of"),
        ("in sequence\n    z", "in sequence\n      z", "not where a node can be"),
    ],
)
def test_what_is_no_schedule_is_an_error(right: str, wrong: str, problem: str) -> None:
    text = show(SCHEDULE)
    assert right in text
    with pytest.raises(SiriusError, match=problem):
        parse(text.replace(right, wrong))
