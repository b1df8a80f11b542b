# SPDX-License-Identifier: Apache-2.0
"""Schedules are printed, read back, and refused where they are no schedules."""

import functools

import pytest

from sirius_tf.codegen.cpu.kernel import print_run
from sirius_tf.compile import allocate, realize, schedule_program
from sirius_tf.errors import SiriusError, VerifyError
from sirius_tf.ir.affine import symbol
from sirius_tf.mapping.choose import choose_mapping
from sirius_tf.mapping.text import parse as parse_mapping
from sirius_tf.mapping.text import show as show_mapping
from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.plan import Plan
from sirius_tf.schedule.schedule import Schedule, parse, show
from sirius_tf.schedule.storage import Storage, Words
from sirius_tf.schedule.tree import Band, Filter, Phase, Sequence, Tile
from tests.support import programs, saved

pytestmark = pytest.mark.ir

SLOW = "convolution"  # 24 statements, seconds for isl
CASES = [(name, target) for name in saved.NAMES if name != SLOW for target in ("cpu", "cuda")]
CASES += [(name, "one") for name in ("decided", "replaced", "two_layers")]  # updates in place
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
    tree = fuse(program, flow(extract(program)), cpu(2))
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


@pytest.mark.parametrize(("name", "target"), CASES)
def test_decisions_about_small_graphs(golden, name, target) -> None:
    """The schedule, and the mapping to a GPU, are read back; what is read is legal."""
    _, program, flows = saved.passed(name, target)
    machine, scop = saved.MACHINES[target], extract(program)
    schedule = allocate(program, scop, fuse(program, flows, machine), machine)
    text = show(schedule)
    golden(f"{name}.{target}", text)
    again = parse(text)
    assert again == schedule
    assert show(again) == text
    scheduled = realize(program, scop, flows, again, machine)
    if target == "cuda":
        mapping = choose_mapping(scheduled)
        assert parse_mapping(show_mapping(mapping)) == mapping


@functools.cache
def scheduled(make):
    """The text of a schedule, and what is printed by it."""
    texts: dict[str, str] = {}
    found = schedule_program(make(), dump=texts.__setitem__)
    return texts["schedule"], found


@pytest.mark.parametrize("make", [programs.dense, programs.softmax, programs.lstm])
def test_a_schedule_is_replayed(make) -> None:
    text, found = scheduled(make)
    assert show(parse(text)) == text
    replayed = schedule_program(make(), given=parse(text))
    assert print_run(replayed, "v3") == print_run(found, "v3")


def test_an_edited_schedule_is_accepted() -> None:
    """Other tiles, other vectors, no window: all of that is legal."""
    text, found = scheduled(programs.lstm)
    edits = {
        "parallel h0: b by 4": "parallel h0: b by 6",
        "c0: lanes i": "c0: lanes b",
        "window [2, ., .]": "window [3, ., .]",
    }
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new, 1)
    replayed = schedule_program(programs.lstm(), given=parse(text))
    assert show(Schedule(parse(text).tree, replayed.plans, replayed.storage)) == text
    assert print_run(replayed, "v3") != print_run(found, "v3")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("loop h1: t, c1: t, z: t", "parallel h1: t, c1: t, z: t", "carries a dependence.*e.g."),
        (
            "loop h1: t, c1: t, z: t",
            "loop h1: t + 1, c1: t, z: t",
            "runs the sink first, e.g. .*h1\\[t, b, i\\] -> z",
        ),
        ("window [2, ., .]", "window [1, ., .]", "a cell of .* that is? .*another|two elements"),
        ("c0: lanes i", "c0: lanes t", "c0 cannot be computed as 'lanes t'"),
        ("  c0: lanes i\n", "", "a schedule without plans of c0"),
        ("private [", "private [., ", "z is no temporary with 4 dimensions"),
        ("private [., 16", "private [., 8", "needed outside of tiles of the size"),
        ("slot 0", "slot 9", "without a gap; none is slot 0"),
    ],
)
def test_a_broken_schedule_is_refused(old, new, problem) -> None:
    text, _ = scheduled(programs.lstm)
    assert old in text
    with pytest.raises(VerifyError, match=problem):
        schedule_program(programs.lstm(), given=parse(text.replace(old, new)))
