# SPDX-License-Identifier: Apache-2.0
"""Rows that data picks, what becomes a constant, and sums over taps: a text each, and edits."""

import pytest

from sirius_tf.ir.printer import show_statement
from sirius_tf.transform.fold import fold_subtrees, fold_tensors
from sirius_tf.transform.lookup_sums import _Rows, pick_sums
from sirius_tf.transform.simplify import simplify
from sirius_tf.transform.winograd import winograd
from tests.support import saved

pytestmark = pytest.mark.ir

LOOKUP = """\
program lookup(ids, z)
params:
  n = dim(ids, 0)   # >= 0, hint 8
tensors:
  input ids[n]: int32
  input z[n]: float32
  constant e[7, 6]: float32
  constant w[6, 5]: float32
  temp x[n, 6]: float32
  output y[n, 5]: float32
statements:
  X: x[i, k] = e[bounded(ids[i], (7)), k] * 2.0   for i < n, k < 6
  Y: y[i, j] = sum over k of x[i, k] * w[k, j]   for i < n, j < 5, k < 6
outputs:
  y: [n, 5]
"""
FOLDED = """\
program folded(x)
params:
  n = dim(x, 0)   # >= 0, hint 8
tensors:
  input x[n, 6]: float32
  constant a[6]: float32
  constant c[4, 6]: float32
  temp f[6]: float32
  output y[n, 6]: float32
statements:
  F: f[j] = sum over k of c[k, j] * a[j]   for j < 6, k < 4
  Y: y[i, j] = x[i, j] * (exp(a[j]) + f[j])   for i < n, j < 6
outputs:
  y: [n, 6]
"""
TAPS = """\
program taps(x)
params:
  n = dim(x, 0)   # >= 0, hint 8
tensors:
  input x[n, 10, 10, 32]: float32
  constant w[3, 3, 32, 32]: float32
  constant f[32]: float32
  output y[n, 8, 8, 32]: float32
statements:
  Y: y[i, p, q, k] = {value} {box}
outputs:
  y: [n, 8, 8, 32]
"""
SUM = "max(0.0, acc + f[k]) where acc = sum over r, s, c of x[i, p + r, q + s, c] * w[r, s, c, k] "
BOX = "for i < n, p < 8, q < 8, k < 32, r < 3, s < 3, c < 32"
TAPS = TAPS.format(value=SUM, box=BOX)


@pytest.mark.parametrize(
    "edits",
    [
        [],
        [("e[7, 6]", "e[6, 7]"), ("e[bounded(ids[i], (7)), k]", "e[k, bounded(ids[i], (7))]")],
        [("x[i, k] * w[k, j]", "max(w[k, j], x[i, k])"), ("sum over", "max over")],
        [("x[i, k] * w[k, j]", "x[i, 5 - k] * w[k, j] + x[i, k]")],
    ],
)  # fmt: skip
def test_sums_that_are_picked(edits) -> None:
    program = saved.edited(LOOKUP, *edits)
    picked = pick_sums(program)
    assert not any(s.reduce for s in picked.statements) and "w" not in picked.tensor
    saved.agree(program, picked, bound=7)


@pytest.mark.parametrize(
    "edits",
    [
        [("x[i, k] * w[k, j]", "x[i, k] * w[k, j] * z[i]")],  # data decides
        [("x[i, k] * w[k, j]", "x[i, k] * x[0, k]")],  # two rows do
        [("constant w[6, 5]", "input w[6, 5]"), ("ids, z)", "ids, z, w)")],
        [("temp x[n, 6]", "output x[n, 6]"), ("outputs:", "outputs:\n  x: [n, 6]"),
         ("e[bounded(ids[i], (7)), k] * 2.0", "z[i]")],
        [("y[i, j] = sum over k", "y[i, j] = max(acc, 0.0) where acc = sum over k")],
        [("bounded(ids[i], (7)), k]", "bounded(ids[i], n), k]"), ("constant e[7", "input e[n"),
         ("ids, z)", "ids, z, e)")],
    ],
)  # fmt: skip
def test_sums_that_stay(edits) -> None:
    program = saved.edited(LOOKUP, *edits)
    assert pick_sums(program) == program


@pytest.mark.parametrize("room", [35, 34])
def test_sums_are_picked_where_there_is_room(room) -> None:
    """Seven rows of five sums."""
    program = saved.edited(LOOKUP, ("of x[i, k]", "of e[bounded(ids[i], (7)), k]"))
    _, s = program.statements
    rows = _Rows(program, room)
    picked = rows.picked(s)
    assert (picked == s) == (room < 35)
    assert rows.room == room % 35 and len(rows.made) == room // 35


