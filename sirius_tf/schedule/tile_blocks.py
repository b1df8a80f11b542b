# SPDX-License-Identifier: Apache-2.0
"""Tile sizes where a worker is a block of threads: a tile is large enough for all of them, and
there are enough tiles for all blocks. All sizes are guesses for speed.

    c[i, j] of 128 x 768, 264 blocks:  lanes j by 32, then rows i by 8, for that leaves 384 tiles

In a recurrence tiles do not grow beyond what lets a block keep its part of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.expr import Load, loads, names_in
from sirius_tf.ir.program import Program, Statement
from sirius_tf.schedule.cluster import Loop, grain, iterator
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import Plan, work

LANES, ROWS = (32, 64), (8, 64)  # tiles grow to the first of both, then to the second
STAGED = 1 << 13  # bytes of a block's shared memory that are not for weights
SPILLED = 4  # times the room of all blocks, beyond which the size of weights does not matter
MOST = 16  # times what a tile is worth, beyond which other loops do not grow
TERMS = 16  # of a sum for each thread of a warp, for which a warp is worth the wait for others


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
    if sum(size for size, _ in weights) > SPILLED * machine.workers * machine.shared:
        weights = []

    def grow(k: int, most: int) -> None:
        while sizes[k] < min(most, extents[k]):
            before = sizes[k]
            sizes[k] = min(2 * before, -(-extents[k] // grains[k]) * grains[k])
            if tiles() < wanted or (
                any(k in moving for _, moving in weights)
                and _slices(weights, extents, sizes, machine) + STAGED > machine.shared
            ):
                sizes[k] = before
                return

    for lanes, rows in zip(LANES, ROWS, strict=True):
        for name, most in ((plan.lanes, lanes), (plan.rows, rows)):
            if name in names:
                grow(names.index(name), most)
    for k in reversed(range(len(names))):
        if points < MOST * worth * tiles():
            grow(k, max(MOST * worth * tiles() * sizes[k] // max(points, 1), 1))
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
    return min(warps // points, terms // (TERMS * machine.warp)) if points else 1


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
