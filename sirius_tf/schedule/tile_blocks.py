# SPDX-License-Identifier: Apache-2.0
"""Tile sizes where a worker is a block of threads: a tile is large enough for all of them, and
there are enough tiles for all blocks. All sizes are guesses for speed.

    c[i, j] of 128 x 768, 264 blocks:  lanes j by 32, then rows i by 8, for that leaves 384 tiles
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sirius_tf.ir.program import Program, Statement
from sirius_tf.schedule.cluster import Loop, grain, iterator
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import Plan, work

LANES, ROWS = (32, 64), (8, 64)  # tiles grow to the first of both, then to the second
MOST = 16  # times what a tile is worth, beyond which other loops do not grow


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

    def grow(k: int, most: int) -> None:
        while sizes[k] < min(most, extents[k]):
            before = sizes[k]
            sizes[k] = min(2 * before, -(-extents[k] // grains[k]) * grains[k])
            if tiles() < wanted:
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
