# SPDX-License-Identifier: Apache-2.0
"""Loops of a leaf that every access runs through at one stride are one."""

import pytest

from sirius_tf.ir.printer import show_statement
from sirius_tf.nest.coalesce import Join, Leaf, coalesce
from sirius_tf.nest.nodes import Range
from sirius_tf.schedule.plan import Plan
from sirius_tf.schedule.storage import Storage
from tests.support.saved import parsed

pytestmark = pytest.mark.ir

TEXT = """program text(x)
params:
  B = dim(x, 0)   # >= 0, hint 4
tensors:
  input x[B, 14, 14, 96]: float32
  constant f[96, 32]: float32
  output y[B, 14, 14, 32]: float32
statements:
  S: y[b, h, w, c] = sum over k of x[b, h, w, k] * f[k, c]
    for b < B, h < 14, w < 14, c < 32, k < 96
outputs:
  y: [B, 14, 14, 32]
"""


def joined(text=TEXT, storage=Storage(), sizes=(14, 14, 32)):  # noqa: B008
    """The leaf of h, w and c, and the text of its statement."""
    program = parsed(text)
    box = tuple(Range(n, 0, size, True) for n, size in zip("hwc", sizes, strict=True))
    leaf = coalesce(program, storage, Plan("c", "w"), Leaf(program.statements[0], box))
    return leaf, show_statement(leaf.statement).split("   for ")


def test_pixels_are_rows_of_a_matrix() -> None:
    leaf, (text, domain) = joined()
    assert text == "S: y[b, 0, w, c] = sum over k of x[b, 0, w, k] * f[k, c]"
    assert domain.startswith("b < B, w < 196, c < 32, k < 96")
    assert [(r.name, r.size) for r in leaf.box] == [("w", 196), ("c", 32)]
    assert leaf.joins == (Join("h", "w", 14),)


def test_short_rows_with_padding_between_them_have_addresses() -> None:
    padded = TEXT.replace("x[B, 14, 14, 96]", "x[B, 16, 16, 96]")
    leaf, (text, _) = joined(padded)
    assert [(r.name, r.size) for r in leaf.box] == [("w", 196), ("c", 32)]
    assert "x[b, floor((w)/14), -14*floor((w)/14) + w, k]" in text


@pytest.mark.parametrize(
    ("old", "new", "sizes"),
    [
        ("x[b, h, w, k]", "x[b, w, h, k]", (14, 14, 32)),  # other strides, and too long rows
        ("", "", (14, 7, 32)),  # not whole rows
    ],
)
def test_others_stay(old, new, sizes) -> None:
    text = TEXT.replace(old, new).replace("k < 96", "k < 8") if old else TEXT
    leaf, _ = joined(text, sizes=sizes)
    assert [r.name for r in leaf.box] == ["h", "w", "c"] and leaf.joins == ()


def test_a_window_keeps_its_loop() -> None:
    folded = TEXT.replace("output y", "temp y").replace("k < 96", "k < 8")
    leaf, _ = joined(folded, Storage({"y": (None, 2, None, None)}))
    assert [r.name for r in leaf.box] == ["h", "w", "c"]
