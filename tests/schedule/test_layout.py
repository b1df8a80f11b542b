# SPDX-License-Identifier: Apache-2.0
"""Orders of dimensions, and constants in panels."""

from dataclasses import replace

import numpy as np
import pytest

from sirius_tf.ir import interp
from sirius_tf.ir.affine import symbol
from sirius_tf.ir.expr import loads
from sirius_tf.ir.parser import parse
from sirius_tf.ir.printer import show
from sirius_tf.ir.program import Panels, Reduce, Tiles
from sirius_tf.ir.verify import verify
from sirius_tf.schedule.join import _tiled
from sirius_tf.schedule.layout import Wishes, _Packer, _permuted, lay_out, order_temporaries, pack
from sirius_tf.schedule.machine import CPU
from sirius_tf.schedule.plan import Chooser, choose
from sirius_tf.transform.simplify import simplify
from tests.support.programs import (
    call,
    dense,
    i,
    it,
    j,
    k,
    load,
    lstm,
    program,
    softmax,
    stmt,
    tensor,
)

pytestmark = pytest.mark.ir
u, m = symbol("u"), symbol("m")


@pytest.mark.parametrize("make", [dense, softmax, lstm])
def test_layouts_and_packing_keep_values(make) -> None:
    before = make()
    after = lay_out(simplify(before), CPU)
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
    packed = lay_out(simplify(dense()), CPU)
    (weights,) = [t for t in packed.tensors if t.role == "constant" and len(t.shape) == 3]
    assert [e.const for e in weights.shape] == [1, 499, 16]
    (read,) = {
        load for s in packed.statements for load in loads(s.value) if load.tensor == weights.name
    }
    assert str(read.index[0]).startswith("floor(")
    assert weights.layout == Panels(0)


def test_tiles_move_with_the_dimensions_of_their_tensor() -> None:
    """e lies in tiles of 4 along its first dimension, and is read along its second one."""
    e = replace(tensor("e", [2, 6, 64]), layout=Tiles(0, 4))
    before = program(
        "tiled",
        [],
        (tensor("x", [12, 64], role="input"), e, tensor("y", [8, 64, 5], role="output")),
        [
            stmt(
                "a", [it("u", 2), it("m", 6), it("k", 64)], "e", (u, m, k), load("x", u * 4 + m, k)
            ),
            stmt(
                "b",
                [it("i", 8), it("k", 64), it("j", 5)],
                "y",
                (i, k, j),
                load("e", i // 4, i % 4, k),
            ),
        ],
        (8, 64, 5),
    )
    verify(before)
    assert parse(show(before)) == before
    assert _tiled(before) == {"a": {"u"}}
    rows = replace(e, layout=None)  # what a graph divides is no tile
    assert not _tiled(replace(before, tensors=tuple(rows if t is e else t for t in before.tensors)))
    permuted = _permuted(before, "e", (1, 2, 0)).tensor["e"]
    assert permuted.layout == Tiles(2, 4)
    assert [n.const for n in permuted.shape] == [6, 64, 2]


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
    after = lay_out(before, CPU)
    assert [str(n) for n in after.statements[0].index] == ["j", "i"]


ALIKE = """
program alike(x)
tensors:
  input x[64, 48]: float32
  temp t[64, 48]: float32
  temp u[48, 64]: float32
  temp v[48, 64]: float32
  output y[48, 64]: float32
statements:
  S0: t[i, j] = exp(x[i, j])   for i < 64, j < 48
  S1: u[i, j] = exp(t[j, i])   for i < 48, j < 64
  S2: v[i, j] = exp(t[j, i])   for i < 48, j < 64
  S3: y[i, j] = exp(x[j, i])   for i < 48, j < 64
outputs:
  y: [48, 64]
"""


@pytest.mark.parametrize("order", [{}, {"t": 0}, {"t": 1}])
def test_statements_that_are_equal_but_for_tensors_share_plans_if_these_are_alike(order) -> None:
    """A temporary can be had in the order that suits; an input, or one that has its order, not."""
    program = parse(ALIKE)
    wishes = Wishes(program, dict[str, int | None](order))
    together = Chooser(CPU, wishes)
    for last in (None, 0, 1):  # what is decided meanwhile
        wishes.last["u"] = last
        plans = [together(s) for s in program.statements]
        assert plans == [choose(program, s, CPU, wishes) for s in program.statements]


def test_plans_of_equal_layers_are_found_once() -> None:
    program = parse(ALIKE)
    together = Chooser(CPU, Wishes(program, {}))
    for s in program.statements:
        together(s)
    assert len(together.found) == 3  # S0; S1 and S2; S3 reads an input


@pytest.mark.parametrize("make", [dense, softmax, lstm])
def test_constants_are_packed_for_the_plan_that_is_used(make) -> None:
    ordered = order_temporaries(simplify(make()), CPU)
    packer = _Packer(ordered, CPU)
    meant = [choose(ordered, s, CPU, packer.wishes) for s in ordered.statements]
    packed = pack(ordered, CPU)
    assert [choose(packed, s, CPU) for s in packed.statements] == meant
