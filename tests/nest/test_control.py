# SPDX-License-Identifier: Apache-2.0
"""Exits and guards are tested as far out as what they read is the same."""

import pytest

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import affine, symbol
from sirius_tf.nest.control import decide
from sirius_tf.nest.nodes import Block, Bound, Loop, Phase, Run, Tile, show
from tests.support.saved import parsed

pytestmark = pytest.mark.ir

t, i, T = symbol("t"), symbol("i"), symbol("T")
PROGRAM = parsed("""program text(x)
params:
  B = dim(x, 0)   # >= 0, hint 8
  T = first t without go[t], at most 9   # >= 0, hint 9
context:
  -T + 9 >= 0
tensors:
  input x[B]: float32
  temp go[10]: bool
  temp h[10, B]: float32
  temp p[9]: bool
  temp y[9, B]: float32
  temp z[9, B]: float32
  output o[B]: float32
statements:
  G: go[0] = x[0] > 0.0
  H: h[0, i] = x[i]   for i < B
  P: p[t] = h[t, 0] > 1.0   for t < T in order
  Y: y[t, i] = h[t, i] * 2.0 if p[t]   for t < T in order, i < B
  Z: z[t, i] = h[t, i] * 3.0 if p[t]   for t < T in order, i < B
  S: h[t + 1, i] = select(p[t], y[t, i] + z[t, i], h[t, i])   for t < T in order, i < B
  N: go[t + 1] = h[t + 1, 0] < 9.0   for t < T in order
  O: o[i] = h[T, i]   for i < B
outputs:
  o: [B]
""")


def over(var, end, body, parallel=False):
    return Loop(var, Bound((affine(0),)), Bound((end,)), 1, parallel, body)


def phase(*names):
    runs = tuple(Run(name, (symbol("c0"), symbol("c1"))) for name in names)
    return Phase(over("c1", symbol("B"), Tile(Block(runs)), parallel=True))


def nest(*parts, end=T):
    return over("c0", end, Block((*parts, Run("N", (symbol("c0"),)))))


def test_a_loop_that_data_ends_asks_before_each_iteration() -> None:
    assert show(decide(PROGRAM, nest())).splitlines()[0] == "for c0 in 0 .. T, while go[c0]"


@pytest.mark.parametrize(
    "wrong", [nest(end=T - 1), Block((nest(), nest())), over("c0", T, Run("O", (symbol("c0"),)))]
)
def test_it_must_be_one_loop_to_its_end(wrong) -> None:
    with pytest.raises(VerifyError, match="the loop of T, which go ends, "):
        decide(PROGRAM, wrong)


def test_a_guard_is_tested_around_a_phase() -> None:
    text = show(decide(PROGRAM, nest(Run("P", (symbol("c0"),)), phase("Y", "Z"))))
    assert [line.strip() for line in text.splitlines()][2:6] == [
        "when p[c0]",
        "phase",
        "parallel for c1 in 0 .. B",
        "tile",
    ]
    assert text.count("when") == 1


def test_neighbours_without_it_stay_outside() -> None:
    """A guard that only some have is tested around these, once."""
    parts = Run("P", (symbol("c0"),)), phase("Y"), phase("Z"), phase("S")
    lines = show(decide(PROGRAM, nest(*parts))).splitlines()
    indents = [len(line) - len(line.lstrip()) for line in lines if line.endswith("phase")]
    assert sum("when p[c0]" in line for line in lines) == 1
    assert len(indents) == 3 and indents[0] == indents[1] > indents[2]


def test_what_is_made_inside_is_not_tested_outside() -> None:
    """The guard of a tile that defines it cannot be known before."""
    tile = Tile(Block((Run("P", (symbol("c0"),)), Run("Y", (symbol("c0"), symbol("c1"))))))
    text = show(decide(PROGRAM, nest(over("c1", symbol("B"), tile))))
    assert text.index("P[c0]") < text.index("when p[c0]") < text.index("Y[c0, c1]")
