# SPDX-License-Identifier: Apache-2.0
"""What a loop does not carry leaves it."""

import pytest

from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.hoist import demanded, release, ring, whole_loops
from sirius_tf.transform.simplify import simplify
from tests.support import programs, saved

pytestmark = pytest.mark.ir


def in_loops(program):
    return {s.name for s in program.statements if any(i.loop for i in s.iters)}


def released(program):
    return release(program, flow(extract(program)))


def test_only_recurrences_stay_in_loops() -> None:
    given = simplify(saved.read("two_layers"))
    made = released(given)
    recurrent = {s.name for s in given.statements if s.target in ("while_3", "while_1_3")}
    assert in_loops(made) < in_loops(given) and in_loops(made) & recurrent
    for s in given.statements:  # nothing else changes
        (other,) = (o for o in made.statements if o.name == s.name)
        assert (other.value, other.index) == (s.value, s.index)


def test_an_element_that_needs_the_one_before_stays() -> None:
    assert in_loops(programs.recurrence()) == {"xw", "hu", "cell"}
    assert in_loops(released(programs.recurrence())) == {"hu", "cell"}


def test_statements_of_a_loop_that_data_ends_stay_together() -> None:
    given = saved.read("decided")
    names = [s.name for s in given.statements]
    assert whole_loops(given, names) == []  # a counter bounds it
    edges = whole_loops(given, names, hoist=False)
    assert sorted(a for a, _ in edges) == sorted(b for _, b in edges) == sorted(in_loops(given))


def test_a_ring_is_one_component() -> None:
    assert ring(["a", "b", "c"]) == [("a", "b"), ("b", "c"), ("c", "a")]
    assert ring(["a"]) == [("a", "a")]


LOOP = """program text(x)
params:
  B = dim(x, 0)   # >= 0, hint 8
tensors:
  input x[B]: float32
  temp h[B + 1]: float32
  temp m[B]: float32
  temp ok[B]: bool
  output y[1]: float32
statements:
  A: h[0] = 0.0
  H: h[t + 1] = h[t] + x[t]   for t < B in order
  M: m[t] = h[t + 1] * 2.0   for t < B in order
  D: ok[t] = demand(m[t] > 0.0, 3)   for t < B in order
  Y: y[0] = h[B]
outputs:
  y: [1]
"""


def test_what_is_only_there_to_tell_whether_something_holds_stays() -> None:
    given = saved.parsed(LOOP)
    assert in_loops(released(given)) == {"H", "M", "D"}
    used = LOOP.replace("y[0] = h[B]", "y[0] = h[B] + m[0]")
    assert in_loops(released(saved.parsed(used))) == {"H"}


def test_nothing_is_kept_for_no_demand() -> None:
    given = saved.parsed(LOOP.replace("demand(m[t] > 0.0, 3)", "m[t] > 0.0"))
    names = [s.name for s in given.statements]
    assert demanded(given, names, [("H", "H"), ("H", "M"), ("M", "D")]) == []
