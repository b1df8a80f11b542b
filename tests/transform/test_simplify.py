# SPDX-License-Identifier: Apache-2.0
"""Simplification keeps values, and does what it is for."""

from dataclasses import replace

import numpy as np
import pytest

from sirius_tf.ir import interp
from sirius_tf.ir.affine import symbol
from sirius_tf.ir.expr import Call, Const, Load, walk
from sirius_tf.ir.program import Check, Guard, Reduce
from sirius_tf.ir.verify import verify
from sirius_tf.transform.simplify import LARGEST_UNTAKEN, _guarded_alike, simplify
from tests.support import saved
from tests.support.programs import (
    B,
    call,
    i,
    index,
    it,
    j,
    k,
    load,
    param,
    program,
    stmt,
    tensor,
)

pytestmark = pytest.mark.ir

X = tensor("x", [B, 5], role="input")
Y = tensor("y", [B, 5], role="output")
SIZE = param("B", "x", 0)
BOX = [it("i", B), it("j", 5)]


def small(*statements, temps=(), constants=()):
    """y[i, j] of the input x[i, j]."""
    tensors = (X, Y, *(tensor(name, [B, 5]) for name in temps), *constants)
    return program("small", [SIZE], tensors, statements, (B, 5))


def functions(p):
    return [e.fn for s in p.statements for e in walk(s.value) if isinstance(e, Call)]


def same(before, after, x=None):
    """Both programs compute the same from `x`."""
    verify(after)
    x = np.random.default_rng(0).standard_normal((3, 5)).astype("f") if x is None else x
    (want,), (have,) = (interp.run(p, {"x": x}) for p in (before, after))
    np.testing.assert_allclose(have, want, rtol=1e-6)


def test_a_chain_becomes_one_statement() -> None:
    before = small(
        stmt("a", BOX, "u", (i, j), call("exp", load("x", i, j))),
        stmt("b", BOX, "v", (i, j), call("neg", load("u", i, j))),
        stmt("c", BOX, "y", (i, j), load("v", i, j)),
        temps="uv",
    )
    after = simplify(before)
    assert len(after.statements) == 1 and functions(after) == ["neg", "exp"]
    same(before, after)


def test_what_two_statements_read_is_computed_once() -> None:
    before = small(
        stmt("a", BOX, "u", (i, j), call("exp", load("x", i, j))),
        stmt("b", BOX, "v", (i, j), call("tanh", load("u", i, j))),
        stmt("c", BOX, "y", (i, j), call("add", load("v", i, j), load("u", i, 4 - j))),
        temps="uv",
    )
    after = simplify(before)
    assert functions(after).count("exp") == 1
    same(before, after)


def test_a_broadcast_is_not_computed_again_for_every_element() -> None:
    row = tensor("r", [B])
    before = small(
        stmt("a", [it("i", B)], "r", (i,), call("exp", load("x", i, 0))),
        stmt("b", BOX, "y", (i, j), call("mul", load("x", i, j), load("r", i))),
        constants=(row,),
    )
    after = simplify(before)
    assert len(after.statements) == 2
    same(before, after)


def test_constant_parts_are_folded() -> None:
    value = np.arange(1.0, 6.0, dtype="f")
    c = tensor("c", [5], role="constant", value=value)
    scale = call("rsqrt", call("add", load("c", j), Const(1.0, "float32")))
    before = small(stmt("a", BOX, "y", (i, j), call("mul", load("x", i, j), scale)), constants=(c,))
    after = simplify(before)
    assert functions(after) == ["mul"]
    (factor,) = [t for t in after.tensors if t.role == "constant"]
    np.testing.assert_allclose(factor.value, 1 / np.sqrt(value + 1), rtol=1e-6)
    same(before, after)


@pytest.mark.parametrize(
    ("fn", "value", "left"), [("div", 4.0, ["mul"]), ("pow", 2.0, ["mul"]), ("mul", 1.0, [])]
)
def test_cheaper_functions(fn, value, left) -> None:
    before = small(stmt("a", BOX, "y", (i, j), call(fn, load("x", i, j), Const(value, "float32"))))
    after = simplify(before)
    assert functions(after) == left
    same(before, after)


def test_a_division_that_is_not_exact_stays() -> None:
    before = small(stmt("a", BOX, "y", (i, j), call("div", load("x", i, j), Const(3.0, "float32"))))
    assert functions(simplify(before)) == ["div"]


