# SPDX-License-Identifier: Apache-2.0
"""Simplification keeps values, and does what it is for."""

from dataclasses import replace

import numpy as np
import pytest

from sirius_tf.ir import interp
from sirius_tf.ir.affine import symbol
from sirius_tf.ir.expr import Call, Const, loads, walk
from sirius_tf.ir.program import Check, Reduce
from sirius_tf.ir.verify import verify
from sirius_tf.schedule.layout import _Packer, lay_out, order_temporaries, pack
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import choose
from sirius_tf.transform.simplify import simplify
from tests.support.programs import (
    B,
    call,
    dense,
    i,
    index,
    it,
    j,
    k,
    load,
    lstm,
    param,
    program,
    softmax,
    stmt,
    tensor,
)

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


@pytest.mark.parametrize("make", [dense, softmax, lstm])
def test_layouts_and_packing_keep_values(make) -> None:
    before = make()
    after = lay_out(simplify(before), Machine())
    verify(after)
    rng = np.random.default_rng(1)
    sizes = {"B": 3, "T": 4}
    feeds = {
        n: rng.standard_normal([e.evaluate(sizes) for e in before.tensor[n].shape]).astype("f")
        for n in before.inputs
    }
    for want, have in zip(interp.run(before, feeds), interp.run(after, feeds), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def test_a_contraction_reads_its_weights_from_panels() -> None:
    packed = lay_out(simplify(dense()), Machine())
    (weights,) = [t for t in packed.tensors if t.role == "constant" and len(t.shape) == 3]
    assert [e.const for e in weights.shape] == [1, 499, 16]
    (read,) = {
        load for s in packed.statements for load in loads(s.value) if load.tensor == weights.name
    }
    assert str(read.index[0]).startswith("floor(")


def test_a_temporary_is_stored_as_the_heavy_statement_reads_it() -> None:
    """u is read along its first dimension by a sum that runs over the second."""
    u, y = tensor("u", [64, 8]), tensor("y", [64, 64], role="output")
    x = tensor("x", [64, 8], role="input")
    rows, square = [it("i", 64), it("j", 8)], [it("i", 64), it("j", 64)]
    product = call("mul", load("x", i, k), load("u", j, k))
    before = program(
        "transposed",
        [],
        (x, u, y),
        [
            stmt("a", rows, "u", (i, j), call("exp", load("x", i, j))),
            stmt("b", square, "y", (i, j), product, Reduce("add", (it("k", 8),))),
        ],
        (64, 64),
    )
    after = lay_out(before, Machine())
    assert [str(n) for n in after.statements[0].index] == ["j", "i"]


@pytest.mark.parametrize("make", [dense, softmax, lstm])
def test_constants_are_packed_for_the_plan_that_is_used(make) -> None:
    ordered = order_temporaries(simplify(make()), Machine())
    packer = _Packer(ordered, Machine())
    meant = [choose(ordered, s, Machine(), packer.wishes) for s in ordered.statements]
    packed = pack(ordered, Machine())
    assert [choose(packed, s, Machine()) for s in packed.statements] == meant
