# SPDX-License-Identifier: Apache-2.0
"""What joins a sum, and which factors its weights take: a text, and edits of it that decide."""

import pytest

from sirius_tf.transform.epilogue import LARGEST, finish_reductions
from sirius_tf.transform.scale_weights import scale_weights
from tests.support import saved

pytestmark = pytest.mark.ir

TEXT = """\
program dense(x)
params:
  n = dim(x, 0)   # >= 0, hint 8
tensors:
  input x[n, 6]: float32
  constant w[6, 5]: float32
  constant f[5]: float32
  constant g[6]: float32
  temp c[n, 5]: float32
  output y[n, 5]: float32
statements:
  C: c[i, j] = sum over k of x[i, k] * w[k, j]   for i < n, j < 5, k < 6
  Y: y[i, j] = max(c[i, j] * f[j] + 0.5, 0.0)   for i < n, j < 5
outputs:
  y: [n, 5]
"""


LONG = "max(" * LARGEST + "c[i, j]" + ", 0.0)" * LARGEST


@pytest.mark.parametrize(
    "edits",
    [
        [],
        [("sum over k", "max over k")],
        [("y[i, j] = max", "y[i, h] = max"), ("c[i, j] * f[j]", "c[i, h] * f[h]"),
         ("0.0)   for i < n, j < 5", "0.0)   for i < n, h < 5")],  # of other names
        [("for i < n, j < 5\noutputs", "for j < 5, i < n\noutputs")],  # in another order
        [("output y[n, 5]", "output y[5, n]"), ("y[i, j] = max", "y[j, i] = max"),
         ("y: [n, 5]", "y: [5, n]")],
        [("c[i, j] * f[j]", "c[i, j] * c[i, j]")],
    ],
)  # fmt: skip
def test_what_joins_a_sum(edits) -> None:
    program = saved.edited(TEXT, *edits)
    joined = finish_reductions(program)
    (s,) = joined.statements
    assert s.name == "Y" and s.target == "y" and s.finish is not None
    assert "c" not in joined.tensor
    saved.agree(program, joined)


@pytest.mark.parametrize(
    "edits",
    [
        [("sum over k of x[i, k] * w[k, j]   for i < n, j < 5, k < 6",
          "x[i, j] * f[j]   for i < n, j < 5")],  # no sum
        [("c[i, j] * f[j]", "c[i, j] * c[i, 4 - j]")],  # two elements
        [("c[i, j] * f[j]", "c[i, 4 - j] * f[j]")],  # not in its place
        [("c[i, j] * f[j]", "c[i, 2] * f[j]")],
        [("c[i, j] * f[j]", "tanh(c[i, j])")],  # a dear function
        [("max(c[i, j] * f[j] + 0.5, 0.0)", LONG)],
        [("y[i, j] = max(c[i, j] * f[j] + 0.5, 0.0)   for i < n, j < 5",
          "y[i, j] = sum over k of c[i, j] * g[k]   for i < n, j < 5, k < 6")],
        [("0.0)   for i < n, j < 5", "0.0)   for i < n, j < 4"), ("y[n, 5]", "y[n, 4]"),
         ("y: [n, 5]", "y: [n, 4]")],  # not all elements
        [("output y[n, 5]", "output y[n, 5, 2]"), ("y[i, j] = max", "y[i, j, h] = max"),
         ("0.0)   for i < n, j < 5", "0.0)   for i < n, j < 5, h < 2"),
         ("y: [n, 5]", "y: [n, 5, 2]")],  # each of them twice
        [("temp c[n, 5]: float32", "output c[n, 5]: float32"),
         ("outputs:\n", "outputs:\n  c: [n, 5]\n")],  # a result itself
        [("float32\nstatements:", "int32\nstatements:"),
         ("max(c[i, j] * f[j] + 0.5, 0.0)", "int32(c[i, j])")],
        [("statements:", "  output z[n, 5]: float32\nstatements:"),
         ("outputs:", "  Z: z[i, j] = c[i, j] + 1.0   for i < n, j < 5\noutputs:\n  z: [n, 5]")],
    ],
)  # fmt: skip
def test_what_stays_behind_a_sum(edits) -> None:
    program = saved.edited(TEXT, *edits)
    assert finish_reductions(program) == program


