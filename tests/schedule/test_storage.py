# SPDX-License-Identifier: Apache-2.0
from contextlib import suppress
from dataclasses import replace
from itertools import combinations, pairwise

import pytest

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Call, Const, Expr, Index, Load
from sirius_tf.ir.program import (
    UNLIMITED,
    Guard,
    Iter,
    Output,
    Param,
    Program,
    Reduce,
    Statement,
    Tensor,
)
from sirius_tf.ir.rewrite import replace_loads
from sirius_tf.poly.dependence import flow
from sirius_tf.poly.scop import extract
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.inplace import accumulates, in_place, passed_on, pins
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.storage import Storage, Window, slots, storage_maps, windows
from sirius_tf.schedule.tree import build
from sirius_tf.schedule.verify import (
    check_cells,
    check_looks,
    check_order,
    check_reflow,
    check_slots,
)
from tests.support.programs import load, recurrence, softmax_of

pytestmark = pytest.mark.ir


def folded(program: Program) -> dict[str, Window]:
    """Windows of the fused program, after isl has agreed to order and storage."""
    scop = extract(program)
    flows = flow(scop)
    tree = fuse(program, flows, cpu(2))
    schedule = build(scop, tree)
    check_order(scop, schedule, flows)
    found = windows(program, scop, tree)
    check_reflow(scop, schedule, storage_maps(scop, found))
    for name, window in found.items():
        for axis, count in enumerate(window):
            if count and count > 1:
                less = tuple(count - 1 if k == axis else w for k, w in enumerate(window))
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
    assert folded(softmax_of()) == {}


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


ALL = {"check_reflow", "check_cells"}


def kept(program: Program) -> tuple[Window, set[str]]:
    """The window of x, and who finds out that one slot less, or one instead of all, is wrong."""
    scop = extract(program)
    flows = flow(scop)
    tree = fuse(program, flows, cpu(2))
    schedule = build(scop, tree)
    updates = [s.name for s in program.statements if passed_on(s)]
    window = windows(program, scop, tree, updates).get("x", (None, None))
    check_reflow(scop, schedule, storage_maps(scop, {"x": window}))
    check_cells(scop, tree, storage_maps(scop, {"x": window}), updates)
    if window[0] == 1:
        return window, set()
    less = storage_maps(scop, {"x": ((window[0] or 2) - 1, None)})
    objections = set()
    for check, *given in ((check_reflow, schedule, less), (check_cells, tree, less, updates)):
        with suppress(VerifyError):
            check(scop, *given)
            continue
        objections.add(check.__name__)
    return window, objections


def test_an_update_in_place_leaves_all_but_one_row() -> None:
    program = update(i, load("u", t))
    assert kept(program) == ((1, None), set())
    new = program.statements[1]
    old = in_place(program, new, Storage({"x": (1, None)}))
    assert old == load("x", t, i)
    assert pins(new, old, ["i"], None) == ({"i": Load("p", (t,), "int32")},)
    assert in_place(program, new, Storage({"x": (2, None)})) is None


