# SPDX-License-Identifier: Apache-2.0
"""Passes on a few lines of text: what each makes of them, and what it leaves alone."""

import numpy as np
import pytest

from sirius_tf.ir.interp import run
from sirius_tf.ir.verify import verify
from sirius_tf.transform.epilogue import finish_reductions
from sirius_tf.transform.exit_guards import awaited
from sirius_tf.transform.fold import fold_subtrees, fold_tensors
from sirius_tf.transform.winograd import winograd
from tests.support import saved
from tests.support.saved import parsed, statements

pytestmark = pytest.mark.ir


def program(tensors, lines, outputs="y: [B, 4]", more=""):
    """A program of an input x[B, 3] and an output y[B, 4], unless `tensors` say otherwise."""
    if " y[" not in tensors:
        tensors += "\n  output y[B, 4]: float32"
    text = f"""program text(x)
params:
  B = dim(x, 0)   # >= 0, hint 8
{more}tensors:
  input x[B, 3]: float32
{tensors}
statements:
{lines}
outputs:
  {outputs}
"""
    made = parsed(text)
    verify(made)
    return made


def agree(before, after):
    feeds = saved.inputs(before, 5)
    for want, have in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_allclose(have, want, 1e-4, 1e-5)


PRODUCT = "  S: z[b, n] = sum over k of x[b, k] * w[k, n]   for b < B, n < 4, k < 3\n"
Z = "  temp z[B, 4]: float32\n  constant w[3, 4]: float32"


def test_the_only_reader_of_a_sum_is_its_epilogue() -> None:
    given = program(Z, PRODUCT + "  R: y[i, j] = max(0.0, z[i, j])   for i < B, j < 4")
    made = finish_reductions(given)
    assert statements(made) == [
        "R: y[b, n] = max(0.0, acc) where acc = sum over k of x[b, k] * w[k, n]"
        "   for b < B, n < 4, k < 3"
    ]
    assert "z" not in made.tensor
    agree(given, made)


@pytest.mark.parametrize(
    "reader",
    [
        "y[i, j] = exp(z[i, j])   for i < B, j < 4",  # code for every register of a block
        "y[i, j] = z[i, j] + z[i, 3 - j]   for i < B, j < 4",  # of another element, too
        "y[i, j] = max over r of z[i, r]   for i < B, j < 4, r < 4",
    ],
)
def test_other_readers_stay(reader) -> None:
    given = program(Z, f"{PRODUCT}  R: {reader}")
    assert finish_reductions(given).statements == given.statements


def test_a_sum_that_two_read_stays() -> None:
    lines = PRODUCT + "  R: y[i, j] = max(0.0, z[i, j])   for i < B, j < 4\n"
    lines += "  Q: v[i, j] = z[i, j] + 1.0   for i < B, j < 4"
    given = program(f"{Z}\n  output v[B, 4]: float32", lines, "y: [B, 4]\n  v: [B, 4]")
    assert finish_reductions(given).statements == given.statements


CONSTANTS = "  constant c[4]: float32\n  temp d[4]: float32"
READ = "  R: y[b, n] = x[b, 0] * d[n]   for b < B, n < 4"


def test_what_constants_alone_define_is_one() -> None:
    given = program(CONSTANTS, f"  S: d[n] = c[3 - n] * 2.0   for n < 4\n{READ}")
    made = fold_tensors(given)
    assert statements(made) == [READ.strip()]
    np.testing.assert_array_equal(made.tensor["d"].value, given.tensor["c"].value[::-1] * 2)
    agree(given, made)


def test_what_constants_define_in_part_is_none() -> None:
    parts = "  S: d[n] = c[n]   for n < 2\n  T: d[n + 2] = x[0, 0]   for n < 2\n"
    given = program(CONSTANTS, parts + READ)
    assert fold_tensors(given).statements == given.statements


def test_what_an_input_defines_is_none() -> None:
    given = program(CONSTANTS, f"  S: d[n] = c[n] * x[0, 0]   for n < 4\n{READ}")
    assert fold_tensors(given).statements == given.statements


def test_parts_of_expressions_are_constants_of_their_own() -> None:
    given = program(
        "  constant c[4]: float32", "  S: y[b, n] = x[b, 0] * (c[n] + 1.0)   for b < B, n < 4"
    )
    made = fold_subtrees(given)
    assert statements(made) == ["S: y[b, n] = x[b, 0] * folded0[n]   for b < B, n < 4"]
    np.testing.assert_array_equal(made.tensor["folded0"].value, given.tensor["c"].value + 1)


