# SPDX-License-Identifier: Apache-2.0
"""Sums in pieces: how many a model wants, and that what was divided is the sum."""

import numpy as np
import pytest

from sirius_tf.ir import interp
from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.parser import parse
from sirius_tf.ir.verify import verify
from sirius_tf.mapping.targets import machine_of
from sirius_tf.schedule.split_k import choices, divided, in_pieces, stays_apart
from tests.support import saved
from tests.support.arrays import assert_rounded

pytestmark = pytest.mark.ir

PRODUCT = """\
program product(x)
params:
  n = dim(x, 0)   # >= 0, hint {rows}
tensors:
  input x[{n}, {depth}]: float32
  constant w[{depth}, {width}]: float32
  output y[{n}, {width}]: float32
statements:
  S: y[i, j] = {sum}   for i < {n}, j < {width}, k < {depth}
outputs:
  y: [{n}, {width}]
"""
STATE = """\
program states(x)
params:
  n = dim(x, 0)   # >= 0, hint 9
tensors:
  input x[n, 1024]: float32
  constant w[1024, 1024]: float32
  temp h[n + 1, 1024]: float32
  output y[1024]: float32
statements:
  A: h[0, j] = x[0, j]   for j < 1024
  S: h[t + 1, j] = {sum}   for t < n in order, j < 1024, k < 1024
  Y: y[j] = h[n, j]   for j < 1024
outputs:
  y: [1024]
""".replace("{sum}", "tanh(acc + x[t, j]) where acc = sum over k of h[t, k] * w[k, j]")
SIZES = [
    (1, 768, 768),
    (1, 1 << 17, 2),
    (1, 1000, 40),
    (1, 16, 40),
    (1, 17, 3),
    (7, 1 << 14, 64),
    (64, 3072, 768),
    (64, 768, 3072),
    (64, 7, 768),
    (300, 1 << 13, 200),
    (4096, 768, 768),
]
ABOUT = [(1, 1 << 17, 2), (64, 3072, 768), (64, 768, 3072)]  # rows that the call decides


def product(rows, depth, width, known=True, op="sum"):
    sizes = {"rows": rows, "depth": depth, "width": width, "n": rows if known else "n"}
    total = f"max(0.0, acc + 1.0) where acc = {op} over k of x[i, k] * w[k, j]"
    values = {"w": np.ones((depth, width), "f")}
    return parse(PRODUCT.format(**sizes, sum=total), values)


MACHINES = [("sm_90", "strict"), ("sm_90", "tf32"), ("sm_86", "strict")]


@pytest.mark.parametrize(("arch", "precision"), MACHINES)
def test_numbers_of_pieces(golden, arch, precision) -> None:
    """By the model: tiles and time of the whole, and of its pieces and their sum."""
    lines, machine = [], machine_of(arch, precision)
    cases = [(True, *sizes) for sizes in SIZES] + [(False, *sizes) for sizes in ABOUT]
    for known, *sizes in cases:
        c = choices(product(*sizes, known), machine)["S"]
        (tiles, more), (whole, less) = c.tiles, c.steps
        lines.append(
            f"{'' if known else 'about '}{' x '.join(map(str, sizes))}: {c.count} of "
            f"{more} tiles, {less:.1f}; whole {tiles} tiles, {whole:.1f}"
        )
    golden(f"{arch}.{precision}", "\n".join(lines) + "\n")


def test_states(golden) -> None:
    choice = choices(saved.parsed(STATE), machine_of("sm_90"))["S"]
    golden("states", f"{choice}\n")


@pytest.mark.parametrize(("depth", "count", "rest"), [(33, 3, 1), (1000, 2, 488), (96, 3, 0)])
@pytest.mark.parametrize("op", ["sum", "max"])
def test_pieces_are_the_sum(depth, count, rest, op) -> None:
    whole = product(4, depth, 5, False, op)
    program = divided(whole, whole.statements[0], count)
    verify(program)
    by_name = {s.name: s for s in program.statements}
    assert list(by_name) == (["S_parts", "S_rest", "S"] if rest else ["S_parts", "S"])
    assert not rest or by_name["S_rest"].reduce.iters[0].extent.const == rest
    for rows in (0, 1, 3):
        feeds = saved.inputs(whole, rows)
        assert_rounded(interp.run(program, feeds), interp.run(whole, feeds))


def test_pieces_and_their_sum_stay_apart() -> None:
    whole = product(1, 1 << 17, 2)
    program = in_pieces(whole, machine_of("sm_90"))
    uses = Uses(program)
    assert {s.name: stays_apart(uses, s) for s in program.statements} == {
        "S_parts": True,
        "S": True,
    }
    assert not stays_apart(Uses(whole), whole.statements[0])


def test_pieces_of_a_state_are_its_iterations() -> None:
    whole = saved.parsed(STATE.replace("1024", "40"))
    program = divided(whole, whole.statements[1], 2)
    verify(program)
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 40)).astype("f")}
    assert_rounded(interp.run(program, feeds), interp.run(whole, feeds))
