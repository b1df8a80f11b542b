# SPDX-License-Identifier: Apache-2.0
"""Where the threads of a block wait for each other."""

from dataclasses import replace
from itertools import pairwise

import pytest

from sirius_tf.compile import schedule_program
from sirius_tf.mapping.apply import apply
from sirius_tf.mapping.choose import choose_mapping
from sirius_tf.mapping.hazards import Touched, with_waits
from sirius_tf.mapping.residency import NOTHING
from sirius_tf.mapping.targets import machine_of
from sirius_tf.nest.boxes import with_boxes
from sirius_tf.nest.nodes import Block, Phase, Run, Tile, Wait, show, walk
from tests.support import programs

pytestmark = pytest.mark.ir


def test_threads_wait_for_what_others_make() -> None:
    kernel = schedule_program(programs.softmax(), machine_of("sm_90"))
    mapped = apply(kernel, choose_mapping(kernel)).kernel.nest
    lines = [line.strip() for line in show(mapped).splitlines()]
    waits = [(line, after) for line, after in pairwise(lines) if line.startswith("wait")]
    assert [line for line, _ in waits] == [
        "wait: others may still be using m",
        "wait: other threads may have made m",
        "wait: other threads may have made e",
        "wait: other threads may have made s",
    ]
    assert not any(after.startswith("wait") for _, after in waits)
    assert [line for line in lines if not line.startswith("wait")] == [
        line.strip() for line in show(kernel.nest).splitlines()
    ]


def names(nest):
    """What a nest runs, and where it waits."""
    kinds = (n for n in walk(nest) if isinstance(n, Run | Wait))
    return [n.statement if isinstance(n, Run) else "wait" for n in kinds]


def waiting(*parts, **fields):
    kernel = schedule_program(programs.softmax(), machine_of("sm_90"))
    storage = replace(kernel.storage, private={}, **fields)
    nest = Phase(Block(tuple(Tile(Block(tuple(part))) for part in parts)))
    boxed = replace(kernel, nest=nest, storage=storage)
    return names(with_waits(with_boxes(boxed), NOTHING).nest)


S0, S1, S2, S3 = (Run(name, ()) for name in ("S0", "S1", "S2", "S3"))


def test_one_wait_is_for_all_that_was_made_before() -> None:
    """S0 makes m of x, S1 makes e of x and m, S2 makes s of e, S3 reads e and s."""
    assert waiting([S0, S1, S2, S3]) == ["S0", "wait", "S1", "wait", "S2", "wait", "S3"]
    assert waiting([S0, S0]) == ["S0", "S0"]
    assert waiting([S0], [S1]) == ["S0", "wait", "S1"]


def test_a_tile_is_in_doubt_about_those_before() -> None:
    """A block may have had no tile in which it waited."""
    assert waiting([S0, S1], [S1]) == ["S0", "wait", "S1", "wait", "S1"]


BEFORE = Touched(frozenset({"a"}), frozenset({"b"}))


def after(read=(), written=(), memory=None):
    now = Touched(frozenset(read), frozenset(written))
    return BEFORE.followed_by(now, memory or {})


def test_what_others_made_is_waited_for() -> None:
    touched, reason = after(read="b")
    assert reason == "other threads may have made b"
    assert touched == Touched(frozenset("b"))  # all before is done


def test_memory_that_is_used_again_is_waited_for() -> None:
    _, reason = after(written="c", memory={"c": "m", "a": "m"})
    assert reason == "others may still be using c"
    assert after(written="c", memory={"c": "n", "a": "m"})[1] == ""


@pytest.mark.parametrize("touched", [{"read": "a"}, {"read": "c"}, {"written": "b"}])
def test_nothing_else_is(touched) -> None:
    found, reason = after(**touched)
    assert reason == "" and found.read >= {"a"} and found.written >= {"b"}