@pytest.mark.parametrize("old", [N - 1 - i, (i + 1) // 2])
def test_a_row_that_comes_from_elsewhere_is_no_update_in_place(old: Affine) -> None:
    """Another worker may have stored there."""
    assert kept(update(old, load("u", t))) == ((2, None), ALL)


def test_two_updates_of_a_step_that_one_worker_does_are_in_one_place() -> None:
    """What a tile stores later it may store over what it has read: only other tiles may not."""
    program = update(i, load("u", t))
    first, new, last = program.statements
    odd, even = 2 * t + 1, 2 * t + 2

    def updated(name: str, after: Affine) -> Statement:
        value = replace_loads(new.value, {"x"}, lambda _: load("x", after - 1, i))
        return replace(new, name=name, index=(after, i), value=value)

    last = replace(last, value=load("x", 2 * T, i))
    x = replace(program.tensor["x"], shape=(2 * T + 1, N))
    tensors = tuple(x if s.name == "x" else s for s in program.tensors)
    statements = (first, updated("odd", odd), updated("even", even), last)
    both = replace(program, tensors=tensors, statements=statements)
    assert kept(both) == ((1, None), set())


def test_what_is_computed_from_an_element_where_one_condition_holds() -> None:
    """No vector may repeat its lanes then, which is what `accumulates` tells those who print it."""
    more = Call("add", (load("x", t, i), load("u", t)), "float32")
    program = update(i, more)
    assert kept(program) == ((1, None), set())
    assert accumulates(program.statements[1], load("x", t, i))
    assert not accumulates(update(i, load("u", t)).statements[1], load("x", t, i))


def test_what_is_computed_from_an_element_where_two_conditions_hold_is_kept() -> None:
    """Their points may be one, which would be computed twice: only workers would see it."""
    less, more = (Call(fn, (load("x", t, i), load("u", t)), "float32") for fn in ("sub", "add"))
    positive = Call("lt", (Const(0.0, "float32"), load("u", t)), "bool")
    program = update(i, Call("select", (positive, less, more), "float32"))
    assert kept(program) == ((2, None), {"check_cells"})


@pytest.mark.parametrize(("late", "count", "seen"), [(0, 2, {"check_reflow"}), (1, 1, set())])
def test_a_version_that_is_read_after_the_next_is_kept(late: int, count: int, seen: set) -> None:
    """s[t + 1] = x[t, 0] - x[t + 1, 0], or of x[t + 1] alone, is what the next iteration stores."""
    of = (load("x", t + late, affine(0)), load("x", t + 1, affine(0)))
    others = (
        Statement("start", (), "s", (affine(0),), Const(0.0, "float32")),
        Statement("read", (Iter("t", T, loop=True),), "s", (t + 1,), Call("sub", of, "float32")),
    )
    assert kept(update(i, load("s", t), *others)) == ((count, None), seen)


def steps(count: int) -> Program:
    """a0 = exp(x), and then each from the sum of all before it: a phase for each."""
    row, total = Iter("i", N), Reduce("add", (Iter("k", N),))
    names = [f"a{n}" for n in range(count)]
    statements = [Statement("s0", (row,), "a0", (i,), Call("exp", (load("x", i),), "float32"))]
    for n, (before, after) in enumerate(pairwise([*names, "y"])):
        value = Call("mul", (load("x", i), load(before, symbol("k"))), "float32")
        statements.append(Statement(f"s{n + 1}", (row,), after, (i,), value, total))
    tensors = [Tensor(name, (N,), "float32") for name in names]
    tensors += [Tensor("x", (N,), "float32", "input"), Tensor("y", (N,), "float32", "output")]
    params = (Param("N", Const(1, "int64"), minimum=1, hint=1000),)
    outputs = (Output("y", ()),)
    return Program("steps", params, (), (), tuple(tensors), tuple(statements), ("x",), outputs)


def test_tensors_share_memory_once_nobody_reads_the_first_one_any_more() -> None:
    """In the phase that reads a0 for the last time, a1 is defined: a2 is the first to lie there."""
    program = steps(4)
    scop = extract(program)
    tree = fuse(program, flow(scop), cpu(2))
    found = slots(program, tree)
    assert found == {"a0": 0, "a1": 1, "a2": 0, "a3": 1}
    check_slots(scop, tree, found, ())
    for a, b in combinations(found, 2):
        shared = {a: 0, b: 0}
        if int(b[1]) - int(a[1]) > 1:
            check_slots(scop, tree, shared, ())
        else:
            with pytest.raises(VerifyError, match=f"{a} and {b} share memory, and are alive"):
                check_slots(scop, tree, shared, ())


def test_what_a_loop_needs_is_alive_as_long_as_it_runs() -> None:
    """Also q, which is defined and used in every iteration, and never at once with what is next."""
    program = recurrence()
    scop = extract(program)
    tree = fuse(program, flow(scop), cpu(2))
    check_slots(scop, tree, slots(program, tree), ())
    with pytest.raises(VerifyError, match="share memory, and are alive at once"):
        check_slots(scop, tree, {"h": 0, "q": 0}, ())


def halving() -> Program:
    """While x[0] > 1: where p, x = exp(x), which other workers may not know yet; else x / 2.

    p[t] = x[t, 0] > 4;  q[t] = exp(x[t]) where p[t];  x[t + 1] = select(p[t], q[t], x[t] / 2)
    """

    def more(*subscripts: Affine, than: float) -> Expr:
        return Call("lt", (Const(than, "float32"), load("x", *subscripts)), "bool")

    go, end, zero = Load("go", (t,), "bool"), symbol("X"), affine(0)
    step, row, p = Iter("t", end, loop=True), Iter("i", N), Load("p", (t,), "bool")
    half = Call("mul", (load("x", t, i), Const(0.5, "float32")), "float32")
    new = Call("select", (p, load("q", t, i), half), "float32")
    grown = Call("exp", (load("x", t, i),), "float32")
    statements = (
        Statement("first", (row,), "x", (zero, i), load("z", i)),
        Statement("go0", (), "go", (zero,), more(zero, zero, than=1.0)),
        Statement("test", (step,), "p", (t,), more(t, zero, than=4.0)),
        Statement("grow", (step, row), "q", (t, i), grown, guards=(Guard(p),)),
        Statement("next", (step, row), "x", (t + 1, i), new),
        Statement("going", (step,), "go", (t + 1,), more(t + 1, zero, than=1.0)),
        Statement("last", (row,), "y", (i,), load("x", end, i)),
    )
    tensors = (
        Tensor("z", (N,), "float32", "input"),
        Tensor("x", (end + 1, N), "float32"),
        Tensor("q", (end, N), "float32"),
        Tensor("p", (end,), "bool"),
        Tensor("go", (end + 1,), "bool"),
        Tensor("y", (N,), "float32", "output"),
    )
    params = (
        Param("N", Const(1, "int64"), minimum=1, hint=1000),
        Param("X", Const(UNLIMITED, "int64"), hint=9, exit=go),
    )
    outputs = (Output("y", ()),)
    return Program("halving", params, (), (), tensors, statements, ("z",), outputs)


def test_what_decides_is_kept_until_all_workers_have_looked() -> None:
    program = halving()
    scop = extract(program)
    tree = fuse(program, flow(scop), cpu(2))
    found = windows(program, scop, tree)
    assert found["go"] == (3,) and found["p"] == (2,)
    assert program.conditions == {"go", "p"}
    check_looks(scop, tree, storage_maps(scop, found), program.conditions)
    for name, less in (("go", 2), ("p", 1)):
        schedule, cells = build(scop, tree), storage_maps(scop, {name: (less,)})
        check_reflow(scop, schedule, cells)  # a single worker would not notice
        with pytest.raises(VerifyError, match=f"a worker may look at {name} when it is gone"):
            check_looks(scop, tree, cells, program.conditions)


def test_what_decides_shares_memory_with_nothing() -> None:
    program = steps(4)
    first, second, *rest = program.statements
    guard = Guard(Load("a0", (affine(0),), "bool"))
    program = replace(program, statements=(first, replace(second, guards=(guard,)), *rest))
    scop = extract(program)
    tree = fuse(program, flow(scop), cpu(2))
    found = slots(program, tree)
    assert found == {"a0": 0, "a1": 1, "a2": 2, "a3": 1}
    check_slots(scop, tree, found, program.conditions)
    with pytest.raises(VerifyError, match="a0 and a2 share memory, and workers look at one"):
        check_slots(scop, tree, {"a0": 0, "a2": 0}, program.conditions)
