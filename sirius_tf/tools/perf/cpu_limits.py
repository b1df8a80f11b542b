# SPDX-License-Identifier: Apache-2.0
"""Limits of a CPU, measured: its multipliers, caches and memory, and what workers cost.

The least of many times counts, since other load only adds. What all cores load wants a machine on
which all are free now and then.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sirius_tf.bundle import link
from sirius_tf.compile import compile_program
from sirius_tf.errors import SiriusError
from sirius_tf.runtime import native
from sirius_tf.tools.perf import probe, roofline

BUSY = 0.95  # of the most multiply-adds a cycle, from which the units count as busy
WINDOW = 1 << 22  # bytes of the memory that are read at a time
LEAST_MEMORY, MOST_MEMORY = 1 << 27, 1 << 29  # bytes of which windows take turns
PHASES, TILES = 200, 100_000  # of a call, or for each worker
ASLEEP = 0.002  # seconds after which a worker sleeps
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Units:
    """Multiply-adds of vectors by one core: cycles of latency, how many a cycle, and the fewest
    independent sums that reach BUSY of these."""

    lanes: int
    latency: float
    per_cycle: float
    sums: int


@dataclass(frozen=True)
class Level:
    """A level of the memory: its bytes, 0 for the last one, and GB/s of a core.

    `load` has them by the number of places that are read side by side; `together` is all cores'.
    """

    name: str
    size: int
    latency_ns: float
    load: Mapping[int, float]
    apart: float
    copy: float
    together: float


@dataclass(frozen=True)
class Team:
    """Nanoseconds of a phase with an empty tile for each, of waking workers that sleep, and spin.

    And of claiming a tile alone, and while all others claim theirs; and of a call from Python of
    256 multiply-adds.
    """

    workers: int
    barrier: float
    sleeping: float
    spinning: float
    claim_alone: float
    claim: float
    call: float


@dataclass(frozen=True)
class Limits:
    """Limits of a CPU; units and levels begin with the smallest."""

    ghz: float
    units: tuple[Units, ...]
    levels: tuple[Level, ...]
    team: Team

    @property
    def first(self) -> Level:
        """The cache next to a core."""
        return self.levels[0]

    @property
    def second(self) -> Level:
        """The cache that tiles are to stay in."""
        return self.levels[1]

    @property
    def far(self) -> Level:
        """The last cache."""
        return self.levels[-2]

    @property
    def loads(self) -> float:
        """Vectors that a core loads from the first level in a cycle."""
        return self.first.load[1] / (4 * self.units[-1].lanes * self.ghz)

    @property
    def multiply_add_ns(self) -> float:
        """Nanoseconds of a multiply-add of numbers, at the peak of a core."""
        return 1 / (self.units[-1].per_cycle * self.units[-1].lanes * self.ghz)


def measure(threads: int) -> Limits:
    """The limits of the CPU that this runs on, and of a team of so many workers."""
    loops = probe.compiled()
    cycle = loops.add()
    widths = [n for n in (4, 8, 16) if n <= loops.lanes]
    units = tuple(measure_units(loops, n, cycle) for n in widths)
    with probe.team(threads) as workers:
        levels = tuple(measure_level(loops, *sizes, workers) for sizes in sizes_of_levels())
        team = measure_team(loops, workers)
    return Limits(1e-9 / cycle, units, levels, team)


def measure_units(loops: probe.Probe, lanes: int, cycle: float) -> Units:
    """Multiply-adds of vectors of so many lanes."""
    cycles = {n: loops.multiply(lanes, n) / cycle for n in probe.CHAINS}
    least = min(cycles.values())
    busy = next(n for n in probe.CHAINS if BUSY * cycles[n] <= least)
    return Units(lanes, cycles[1], 1 / least, busy)


def sizes_of_levels() -> list[tuple[str, int, int, int]]:
    """For each level its name, its bytes, those to read, and those to read at a time.

    They are more than the level before has, and less than this one, of which others have a share.
    """
    found = dict[int, int]()
    for folder in sorted(CACHES.glob("index*")):
        kind, level, size = ((folder / n).read_text().strip() for n in ("type", "level", "size"))
        if kind != "Instruction":
            found[int(level)] = int(size.removesuffix("K")) << 10
    if len(found) < 2:
        raise SiriusError(f"{CACHES} does not list the caches of this machine: run it on another")
    before, levels = 0, list[tuple[str, int, int, int]]()
    for number, room in sorted(found.items()):
        used = 1 << round(math.log2(before * room) / 2 if before else math.log2(room) - 1)
        levels.append((f"L{number}", room, used, used))
        before = room
    memory = min(max(4 * before, LEAST_MEMORY), MOST_MEMORY)
    return [*levels, ("memory", 0, memory, WINDOW)]


def measure_level(
    loops: probe.Probe, name: str, size: int, used: int, window: int, workers: int
) -> Level:
    """Loads and copies of `used` bytes, of which a `window` is gone through at a time."""
    data, n = probe.data(used // 4), window // 4

    def rate(loop: str) -> float:
        return window / loops.over(loop, data, n) / 1e9

    load = {k: rate(f"load_{k}") for k in probe.STREAMS}
    own = used if window == used else max(used // workers, 2 * window)
    all_data = probe.data(workers * (own // 4 + probe.MARGIN), copied=False)
    together = workers * window / loops.together_over(workers, "load_1", all_data, n) / 1e9
    latency = 1e9 * loops.follow(used)
    return Level(name, size, latency, load, rate("load_apart"), rate("copy"), together)


def measure_team(loops: probe.Probe, workers: int) -> Team:
    """Costs of workers; next to none of one that is alone."""

    def ns(threads: int, phases: int, tiles: int) -> float:
        run = loops.together(threads, phases, tiles)
        return 1e9 * (probe.seconds(run, patience=probe.PATIENT) - empty)

    nothing, alone = (loops.together(n, 0, 0) for n in (workers, 1))
    empty = probe.seconds(alone)
    sleeping = probe.seconds(nothing, lambda: time.sleep(ASLEEP), probe.PATIENT) - empty
    return Team(
        workers=workers,
        barrier=ns(workers, PHASES, 1) / PHASES,
        sleeping=1e9 * sleeping,
        spinning=ns(workers, 0, 0),
        claim_alone=ns(1, 1, TILES) / TILES,
        claim=ns(workers, 1, TILES) / TILES,
        call=call(),
    )


def call() -> float:
    """Nanoseconds of a call of a region that does next to nothing, from Python."""
    kernel, x = compile_program(roofline.program_of(1, 16, 16), workers=1), np.ones((1, 16), "f")
    with tempfile.TemporaryDirectory() as folder:
        link.link([kernel], Path(folder, "call.so"), {}, isas=[link.ISAS[native.isa()]])
        bundle = native.Bundle(Path(folder, "call.so"))
        return 1e9 * probe.seconds(lambda: bundle.call(kernel.program.name, [x], 1))
