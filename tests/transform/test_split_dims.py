# SPDX-License-Identifier: Apache-2.0
"""Dimensions that are read in slices, cut there: the same values, and where it must not be done."""

from dataclasses import replace

import numpy as np
import pytest

from sirius_tf.ir import interp
from sirius_tf.ir.program import Reduce
from sirius_tf.ir.verify import verify
from sirius_tf.transform.split_dims import split
from tests.support import saved
from tests.support.programs import B, b, call, it, j, k, load, param, program, stmt, symbol, tensor

pytestmark = pytest.mark.ir

n = symbol("n")


def gated(units=16, gates=4, slices=None):
    """z = x w, and y from slices of z."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((8, gates * units)).astype("f")
    value = load("z", b, j)
    for offset in slices or [units * g for g in range(1, gates)]:
        value = call("add", value, load("z", b, j + offset))
    return program(
        "gated",
        [param("B", "x", 0)],
        [
            tensor("x", [B, 8], role="input"),
            tensor("w", [8, gates * units], role="constant", value=weights),
            tensor("z", [B, gates * units]),
            tensor("y", [B, units], role="output"),
        ],
        [
            stmt(
                "S0",
                [it("b", B), it("n", gates * units)],
                "z",
                [b, n],
                call("mul", load("x", b, k), load("w", k, n)),
                Reduce("add", (it("k", 8),)),
            ),
            stmt("S1", [it("b", B), it("j", units)], "y", [b, j], value),
        ],
        [B, units],
    )


def test_slices_become_a_dimension():
    before = gated()
    after = split(before)
    verify(after)
    assert [str(e) for e in after.tensor["z"].shape] == ["B", "4", "16"]
    x = np.random.default_rng(1).standard_normal((3, 8)).astype("f")
    want, got = (interp.run(p, {"x": x})[0] for p in (before, after))
    np.testing.assert_array_equal(got, want)


def test_slices_of_slices():
    """A copy between the product and the slices is cut first."""
    before = gated()
    copy = stmt("S2", [it("b", B), it("n", 64)], "q", [b, n], call("neg", load("z", b, n)))
    reader = replace(before.statements[1], value=load("q", b, j + 32))
    before = replace(
        before,
        tensors=(*before.tensors, tensor("q", [B, 64])),
        statements=(before.statements[0], copy, reader),
    )
    after = split(before)
    assert {str(after.tensor[t].shape[1]) for t in ("q", "z")} == {"4"}
    x = np.random.default_rng(1).standard_normal((2, 8)).astype("f")
    want, got = (interp.run(p, {"x": x})[0] for p in (before, after))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "before",
    [gated(units=8), gated(slices=[16, 40]), gated(gates=1, slices=[0])],
    ids=["small slices", "slices that overlap", "one slice"],
)
def test_what_is_left_as_it_is(before):
    assert split(before) is before


def test_a_dimension_that_is_written_along_a_diagonal_stays():
    """z[n, n] with n = 16 g + j would be z[n, g, j]: two places of one iterator."""
    value = load("z", j, j)
    for offset in (16, 32):
        value = call("add", value, load("z", j + offset, j + offset))
    before = program(
        "diagonal",
        [],
        [
            tensor("x", [48], role="input"),
            tensor("z", [48, 48]),
            tensor("y", [16], role="output"),
        ],
        [
            stmt("S0", [it("n", 48)], "z", [n, n], load("x", n)),
            stmt("S1", [it("j", 16)], "y", [j], value),
        ],
        [16],
    )
    after = split(before)
    assert after is before
    x = np.arange(48, dtype="f")
    np.testing.assert_array_equal(interp.run(after, {"x": x})[0], x.reshape(3, 16).sum(0))


CUT = """program cut(x)
params:
  n = dim(x, 0)   # >= 0, hint 8
tensors:
  input x[n, 32, 32]: float32
  temp z[n, 32, 32]: float32
  output y[n, 16]: float32
statements:
  Z: z[i, j, k] = exp(x[i, j, k])   for i < n, j < 32, k < 32
  Y: y[i, p] = z[i, p, 3] + z[i, p + 16, 4]   for i < n, p < 16
outputs:
  y: [n, 16]
"""


def test_a_dimension_that_is_read_in_halves_is_cut() -> None:
    before = saved.edited(CUT)
    after = split(before)
    assert [str(e) for e in after.tensor["z"].shape] == ["n", "2", "16", "32"]
    saved.agree(before, after)


@pytest.mark.parametrize(
    "edits",
    [
        [("z[i, p + 16, 4]", "z[i, p + 15, 4]")],  # a slice that begins inside of one
        [("z[i, p + 16, 4]", "z[i, 2*p, 4]")],
        [("z[i, p + 16, 4]", "z[i, 4, p + 16]")],  # along another dimension
        [("z[i, j, k] = exp(x[i, j, k])", "z[i, 31 - j, k] = exp(x[i, j, k])")],
        [  # of a size that the call decides
            ("hint 8", "hint 32\ncontext:\n  n - 32 >= 0"),
            ("temp z[n, 32, 32]", "temp z[n, n, 32]"),
            ("input x[n, 32, 32]", "input x[n, n, 32]"),
            ("j < 32", "j < n"),
        ],
        [("temp z", "output z"), ("outputs:", "outputs:\n  z: [n, 32, 32]")],
    ],
)
def test_other_dimensions_are_not_cut(edits) -> None:
    program = saved.edited(CUT, *edits)
    assert split(program).statements == program.statements
