# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Call, Const, Expr, Index, Load
from sirius_tf.ir.program import Iter, Output, Param, Program, Statement, Tensor
from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.inplace import accumulates, in_place, passed_on, pins
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.storage import Storage, Window, storage_maps, windows
from sirius_tf.schedule.tree import build
from sirius_tf.schedule.verify import check_cells, check_order, check_reflow
from tests.test_fuse import load, softmax
from tests.test_schedule import recurrence


def folded(program: Program) -> dict[str, Window]:
    """Windows of the fused program, after isl has agreed to order and storage."""
    scop = extract(program)
    flows = flow(scop)
    tree = fuse(program, flows, Machine(2))
    schedule = build(scop, tree)
    check_order(scop, schedule, flows)
    found = windows(program, scop, tree)
    check_reflow(scop, schedule, storage_maps(scop, found))
    for name, window in found.items():
        for axis, slots in enumerate(window):
            if slots and slots > 1:
                less = tuple(slots - 1 if k == axis else w for k, w in enumerate(window))
                with pytest.raises(VerifyError, match=f"a cell of {name}"):
                    check_reflow(scop, schedule, storage_maps(scop, {name: less}))
    return found


def test_the_state_of_a_recurrence_folds_to_two_slots() -> None:
    """Other workers may still read h[t] while h[t + 1] is written; q is used where it is made."""
    program = recurrence()
    big = replace(program, params=tuple(replace(p, hint=100) for p in program.params))
    assert folded(big) == {"h": (2, None, None), "q": (1, None, None)}


def test_a_state_kept_for_the_caller_is_not_folded() -> None:
    """Every h[t] is read after the loop: all slots are alive then."""
    program = recurrence()
    last = program.statements[-1]
    cell = program.statements[-2]
    t = symbol("t")
    every = replace(last, iters=cell.iters, index=(t, *last.index), value=load("h", t, *last.index))
    shape = program.tensor["h"].shape
    tensors = tuple(replace(x, shape=shape) if x.name == "y" else x for x in program.tensors)
    program = replace(program, tensors=tensors, statements=(*program.statements[:-1], every))
    assert "h" not in folded(program)


def test_what_lives_inside_one_phase_is_not_folded_across_workers() -> None:
    assert folded(softmax()) == {}


T, N = symbol("T"), symbol("N")
t, i = symbol("t"), symbol("i")


def update(old: Affine, new: Expr, *others: Statement) -> Program:
    """x[t + 1, i] = select(i = p[t], new, x[t, old]), what others make, and y[i] = x[T, i]."""
    step, row = Iter("t", T, loop=True), Iter("i", N)
    met = Call("eq", (Index(i, "int32"), Load("p", (t,), "int32")), "bool")
    value = Call("select", (met, new, load("x", t, old)), "float32")
    statements = (
        Statement("first", (row,), "x", (affine(0), i), Const(0.0, "float32")),
        *others,
        Statement("next", (step, row), "x", (t + 1, i), value),
        Statement("last", (row,), "y", (i,), load("x", T, i)),
    )
    tensors = (
        Tensor("p", (T,), "int32", "input"),
        Tensor("u", (T,), "float32", "input"),
        Tensor("x", (T + 1, N), "float32"),
        Tensor("s", (T + 1,), "float32"),
        Tensor("y", (N,), "float32", "output"),
    )
    kept = tuple(x for x in tensors if x.name != "s" or others)
    params = tuple(Param(n, Const(1, "int64"), minimum=1, hint=1000) for n in "TN")
    return Program("update", params, (), (), kept, statements, ("p", "u"), (Output("y", ()),))


def slots(program: Program) -> Window:
    """Of x; one slot less than it needs, or one where it needs all, is found to be wrong."""
    scop = extract(program)
    flows = flow(scop)
    tree = fuse(program, flows, Machine(2))
    schedule = build(scop, tree)
    updates = [s.name for s in program.statements if passed_on(s)]
    window = windows(program, scop, tree, updates).get("x", (None, None))
    check_reflow(scop, schedule, storage_maps(scop, {"x": window}))
    check_cells(scop, tree, storage_maps(scop, {"x": window}), updates)
    if window[0] != 1:
        less = storage_maps(scop, {"x": ((window[0] or 2) - 1, None)})
        with pytest.raises(VerifyError, match="a cell of x"):
            check_reflow(scop, schedule, less)
            check_cells(scop, tree, less, updates)
    return window


def test_an_update_in_place_leaves_all_but_one_row() -> None:
    program = update(i, load("u", t))
    assert slots(program) == (1, None)
    new = program.statements[1]
    old = in_place(program, new, Storage({"x": (1, None)}))
    assert old == load("x", t, i)
    assert pins(new, old, ["i"], None) == ({"i": Load("p", (t,), "int32")},)
    assert in_place(program, new, Storage({"x": (2, None)})) is None


@pytest.mark.parametrize("old", [N - 1 - i, (i + 1) // 2])
def test_a_row_that_comes_from_elsewhere_is_no_update_in_place(old: Affine) -> None:
    """Another worker may have stored there."""
    assert slots(update(old, load("u", t))) == (2, None)


def test_what_is_computed_from_an_element_where_one_condition_holds() -> None:
    """No vector may repeat its lanes then, which is what `accumulates` tells those who print it."""
    more = Call("add", (load("x", t, i), load("u", t)), "float32")
    program = update(i, more)
    assert slots(program) == (1, None)
    assert accumulates(program.statements[1], load("x", t, i))
    assert not accumulates(update(i, load("u", t)).statements[1], load("x", t, i))


def test_what_is_computed_from_an_element_where_two_conditions_hold_is_kept() -> None:
    """Their points may be one, which would be computed twice."""
    less, more = (Call(fn, (load("x", t, i), load("u", t)), "float32") for fn in ("sub", "add"))
    positive = Call("lt", (Const(0.0, "float32"), load("u", t)), "bool")
    assert slots(update(i, Call("select", (positive, less, more), "float32"))) == (2, None)


@pytest.mark.parametrize(("late", "kept"), [(0, 2), (1, 1)])
def test_a_version_that_is_read_after_the_next_is_kept(late: int, kept: int) -> None:
    """s[t + 1] = x[t, 0] - x[t + 1, 0], or of x[t + 1] alone, is what the next iteration stores."""
    of = (load("x", t + late, affine(0)), load("x", t + 1, affine(0)))
    others = (
        Statement("start", (), "s", (affine(0),), Const(0.0, "float32")),
        Statement("read", (Iter("t", T, loop=True),), "s", (t + 1,), Call("sub", of, "float32")),
    )
    assert slots(update(i, load("s", t), *others)) == (kept, None)
