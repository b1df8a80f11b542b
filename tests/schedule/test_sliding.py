# SPDX-License-Identifier: Apache-2.0
"""Overlapped tiles of programs that are texts: which ones, and that values stay what they are."""

import pytest

from sirius_tf.ir import interp
from sirius_tf.ir.printer import show_statement
from sirius_tf.ir.verify import verify
from sirius_tf.poly.dependence import check_defined, check_single_assignment
from sirius_tf.poly.scop import extract
from sirius_tf.schedule import overlap
from tests.support import saved
from tests.support.arrays import assert_rounded

pytestmark = pytest.mark.ir

TEXT = """\
program sliding(x)
params:
  n = dim(x, 0)   # >= 0, hint 8
tensors:
  input x[n, 12, 5, 3]: float32
  temp c[n, 12, 5, 3]: float32
  constant v[3, 8]: float32
  temp e[n, {all}, 5, 8]: float32
  constant f[{taps}, 8]: float32
  output y[n, {places}, 5, 8]: float32
statements:
  C: c[i, h, w, k] = x[i, h, w, k] * 2.0   for i < n, h < 12, w < 5, k < 3
  E: e[i, h + {low}, w, k] = max(0.0, acc + 1.0) where acc = {made}   {box}
{fills}  Y: y[i, p, w, k] = sum over r of e[i, {step}*p + r, w, k] * f[r, k]   for i < n, {user}
outputs:
  y: [n, {places}, 5, 8]
"""
MADE, BOX = "sum over r of c[i, h, w, r] * v[r, k]", "for i < n, h < 12, w < 5, k < 8, r < 3"
CASES = [(3, 1, 0, 0), (3, 1, 1, 1), (3, 2, 0, 1), (5, 1, 2, 2), (5, 2, 3, 0), (4, 3, 0, 1)]


@pytest.fixture(autouse=True)
def small_caches(monkeypatch):
    monkeypatch.setattr(overlap, "CACHE", 1 << 10)
    monkeypatch.setattr(overlap, "READ", 40)


def text(taps, step, low, high, made=MADE):
    """A text of so many taps, `step` rows apart, with so many rows of zeros in front and behind."""
    places = (12 + low + high - taps) // step + 1
    borders = [("L", 0, low), ("H", 12 + low, high)]
    fills = [
        f"  {name}: e[i, h + {at}, w, k] = 0.0   for i < n, h < {rows}, w < 5, k < 8\n"
        for name, at, rows in borders
        if rows
    ]
    user = f"p < {places}, w < 5, k < 8, r < {taps}"
    sizes = {"all": 12 + low + high, "taps": taps, "places": places, "low": low, "step": step}
    return TEXT.format(**sizes, made=made, box=BOX, fills="".join(fills), user=user)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tiles(golden, case):
    before = saved.parsed(text(*case))
    after = overlap.overlap(before, 2)
    verify(after)
    scop = extract(after)
    check_single_assignment(scop)
    check_defined(scop)
    golden("_".join(map(str, case)), "\n".join(map(show_statement, after.statements)) + "\n")
    for size in (0, 1, 3):
        feeds = saved.inputs(before, size)
        assert_rounded(interp.run(after, feeds), interp.run(before, feeds))


def test_sizes_of_tiles(golden, monkeypatch):
    """By the costs of far caches, their sizes, and the number of workers: rows of a tile, or -."""
    lines = []
    for read in (0, 40):
        for cache in (1 << 8, 1 << 10, 1 << 12, 1 << 14, 1 << 20):
            monkeypatch.setattr(overlap, "READ", read)
            monkeypatch.setattr(overlap, "CACHE", cache)
            found = []
            for case in ((3, 1, 1, 1), (5, 2, 3, 0)):
                for workers in (1, 2, 16, 100):
                    e = overlap.overlap(saved.parsed(text(*case)), workers).tensor["e"]
                    found.append(str(e.shape[2].const) if len(e.shape) == 5 else "-")
            lines.append(f"read {read}, cache {cache}: {' '.join(found)}")
    golden("sizes", "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "for i < n, h < 12, w < 5, k < 8, r < 3",
            "for i < n in order, h < 12, w < 5, k < 8, r < 3",
        ),
        ("acc + 1.0", "acc + (h):float32"),  # its row is part of the value
        ("sum over r of c[", "max over r of e["),
        ("y[i, p, w, k] = sum over r of e[i, 1*p + r", "y[i, p, w, k] = sum over r of e[i, p + 2"),
        ("y[i, p, w, k] = sum over r of e[i, 1*p + r", "y[i, p, w, k] = sum over r of e[i, r"),
        ("h < 1, w < 5", "h < n, w < 5"),
        ("h + 13, w, k] = 0.0", "h + 13, w, k] = 1.0"),  # another border
        ("c[i, h, w, r] * v", "x[i, h, w, r] * v"),  # which has no more rows
        ("E: e[i, h + 1, w, k]", "E: e[i, -h + 12, w, k]"),
    ],
)
def test_what_stays(old, new):
    made = text(3, 1, 1, 1)
    assert overlap.overlap(saved.parsed(made), 2) != saved.parsed(made)
    made = made.replace(old, new)
    assert old != new and new in made
    assert overlap.overlap(saved.parsed(made), 2) == saved.parsed(made)
