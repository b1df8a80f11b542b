# SPDX-License-Identifier: Apache-2.0
"""Tile sizes of the loops that a cluster shares: cache and registers want large tiles, workers
want many of them. All sizes are guesses for speed from the sizes of the samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.expr import Load, loads, names_in
from sirius_tf.ir.program import Program, Statement
from sirius_tf.schedule import gpu_costs
from sirius_tf.schedule.cluster import Loop, grain, iterator
from sirius_tf.schedule.cpu_costs import FEW_TILES, FEWEST_ROWS, MOST_ROWS, ROWS
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import PANEL, Plan, work

ROW_CHOICES = (MOST_ROWS, 48, 32, 24, 16, 12)


def tile_sizes(
    program: Program,
    plans: Mapping[str, Plan],
    statements: Sequence[str],
    loops: Sequence[Loop],
    machine: Machine,
) -> tuple[int, ...]:
    """A size per loop; 1 leaves the loop as it is. Where a statement has a multiple of an iterator,
    that is the size."""
    by_name = {s.name: s for s in program.statements}
    found = [by_name[n] for n in statements]
    if machine.target == "cuda":
        return block_tile_sizes(program, plans, found, loops, machine)
    return _Tiler(program, found, loops, plans, machine).sizes()


def units(
    statements: Sequence[Statement], loops: Sequence[Loop], plans: Mapping[str, Plan]
) -> tuple[int, ...]:
    """For each loop the number of which its tile size is a multiple: packed constants come in
    panels of lanes."""
    lanes = {s.name: plans[s.name].lanes for s in statements if s.reduce}
    panels = ({s for s in lanes if lanes[s] == iterator(loop[s])} for loop in loops)
    return tuple(PANEL if some else grain(loop) for some, loop in zip(panels, loops, strict=True))


class _Tiler:
    def __init__(
        self,
        program: Program,
        statements: Sequence[Statement],
        loops: Sequence[Loop],
        plans: Mapping[str, Plan],
        machine: Machine,
    ) -> None:
        self.statements, self.loops, self.workers = statements, loops, machine.workers
        hints = program.hints
        steps = math.prod(i.extent.evaluate(hints) for i in statements[0].iters if i.loop)
        self.points = sum(work(s, hints) for s in statements) // max(steps, 1)
        self.worth = machine.worth_a_worker if steps > 1 else machine.worth_a_tile
        self.heavy = max(statements, key=lambda s: work(s, hints))
        extents = {i.name: max(i.extent.evaluate(hints), 1) for i in self.heavy.iters}
        values = [loop[self.heavy.name] for loop in loops]
        self.extents = [extents[n] * v.coefficient(n) for v in values for n in [iterator(v)]]
        self.grains = [grain(loop) for loop in loops]
        self.units = units(statements, loops, plans)
        self.plan = plans[self.heavy.name]
        self.program, self.steps, self.cache = program, steps, machine.cache

    def sizes(self) -> tuple[int, ...]:
        """Grow the tile, a loop at a time, while it is too small and enough tiles remain."""
        self.tile = list(self.grains)
        names = [iterator(loop[self.heavy.name]) for loop in self.loops]
        rows, lanes = (
            names.index(n) if n in names else None for n in (self.plan.rows, self.plan.lanes)
        )
        if rows is not None:
            most = self.most_rows() if lanes is None else MOST_ROWS
            self.grow(rows, most, ROWS, balance=True)
            for k in reversed(range(rows)):  # whole rows of an image are rows of a block, too
                whole = math.prod(self.extents[k + 1 : rows + 1])
                if whole <= math.prod(self.tile[k + 1 : rows + 1]) and 2 * whole <= most:
                    self.grow(k, most // whole, 1, balance=True)
        if lanes is not None:
            self.grow(lanes, 4 * PANEL if self.few_rows(rows) else PANEL, PANEL, keep=False)
        for k in reversed(range(len(self.loops))):
            while self.work() < self.worth and self.tile[k] < self.extents[k]:
                if not self.grow(k, 2 * self.tile[k], self.units[k]):
                    break
        return tuple(self.tile)

    def few_rows(self, rows: int | None) -> bool:
        """Whether the rows of a sum are too few to keep the units busy with one panel."""
        if rows is None:
            return self.heavy.reduce is not None and self.plan.rows is None
        return self.extents[rows] < ROWS

    def most_rows(self) -> int:
        """The rows with which least moves between caches: constants for every tile, and what a tile
        makes and uses, if it is more than stays near."""
        hints, count = self.program.hints, math.prod(self.extents)
        made = sum(math.prod(i.extent.evaluate(hints) for i in s.iters) for s in self.statements)
        made_by_row = 4 * made / self.steps / max(count, 1)
        shared = 4 * sum(self.constants(s) for s in self.statements)

        def moved(rows: int) -> float:
            spilled = 2 * made_by_row * count if made_by_row * rows > self.cache else 0.0
            return shared * math.ceil(count / rows) + spilled

        return min(ROW_CHOICES, key=moved)

    def constants(self, s: Statement) -> int:
        """Elements that every tile reads of a statement's constants."""
        sizes = {i.name: i.extent.evaluate(self.program.hints) for i in s.all_iters}
        own = {iterator(loop[s.name]) for loop in self.loops}
        total = 0
        for load in s.loads:
            names = names_in(load)
            if self.program.tensor[load.tensor].role == "constant" and not names & own:
                total += math.prod(sizes[n] for n in names & sizes.keys())
        return total

    def grow(self, k: int, size: int, unit: int, keep: bool = True, balance: bool = False) -> bool:
        """Set a tile size to at most `size`; with `keep`, workers keep a tile each.

        To `balance` them it may be up to twice as much.
        """
        if self.grains[k] > 1:
            return False
        unit, before, extent = max(unit, self.units[k]), self.tile[k], self.extents[k]
        others = self.tiles() // -(-extent // before)
        least = -(-self.wanted() // others) if keep else 1
        count = max(-(-extent // size), least)
        if least > 1 or count < 4 * self.workers:  # few tiles: as many for each worker
            count = -(-count // self.workers) * self.workers if count > 1 and keep else count
        size = -(-extent // (count * unit)) * unit
        size = size if -(-extent // size) >= least else max(size - unit, before)
        if balance and others * -(-extent // size) < FEW_TILES * self.workers:
            nearby = range(max(size // 2 // unit, 1) * unit, max(2 * size, unit) + 1, unit)
            size = min(reversed(nearby), key=lambda s: self.unevenness(extent, s, others))
        self.tile[k] = size
        return self.tile[k] > before

    def unevenness(self, extent: int, size: int, others: int) -> tuple[int, bool]:
        """The longest share, and whether workers who are ahead have no tile to take from others."""
        alone = size < FEWEST_ROWS or others * -(-extent // size) < 2 * self.workers
        return self.longest_share(extent, size, others), alone

    def longest_share(self, extent: int, size: int, times: int) -> int:
        """The iterations of the most loaded worker if an extent is tiled by `size` and repeated
        `times` times."""
        tiles = -(-extent // size) * times
        sizes = [min(size, extent - i % (tiles // times) * size) for i in range(tiles)]
        ends = [tiles * w // self.workers for w in range(self.workers + 1)]
        return max(sum(sizes[a:b]) for a, b in pairwise(ends))

    def tiles(self) -> int:
        pairs = zip(self.extents, self.tile, strict=True)
        return math.prod(-(-n // size) for n, size in pairs)

    def wanted(self) -> int:
        """Tiles that the workers need; few points are left to few of them."""
        return min(self.workers, max(self.points // self.worth, 1))

    def work(self) -> float:
        return self.points / self.tiles()


# Where a worker is a block of threads, a tile is large enough for all of them, and there are enough
# tiles for all blocks:
#
#     c[i, j] of 128 x 768, 264 blocks:  lanes j by 32, then rows i by 8, for that leaves 384 tiles
#
# In a recurrence tiles do not grow beyond what lets a block keep its part of the weights.


def block_tile_sizes(
    program: Program,
    plans: Mapping[str, Plan],
    statements: Sequence[Statement],
    loops: Sequence[Loop],
    machine: Machine,
) -> tuple[int, ...]:
    """A size per loop, the whole of it or what belongs together times a power of two."""
    hints = program.hints
    steps = math.prod(i.extent.evaluate(hints) for i in statements[0].iters if i.loop)
    points = sum(work(s, hints) for s in statements) // max(steps, 1)
    worth = machine.worth_a_worker if steps > 1 else machine.worth_a_tile
    heavy = max(statements, key=lambda s: work(s, hints))
    plan, values = plans[heavy.name], [loop[heavy.name] for loop in loops]
    names = [iterator(v) for v in values]
    all_extents = {i.name: max(i.extent.evaluate(hints), 1) for i in heavy.iters}
    extents = [all_extents[n] * v.coefficient(n) for n, v in zip(names, values, strict=True)]
    wanted = min(machine.workers, max(points // worth, 1))
    grains = [grain(loop) for loop in loops]
    sizes = list(grains)

    def tiles() -> int:
        return math.prod(-(-n // size) for n, size in zip(extents, sizes, strict=True))

    weights = _weights(program, statements, loops) if steps > 1 else []
    if sum(size for size, _ in weights) > gpu_costs.SPILLED * machine.workers * machine.shared:
        weights = []

    def grow(k: int, most: int) -> None:
        while sizes[k] < min(most, extents[k]):
            before = sizes[k]
            sizes[k] = min(2 * before, -(-extents[k] // grains[k]) * grains[k])
            if tiles() < wanted or (
                any(k in moving for _, moving in weights)
                and _slices(weights, extents, sizes, machine) + gpu_costs.STAGED > machine.shared
            ):
                sizes[k] = before
                return

    for lanes, rows in zip(gpu_costs.LANES, gpu_costs.ROWS, strict=True):
        for name, most in ((plan.lanes, lanes), (plan.rows, rows)):
            if name in names:
                grow(names.index(name), most)
    for k in reversed(range(len(names))):
        if points < gpu_costs.MOST * worth * tiles():
            grow(k, max(gpu_costs.MOST * worth * tiles() * sizes[k] // max(points, 1), 1))
    return tuple(sizes)


def _slices(
    weights: Sequence[tuple[int, list[int]]],
    extents: Sequence[int],
    sizes: Sequence[int],
    machine: Machine,
) -> int:
    """Bytes of the slices of the weights that a block has: where several tiles read one, the first
    and the last may not be whole."""
    counts, needed = [-(-n // size) for n, size in zip(extents, sizes, strict=True)], 0
    for size, moving in weights:
        slices = math.prod(counts[k] for k in moving)
        parts = 1 if math.prod(counts) > slices else 0
        needed += -(-size // slices) * (-(-slices // machine.workers) + parts)
    return needed


def of_thread(rows: int, lanes: int, others: int, busy: int) -> tuple[int, int]:
    """The rows and lanes of a tile's sums that a thread, or warp, has: as many as leave all `busy`.

    r rows and j lanes take r + j loads for r * j multiplications.
    """

    def worth(counts: tuple[int, int]) -> float:
        slots = [-(-n // c) for n, c in zip((rows, lanes), counts, strict=True)]
        if max(counts) > 1 and others * math.prod(slots) < busy:
            return 0.0
        computed = math.prod(s * c for s, c in zip(slots, counts, strict=True))
        return rows * lanes / computed * math.prod(counts) / sum(counts)

    return max(((r, j) for r in (1, 2, 4) for j in (1, 2, 4)), key=worth)


def warps_of_point(points: int, terms: int, machine: Machine) -> int:
    """The number of warps that divide the terms of one sum: as many as there are for a point of the
    tile; 0 or 1 if each warp has sums of its own."""
    warps = machine.threads // machine.warp
    return min(warps // points, terms // (gpu_costs.TERMS * machine.warp)) if points else 1


def _weights(
    program: Program, statements: Sequence[Statement], loops: Sequence[Loop]
) -> list[tuple[int, list[int]]]:
    """The constants of which a tile reads a slice: bytes, and the loops that tell which."""
    found = dict[str, tuple[int, list[int]]]()
    for s in statements:
        names = [iterator(loop[s.name]) for loop in loops]
        for load in loads(s.value):
            moving = [k for k, n in enumerate(names) if n in names_in(load)]
            if program.tensor[load.tensor].role == "constant" and moving:
                found[load.tensor] = _bytes(program, load), moving
    return list(found.values())


def _bytes(program: Program, load: Load) -> int:
    t = program.tensor[load.tensor]
    return math.prod(e.const for e in t.shape) * numpy_dtype(t.dtype).itemsize
