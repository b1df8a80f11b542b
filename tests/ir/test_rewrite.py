# SPDX-License-Identifier: Apache-2.0
"""Statements rewritten: all that a change is about, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest

from sirius_tf.ir import interp
from sirius_tf.ir.affine import affine
from sirius_tf.ir.expr import Index
from sirius_tf.ir.printer import show_statement
from sirius_tf.ir.program import Guard, Reduce
from sirius_tf.ir.rewrite import (
    along,
    define_elsewhere,
    finished,
    fresh,
    map_affines,
    map_iters,
    map_loads,
    move,
    numbered,
    rename_loads,
    rename_tensors,
    substitute_in,
)
from sirius_tf.ir.verify import verify
from sirius_tf.schedule.layout import pack
from sirius_tf.schedule.machine import CPU
from tests.support.programs import B, b, call, dense, i, it, j, load, stmt, t, tensor

pytestmark = pytest.mark.ir

POSITION = call("bounded", load("at", b, dtype="int64"), Index(affine(9), "int64"), dtype="int64")


def everything():
    """A sum with an epilogue and a guard, in a loop, that reads where data says."""
    s = stmt(
        "S",
        [it("t", 4, loop=True), it("b", B)],
        "y",
        [t + 1, b],
        call("mul", load("x", t, POSITION), load("y", t, j)),
        Reduce("add", (it("j", B),)),
    )
    guard = Guard(load("p", t, dtype="bool"))
    return replace(s, guards=(guard,), finish=call("add", s.result, load("x", t, b)))


LINE = (
    "S: y[t + 1, b] = acc + x[t, b] where acc = sum over j of"
    " x[t, bounded(at[b], (9))] * y[t, j] if p[t]   for t < 4 in order, b < B, j < B"
)


def test_the_statement():
    assert show_statement(everything()) == LINE


@pytest.mark.parametrize(
    "names", [{"x": "x2"}, {"at": "at2"}, {"p": "p2"}, {"y": "y2"}, {"x": "x2", "y": "y2"}]
)
def test_tensors_are_renamed_everywhere(names):
    want = LINE
    for old, new in names.items():
        want = want.replace(f"{old}[", f"{new}[")
    assert show_statement(rename_tensors(everything(), names)) == want


def test_what_is_read_moves_and_what_is_defined_stays():
    want = LINE.replace("* y[", "* z[")
    assert show_statement(rename_loads(everything(), {"y": "z"})) == want
    twice = map_loads(everything(), {"y"}, lambda x: call("add", x, x))
    assert show_statement(twice) == LINE.replace("* y[t, j]", "* (y[t, j] + y[t, j])")


def test_an_element_moves_with_its_epilogue():
    moved = move(everything(), {"y"}, lambda x: along(x, 0, lambda k: 2 * k))
    assert show_statement(moved) == LINE.replace("y[t + 1", "y[2*t + 2").replace("y[t,", "y[2*t,")
    with pytest.raises(AssertionError, match="a subscript of x depends on data"):
        move(everything(), {"x"}, lambda x: along(x, 1, lambda k: 2 * k))


def test_another_element_is_defined():
    other = define_elsewhere(everything(), "z", (b,))
    assert show_statement(other) == LINE.replace("y[t + 1, b]", "z[b]")
    assert finished(everything(), load("z")) == call("add", load("z"), load("x", t, b))
    assert finished(replace(everything(), finish=None), load("z")) == load("z")


def test_values_of_iterators_go_everywhere_but_where_they_are_declared():
    s = substitute_in(everything(), {"t": i - 1, "B": affine(6)})
    want = LINE.replace("[t + 1", "[i").replace("[t", "[i - 1").replace("< B", "< 6")
    assert show_statement(s) == want
    named = map_iters(s, lambda i: replace(i, name=f"{i.name}_"))
    assert [i.name for i in named.all_iters] == ["t_", "b_", "j_"]


def test_affine_expressions_come_in_one_order_and_extents_are_none_of_them():
    numbers = []

    def number(a):
        numbers.append(str(a))
        return affine(len(numbers))

    s = map_affines(everything(), number)
    assert numbers == ["t + 1", "b", "b", "9", "t", "t", "j", "t + 1", "b", "t", "b", "t"]
    assert s.index == (affine(1), affine(2)) and s.iters == everything().iters


def test_names_that_nobody_has():
    assert fresh("x", {}) == "x"
    assert fresh("x", {"x", "x_1"}) == "x_2"
    names = numbered("t", {"t1"})
    assert [next(names), next(names)] == ["t0", "t2"]


def test_a_tensor_with_the_name_of_a_packed_one():
    program = dense(width=32)
    mine = tensor("w_packed0", [1], role="constant", value=np.array([2.0], "f"))
    (s,) = program.statements
    s = replace(s, finish=call("mul", s.result, load("w_packed0", 0)))
    program = replace(program, tensors=(*program.tensors, mine), statements=(s,))
    packed = pack(program, CPU)
    assert any(x.name == "w_packed0_1" for x in packed.tensors)
    verify(packed)
    x = np.random.default_rng(0).standard_normal((3, 499)).astype("f")
    (want,), (have,) = (interp.run(p, {"x": x}) for p in (program, packed))
    np.testing.assert_array_equal(have, want)
