# SPDX-License-Identifier: Apache-2.0
"""Which products matrix units take, in what format, and in what tiles of warps."""

import pytest

from sirius_tf.mapping.tiling import Format, Tiling, apart, choose_format, choose_tiling
from tests.support.programs import F, call, i, j, k, load

pytestmark = pytest.mark.ir

A, B = load("a", i, k), load("b", k, j)


def half(name, dtype):
    return call("cast", load(name, i, k, dtype=dtype))


@pytest.mark.parametrize(
    ("pair", "precision", "found"),
    [
        ((A, B), "strict", None),
        ((A, B), "tf32", Format(F, "tf32")),
        ((A, B), "tf32x3", Format(F, "tf32", split=True)),
        ((A, B), "half", Format("float16", "f16")),
        ((half("a", "float16"), half("b", "float16")), "strict", Format("float16", "f16")),
        ((half("a", "bfloat16"), half("b", "bfloat16")), "strict", Format("bfloat16", "bf16")),
        ((half("a", "float16"), half("b", "bfloat16")), "strict", None),
        ((half("a", "float16"), B), "strict", None),
    ],
)
def test_formats(pair, precision, found) -> None:
    """As factors are stored, or as the user lets them be rounded."""
    assert choose_format(pair, precision) == found


def test_factors_are_of_rows_and_of_lanes() -> None:
    assert apart((A, B), "i", "j") and not apart((B, A), "i", "j")
    assert not apart((A, load("b", k, i)), "i", "j")


@pytest.mark.parametrize(
    ("rows", "lanes", "warps", "found"),
    [
        (64, 64, 4, Tiling(32, 32, (2, 2), 1, False)),  # a tile for each warp
        (16, 8, 1, Tiling(16, 8, (1, 1), 1, False)),
        (8, 16, 1, Tiling(16, 8, (1, 1), 1, True)),  # rows are the short side of mma.sync
        (16, 8, 4, Tiling(16, 8, (1, 1), 4, False)),  # warps share the sum
    ],
)
def test_tilings(rows, lanes, warps, found) -> None:
    assert choose_tiling(rows, lanes, warps, steps=64, split=False) == found


def test_numbers_of_a_tiling() -> None:
    tiling = Tiling(32, 16, (2, 3), 1, False)
    assert (tiling.tiles, tiling.points, tiling.pitch, tiling.words) == (6, 3072, 24, 768)
    turned = Tiling(32, 16, (2, 3), 1, True)
    assert (turned.pitch, turned.words) == (36, 576)
    # a step is 4 mma.sync, and loads of 3 fragments; two warps of a tile add up their sums
    assert (tiling.cost(6), tiling.cost(4)) == (7.0, 14.0)
    assert Tiling(32, 16, (2, 3), 2, False).cost(4) == 3 * 7 / 2 * 1.25


def test_factors_in_two_parts_have_narrower_tiles() -> None:
    """They take twice the registers."""
    assert choose_tiling(64, 64, 4, steps=64, split=True).n <= 16
