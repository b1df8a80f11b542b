# SPDX-License-Identifier: Apache-2.0
"""Statements in a row whose subscripts advance by constant steps."""

import pytest

from sirius_tf.ir.affine import symbol
from sirius_tf.ir.expr import Const
from sirius_tf.ir.printer import show_statement
from sirius_tf.transform.runs import differences, find_runs, shifted
from tests.support.programs import call, i, it, load, stmt

pytestmark = pytest.mark.ir


def chain(*places):
    """a[k, i] = x[place, i], for k = 0, 1, ..."""
    return tuple(
        stmt(f"s{k}", [it("i", 4)], "a", [k, i], load("x", place, i))
        for k, place in enumerate(places)
    )


def ranges(*places):
    return [(run.first, run.end, run.steps) for run in find_runs(chain(*places), 0)]


def test_a_run_ends_where_a_step_is_another_one() -> None:
    """Steps are those of all affine expressions, in order: one of the target, one of the load."""
    assert ranges(3, 5, 7, 9) == [(0, 4, (1, 0, 2, 0))]
    assert ranges(0, 1, 2, 3, 9, 8, 7, 6) == [(0, 4, (1, 0, 1, 0)), (4, 8, (1, 0, -1, 0))]
    assert ranges(0, 5, 1) == [] == ranges()
    assert ranges(7, 0, 1, 2, 3) == [(1, 5, (1, 0, 1, 0))]


def test_a_run_is_one_statement() -> None:
    (run,) = find_runs(chain(0, 3, 5, 7, 9), 0)
    assert [run.at(k) for k in range(1, 5)] == [
        stmt("", s.iters, s.target, s.index, s.value) for s in run.members
    ]
    assert show_statement(run.rolled("t")) == "s1: a[t + 1, i] = x[2*t + 3, i]   for t < 4, i < 4"
    run.loop = "t"
    assert run.rolled("t").iters[0].loop
    run.give_up()
    assert run.members == ()


def test_other_kinds_are_no_run() -> None:
    statements = list(chain(0, 1, 2, 3, 4, 5, 6, 7))
    s = statements[4]
    statements[4] = stmt("s4", s.iters, "a", s.index, call("exp", s.value))
    assert [(r.first, r.end) for r in find_runs(tuple(statements), 0)] == [(0, 4)]


def test_differences_are_loads_and_what_stands_there() -> None:
    state, zero = load("h", -1, i), Const(0.0, "float32")
    want, have = (call("add", load("x", i), call("tanh", a)) for a in (state, zero))
    assert differences(want, want) == []
    assert differences(want, have) == [(state, zero)]
    assert differences(want, call("mul", *have.args)) is None
    assert differences(have, want) is None  # a constant is no element of an array
    assert differences(call("add", have, state), call("add", want, zero)) is None


def test_elements_are_counted_from_what_is_in_front() -> None:
    t = symbol("t")
    s = stmt("s", [it("i", 4)], "h", [t, i], call("add", load("h", t - 1, i), load("x", t, i)))
    assert show_statement(shifted(s, {"h": 2})).startswith("s: h[t + 2, i] = h[t + 1, i] + x[t, i]")
