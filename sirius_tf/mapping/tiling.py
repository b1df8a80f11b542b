# SPDX-License-Identifier: Apache-2.0
"""Products of matrices by mma.sync: of which factors, in what precision, in what tiles of warps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sirius_tf.config import Precision
from sirius_tf.ir.dtypes import HALF
from sirius_tf.ir.expr import Call, Expr, Load, names_in
from sirius_tf.schedule.gpu_costs import SHARED_TILE


@dataclass(frozen=True)
class Format:
    """The format of factors in shared memory (`dtype`), the mma.sync of it, and whether it is
    split."""

    dtype: str
    mma: str
    split: bool = False

    @property
    def per_word(self) -> int:
        """Elements of 32 bits."""
        return 1 if self.dtype == "float32" else 2


FORMATS: Mapping[str, Format] = {
    "f16": Format("float16", "f16"),
    "bf16": Format("bfloat16", "bf16"),
    "tf32": Format("float32", "tf32"),
    "split tf32": Format("float32", "tf32", split=True),
}
_ROUNDED: Mapping[Precision, str] = {"tf32": "tf32", "tf32x3": "split tf32", "half": "f16"}


def apart(pair: tuple[Expr, Expr], rows: str, lanes: str) -> bool:
    """Whether the first factor is the same for all lanes, and the second one for all rows."""
    first, second = map(names_in, pair)
    return rows in first and lanes not in first and lanes in second and rows not in second


def _half(factor: Expr) -> Load | None:
    """The element of half precision that a factor is."""
    match factor:
        case Call("cast", (Load(_, _, dtype) as load,), "float32") if dtype in HALF:
            return load
    return None


def choose_format(pair: tuple[Expr, Expr], precision: Precision) -> Format | None:
    """The format in which factors are multiplied: as they are stored, or rounded as the user wants
    it; None if no matrix unit is to be used."""
    dtypes = {load.dtype if load else "float32" for load in map(_half, pair)}
    for form in (FORMATS["f16"], FORMATS["bf16"]):
        if dtypes == {form.dtype}:
            return form
    return FORMATS[_ROUNDED[precision]] if precision in _ROUNDED else None


@dataclass(frozen=True)
class Tiling:
    """Tiles of `m` by `n` points, how many lie along both, and warps that share a tile."""

    m: int
    n: int
    along: tuple[int, int]
    groups: int
    by_lanes: bool  # m is the lanes' iterator

    @property
    def tiles(self) -> int:
        """The number of tiles of the box."""
        return math.prod(self.along)

    @property
    def points(self) -> int:
        """The number of points that are multiplied, those outside of the box included."""
        return self.tiles * self.m * self.n

    @property
    def pitch(self) -> int:
        """Floats between rows of lanes of a tile in shared memory, for which hardly two lanes that
        write sums want the same bank."""
        return self.m + 4 if self.by_lanes else self.n + 8

    @property
    def words(self) -> int:
        """The words of shared memory that the sums of a tile take."""
        return (self.n if self.by_lanes else self.m) * self.pitch

    def cost(self, warps: int) -> float:
        """The time of a step, in mma.sync of a warp: these, and loads of their fragments."""
        passes = -(-self.tiles // (warps // self.groups))
        step = self.m * self.n / 128 + self.m / 16 + self.n / 16
        return passes * step / self.groups * (SHARED_TILE if self.groups > 1 else 1.0)


def choose_tiling(rows: int, lanes: int, warps: int, steps: int, split: bool) -> Tiling:
    """The tiling of least cost of a box."""
    return min(tilings(rows, lanes, warps, steps, split), key=lambda t: t.cost(warps))


def tilings(rows: int, lanes: int, warps: int, steps: int, split: bool) -> list[Tiling]:
    """The tilings of a box, whose factors, split, take twice the registers."""
    sizes_of_n = (16, 8) if split else (32, 16, 8)
    found = []
    for by_lanes, sizes in ((False, (rows, lanes)), (True, (lanes, rows))):
        for tile in ((m, n) for m in (32, 16) for n in sizes_of_n):
            along = (-(-sizes[0] // tile[0]), -(-sizes[1] // tile[1]))
            groups = max(min(warps // math.prod(along), steps), 1)
            found.append(Tiling(*tile, along, groups, by_lanes))
    return found