FINISHED = (
    ("C: c[i, j] = sum over k of x[i, k] * w[k, j]   for i < n, j < 5, k < 6\n  ", ""),
    ("  temp c[n, 5]: float32\n", ""),
    ("max(c[i, j] * f[j] + 0.5, 0.0)   for i < n, j < 5",
     "max(acc * f[j] + 0.5, 0.0) where acc = sum over k of x[i, k] * w[k, j]   "
     "for i < n, j < 5, k < 6"),
)  # fmt: skip


@pytest.mark.parametrize(
    "edits",
    [
        [],
        [("x[i, k] * w[k, j]", "w[k, j] * x[i, k]")],
        [("acc * f[j] + 0.5, 0.0", "acc * f[j], acc * f[j] + 0.5")],
        [("w[6, 5]", "w[6]"), ("w[k, j]", "w[k]"), ("acc * f[j]", "acc * f[2]")],
        [("w[6, 5]", "w[5, 12]"), ("w[k, j]", "w[4 - j, 2*k + 1]")],
    ],
)
def test_factors_that_weights_take(edits) -> None:
    program = saved.edited(TEXT, *FINISHED, *edits)
    scaled = scale_weights(program)
    (weights,) = [t.name for t in scaled.tensors if t.name.startswith("w")]
    assert weights == "w_scaled0" and "f" not in scaled.tensor
    saved.agree(program, scaled)


@pytest.mark.parametrize(
    "edits",
    [
        [("sum over k", "max over k")],
        [("acc * f[j]", "acc + f[j]")],
        [("acc * f[j] + 0.5, 0.0", "acc * f[j], acc")],  # the sum as it is, too
        [("acc * f[j] + 0.5, 0.0", "acc * f[j], acc * g[j]")],  # two factors
        [("constant f[5]", "input f[5]"), ("dense(x)", "dense(x, f)")],
        [("constant w[6, 5]", "input w[6, 5]"), ("dense(x)", "dense(x, w)")],
        [("x[i, k] * w[k, j]", "w[k, j] * w[k, j]")],
        [("w[6, 5]", "w[6]"), ("w[k, j]", "w[k]")],  # of other iterators
        [("x[i, k] * w[k, j]", "x[i, k] + w[k, j]")],
    ],
)
def test_factors_that_stay(edits) -> None:
    program = saved.edited(TEXT, *FINISHED, *edits)
    assert scale_weights(program).statements == program.statements


SCALED = """program scaled(x)
params:
  n = dim(x, 0)   # >= 0, hint 8
tensors:
  input x[n, 6]: float32
  input v[6, 4]: float32
  constant w[6, 4]: float32
  constant f[4]: float32
  constant g[6]: float32
  output y[n, 4]: float32
statements:
  S: y[i, j] = max(0.0, acc * f[j]) where acc = sum over k of x[i, k] * w[k, j]
    for i < n, j < 4, k < 6
outputs:
  y: [n, 4]
""".replace("(x)", "(x, v)")


def test_a_factor_goes_into_weights() -> None:
    before = saved.edited(SCALED)
    after = scale_weights(before)
    assert saved.statements(after)[0].startswith(
        "S: y[i, j] = max(0.0, acc) where acc = sum over k of x[i, k] * w_scaled0[j, k]"
    )
    saved.agree(before, after)


@pytest.mark.parametrize(
    "edit",
    [
        ("sum over k", "max over k"),
        ("x[i, k] * w[k, j]", "x[i, k] * v[k, j]"),  # no weights
        ("x[i, k] * w[k, j]", "g[k] * w[k, j]"),  # nothing else
        ("x[i, k] * w[k, j]", "x[i, k] + w[k, j]"),
        ("acc * f[j]", "acc * v[0, j]"),  # no constant factor
        ("acc * f[j]", "acc + f[j]"),
        ("acc * f[j]", "acc * f[j] + acc"),  # the sum is wanted, too
        ("acc * f[j]", "acc * f[j] + acc * g[j]"),  # two factors
        ("x[i, k] * w[k, j]", "x[i, k] * w[k, 0]"),  # weights that have no such dimension
        ("max(0.0, acc * f[j]) where acc = ", ""),
        ("x[i, k] * w[k, j]", "x[i, k] * w[i - 6*floor(i/6), j]"),  # a row of weights for a place
    ],
)
def test_other_sums_are_not_scaled(edit) -> None:
    program = saved.edited(SCALED, edit)
    assert scale_weights(program).statements == program.statements