def test_conditions_on_iterators_are_no_tables() -> None:
    line = "  S: y[b, n] = select(n >= 2, x[b, 0], 0.0)   for b < B, n < 4"
    given = program("  output y[B, 4]: float32", line)
    assert fold_subtrees(given).statements == given.statements


IMAGE = """  temp padded[4, 34, 34, 32]: float32
  constant f[3, 3, 32, 32]: float32
  output y[4, 32, 32, 32]: float32"""
LINES = """  P: padded[n, h, w, c] = x[0, 0] + c:float32   for n < 4, h < 34, w < 34, c < 32
  S: y[n, h, w, k] = sum over r, s, c of padded[n, h + r, w + s, c] * f[r, s, c, k]"""
DOMAIN = "   for n < 4, h < 32, w < 32, k < 32, r < 3, s < 3, c < 32"


def sliding(domain):
    return program(IMAGE, LINES + domain, "y: [4, 32, 32, 32]")


def test_a_sum_over_three_by_three_neighbours_is_winograds() -> None:
    made = winograd(sliding(DOMAIN))
    assert len(made.statements) == 1 + 16 + 1 + 4
    sums = [s for s in made.statements if s.reduce]
    assert [i.extent.const for i in sums[0].all_iters] == [4, 4, 4, 16, 16, 32, 32]
    assert made.tensor["y_S_u"].value.shape == (4, 4, 32, 32)


@pytest.mark.parametrize(
    ("old", "new"),
    [("r < 3", "r < 2"), ("c < 32", "c < 4"), ("h < 32", "h < 31"), ("k < 32", "k < 4")],
)
def test_other_sums_are_not(old, new) -> None:
    """Two rows of taps, few channels or results, and places that are no pairs."""
    domain = DOMAIN.replace(old, new)
    given = program(IMAGE, LINES + domain, "y: [4, 32, 32, 32]")
    assert winograd(given).statements == given.statements


ENDLESS = """  T = first t without go[t], at most (2147483648)   # >= 0, hint 4
context:
  -T + 2147483648 >= 0
"""
LOOP = """  G: go[0] = x[0, 0] > 0.0
  D: ok[b] = demand(x[b, 1] > 0.0, 3)   for b < B
  H: h[0] = x[0, 0]
  S: h[t + 1] = h[t] * 0.5   for t < T in order
  N: go[t + 1] = h[t + 1] > 0.1   for t < T in order
  R: y[b, n] = h[T]   for b < B, n < 4"""
CARRIED = """  temp go[2147483649]: bool
  temp ok[B]: bool
  temp h[2147483649]: float32"""


def test_a_loop_that_data_ends_waits_for_what_must_hold() -> None:
    made = statements(awaited(program(CARRIED, LOOP, more=ENDLESS)))
    assert made[0] == "G: go[0] = x[0, 0] > 0.0 and go_awaits_ok[]"
    assert made[-1] == "D_go: go_awaits_ok[] = all over r0 of ok[r0]   for r0 < B"


def test_it_does_not_wait_for_what_needs_it() -> None:
    inside = LOOP.replace("x[b, 1] > 0.0", "h[T] > 0.0")
    given = program(CARRIED, inside, more=ENDLESS)
    assert awaited(given) == given


ENDED = """program ended(x)
params:
  n = dim(x, 0)   # >= 0, hint 8
  T = first t without go[t], at most ({most})   # >= 0, hint 4
context:
  -T + {most} >= 0
tensors:
  input x[n]: float32
  temp go[{more}]: bool
  temp ok[]: bool
  output y[n]: float32
statements:
  G: go[0] = x[0] > 0.0
  D: ok[] = demand(x[1] > 0.0, 3)
  N: go[t + 1] = x[t] > 0.1   for t < T in order
  Y: y[i] = x[i]   for i < n
outputs:
  y: [n]
"""


@pytest.mark.parametrize(("most", "waits"), [(9, False), (2147483648, True)])
def test_only_loops_that_nothing_bounds_wait(most, waits) -> None:
    """One that ends by itself may run in vain."""
    program = saved.edited(ENDED.format(most=most, more=most + 1))
    assert (awaited(program) != program) == waits