@pytest.mark.parametrize(
    ("edits", "value"),
    [
        ([], "x[i, j] * folded0[j]"),
        ([("exp(a[j]) + f[j]", "exp(a[j]) * x[0, j] + f[j]")],
         "x[i, j] * (folded0[j] * x[0, j] + f[j])"),
        ([("(exp(a[j]) + f[j])", "(sqrt(4.0) + 1.0)")], "x[i, j] * 3.0"),
        ([("(exp(a[j]) + f[j])", "float32(i < 3)")], "x[i, j] * float32(i < 3)"),
        ([("constant c[4, 6]", "input c[4, 6]"), ("folded(x)", "folded(x, c)")],
         "x[i, j] * (folded0[j] + f[j])"),
        ([("temp f[6]", "temp f[n]"), ("f[j] = sum", "f[i] = sum"),
          ("for j < 6, k < 4", "for i < n, k < 4"),
          ("c[k, j] * a[j]", "c[k, 0] * a[k]"), ("+ f[j]", "+ f[i]")],
         "x[i, j] * (folded1[j] + f[i])"),
        ([("temp f[6]", "output f[6]"), ("outputs:", "outputs:\n  f: [6]")],
         "x[i, j] * (folded1[j] + f[j])"),
    ],
)  # fmt: skip
def test_what_is_folded(edits, value) -> None:
    program = saved.edited(FOLDED, *edits)
    folded = fold_subtrees(fold_tensors(program))
    (y,) = [s for s in folded.statements if s.name == "Y"]
    assert show_statement(y).partition("   for")[0] == f"Y: y[i, j] = {value}"
    saved.agree(program, folded)


def test_conditions_of_data_are_folded_in_part() -> None:
    edits = [("y[i, j] = x[i, j] * (exp(a[j]) + f[j])", "y[i, j] = demand(x[i, j] > exp(a[j]), 3)")]
    edits.append(("output y[n, 6]: float32", "output y[n, 6]: bool"))
    folded = fold_subtrees(fold_tensors(saved.edited(FOLDED, *edits)))
    (y,) = [s for s in folded.statements if s.name == "Y"]
    assert show_statement(y).startswith("Y: y[i, j] = demand(x[i, j] > folded0[j], 3)")


def test_equal_parts_are_folded_once() -> None:
    """And what the other statement sums up."""
    edits = [("exp(a[j]) + f[j]", "exp(a[j]) * x[0, j] + exp(a[j])")]
    folded = fold_subtrees(saved.edited(FOLDED, *edits))
    assert [t.name for t in folded.tensors if t.name.startswith("fold")] == ["folded0", "folded1"]


def test_a_sum_over_taps_is_winograds() -> None:
    for edits in (
        [],
        [("x[i, p + r, q + s, c] * w[r, s, c, k]", "w[r, s, c, k] * x[i, p + r, q + s, c]")],
        [("x[i, p + r, q + s, c]", "x[i, q + s, p + r, c]")],
        [("w[r, s, c, k]", "w[s, r, k, c]")],
        [("w[r, s, c, k]", "w[r, s, c, k - 8*floor(k/8)]")],
    ):
        program = saved.edited(TAPS, *edits)
        made = winograd(program)
        assert len(made.statements) == 16 + 1 + 4
        assert "w" not in made.tensor and "f" in made.tensor
        saved.agree(program, made, tolerance=2e-5)


@pytest.mark.parametrize(
    "edits",
    [
        [("sum over", "max over")],
        [("r < 3, s < 3", "r < 3, s < 2")],
        [("r < 3, s < 3, c < 32", "r < 3, s < 3, c < 31")],
        [("q + s, c]", "q + 1, c]")],
        [("q + s, c]", "2*s, c]")],
        [("p + r, q + s, c]", "r + s, q + s, c]")],
        [("p < 8, q < 8", "p < 7, q < 8"), ("y[n, 8", "y[n, 7"), ("y: [n, 8", "y: [n, 7")],
        [
            ("p < 8, q < 8", "p < 8, q < 7"),
            ("y[n, 8, 8", "y[n, 8, 7"),
            ("y: [n, 8, 8", "y: [n, 8, 7"),
        ],
        [
            ("k < 32", "k < 31"),
            ("y[n, 8, 8, 32", "y[n, 8, 8, 31"),
            ("y: [n, 8, 8, 32", "y: [n, 8, 8, 31"),
        ],
        [("hint 8", "hint 2")],
        [("constant w", "input w"), ("taps(x)", "taps(x, w)")],
        [("x[i, p + r, q + s, c] * w", "x[i, p + r, q + s, c] + w")],
        [("for i < n, p", "for i < n in order, p")],
        [("w[r, s, c, k]", "w[r, floor(p/4), c, k]")],
        [("q + s, c]", "q + s, c - floor(q/8)]")],
    ],
)
def test_other_sums_are_not(edits) -> None:
    program = saved.edited(TAPS, *edits)
    assert winograd(program) == program


def test_arithmetic_that_is_exact(golden) -> None:
    values = [
        "x[i, j] / 4.0", "x[i, j] / 3.0", "x[i, j] * 1.0", "1.0 * x[i, j]", "pow(x[i, j], 1.0)",
        "pow(x[i, j], 2.0)", "pow(x[i, j], 3.0)", "max(x[i, j], 2.0)", "min(2.0, x[i, j])",
        "x[i, j] / 0.0", "x[i, j] / -0.5", "x[i, j] / 1.0", "x[i, j] * 0.0", "pow(x[i, j], 0.0)",
    ]  # fmt: skip
    lines = []
    for value in values:
        program = saved.edited(FOLDED, ("x[i, j] * (exp(a[j]) + f[j])", value))
        (s,) = simplify(program).statements
        lines.append(show_statement(s).partition("   for")[0])
    golden("arithmetic", "\n".join(lines) + "\n")