def test_sizes_that_a_check_makes_equal_have_one_name() -> None:
    other = param("C", "z", 0)
    z = tensor("z", [symbol("C"), 5], role="input")
    equal = Call("eq", (index(B), index(symbol("C"))), "bool")
    add = call("add", load("x", i, j), load("z", i, j))
    before = replace(
        program("two", [SIZE, other], (X, z, Y), [stmt("a", BOX, "y", (i, j), add)], (B, 5)),
        checks=(Check(equal, "sizes differ"),),
    )
    after = simplify(before)
    assert {str(e) for t in after.tensors for e in t.shape} == {"B", "5"}


def test_what_is_defined_on_one_branch_is_not_taken_from_the_other() -> None:
    """The sums are equal, and each is there only where its branch is taken."""
    p, over = Load("p", (), "bool"), Reduce("add", (it("k", 5),))
    total, rows = call("exp", load("x", i, k)), [it("i", B)]
    positive = call("lt", Const(0.0, "float32"), load("z"), dtype="bool")
    tensors = (X, Y, tensor("z", [], role="input"), tensor("p", [], "bool"))
    before = program(
        "branches",
        [SIZE],
        (*tensors, tensor("u", [B]), tensor("v", [B])),
        [
            stmt("test", [], "p", (), positive),
            replace(stmt("then", rows, "u", (i,), total, over), guards=(Guard(p),)),
            replace(stmt("else", rows, "v", (i,), total, over), guards=(Guard(p, False),)),
            stmt("join", BOX, "y", (i, j), call("select", p, load("u", i), load("v", i))),
        ],
        (B, 5),
    )
    after = simplify(before)
    verify(after)
    x = np.random.default_rng(0).standard_normal((3, 5)).astype("f")
    for z in (1.0, -1.0):
        feeds = {"x": x, "z": np.float32(z)}
        (want,), (have,) = (interp.run(q, feeds) for q in (before, after))
        np.testing.assert_allclose(have, want, rtol=1e-6)


def test_a_copy_under_a_guard_to_an_output_is_the_output() -> None:
    """Where the guard does not hold, the output's elements matter to nobody."""
    p, over = Load("p", (), "bool"), Reduce("add", (it("k", 5),))
    rows = [it("i", B)]
    before = program(
        "copied",
        [SIZE],
        (X, tensor("p", [], "bool"), tensor("u", [B]), tensor("y", [B], role="output")),
        [
            stmt("test", [], "p", (), Const(True, "bool")),
            stmt("sum", rows, "u", (i,), load("x", i, k), over),
            replace(stmt("copy", rows, "y", (i,), load("u", i)), guards=(Guard(p),)),
        ],
        (B,),
    )
    after = simplify(before)
    assert [(s.name, s.target) for s in after.statements] == [("sum", "y")]
    x = np.ones((3, 5), "f")
    np.testing.assert_array_equal(interp.run(after, {"x": x})[0], interp.run(before, {"x": x})[0])


def test_copies_on_two_branches_to_an_output_stay() -> None:
    """Neither of what they copy is all of it."""
    p, over, rows = Load("p", (), "bool"), Reduce("add", (it("k", 5),)), [it("i", B)]
    names = {"u": True, "v": False}
    sums = [stmt(f"sum_{n}", rows, n, (i,), load("x", i, k + 0), over) for n in names]
    sums[1] = replace(sums[1], reduce=Reduce("max", over.iters))
    copies = [
        replace(stmt(f"copy_{n}", rows, "y", (i,), load(n, i)), guards=(Guard(p, holds),))
        for n, holds in names.items()
    ]
    before = program(
        "copied",
        [SIZE],
        (
            X,
            tensor("p", [], "bool", "input"),
            *(tensor(n, [B]) for n in names),
            tensor("y", [B], role="output"),
        ),
        [*sums, *copies],
        (B,),
    )
    after = simplify(before)
    assert after.statements == before.statements


GUARDED = """program guarded(x)
params:
  n = dim(x, 0)   # >= 0, hint 8
tensors:
  input x[n]: float32
  temp c[]: bool
  temp m[n]: float32
  output y[n]: float32
statements:
  C: c[] = x[0] > 0.0
  M: m[i] = {value} if c[]   for i < n
  Y: y[i] = select(c[], m[i], 0.0)   for i < n
outputs:
  y: [n]
"""


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_what_costs_little_is_computed_whatever_is_taken(more) -> None:
    """As many nodes as may be, and one more: those are left under their guard."""
    value = "x[i]"
    while value.count("abs") + 1 < LARGEST_UNTAKEN + more:
        value = f"abs({value})"
    program = saved.parsed(GUARDED.format(value=value))
    _, m, y = program.statements
    (load,) = (x for x in y.loads if x.tensor == "m")
    assert _guarded_alike(m, y, load) == (more < 1)
