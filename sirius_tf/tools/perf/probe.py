# SPDX-License-Identifier: Apache-2.0
"""Loops that the machine bounds and nothing else (probe.c), compiled for it and timed.

Each time is the least of many: whatever else runs on the machine only adds.
"""

from __future__ import annotations

import ctypes
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sirius_tf.bundle import cc, library, link
from sirius_tf.codegen.cpu import leaf
from sirius_tf.codegen.scalar import PRELUDE
from sirius_tf.runtime import native

Array = np.ndarray[Any, Any]

REPEATED, LEAST = 0.01, 5  # seconds of calls, and calls, of which the fastest counts
PATIENT = 30  # times as long, where all workers have to be on their CPUs at once
CHAINS = (1, 2, 3, 4, 5, 6, 8, 10, 12)  # independent sums that there are loops of
ONCE = 4_000_000  # floats of a call, beside which it does not count that it comes from Python
STREAMS = (1, 2, 4, 8)  # parts of an array that are read side by side
LINE = 64  # bytes of a line of the caches
MARGIN = 8 * LINE // 4  # floats behind an array that parts a line apart may reach


class _Team(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("run", "wait", "wake")]


class _Work(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("phases", "tiles")]
    _fields_ += [(name, ctypes.c_void_p) for name in ("loop", "x", "to")]
    _fields_ += [(name, ctypes.c_int64) for name in ("n", "times")]


def seconds(
    run: Callable[[], object],
    between: Callable[[], object] = lambda: None,
    patience: float = 1,
) -> float:
    """The best time of a call, repeated for a while, with another one, not timed, in between."""
    laps, end = list[float](), time.perf_counter() + patience * REPEATED
    while len(laps) < LEAST or time.perf_counter() < end:
        between()
        start = time.perf_counter()
        run()
        laps.append(time.perf_counter() - start)
    return min(laps)


def lanes() -> int:
    """The number of float32 lanes in a vector of this machine."""
    return leaf.ISAS[link.ISAS[native.isa()]].lanes


@dataclass(frozen=True)
class Data:
    """Floats to read, and to write."""

    x: Array
    to: Array

    def places(self, n: int, least: int = ONCE) -> tuple[Iterator[tuple[int, int]], int]:
        """Addresses of `n` floats of both, then of the following ones, again and again.

        And how often in a row to go over them: for `least` floats, or once, if others follow.
        """
        firsts = range(0, self.x.size - MARGIN - n + 1, n)
        addresses = [(self.x.ctypes.data + 4 * at, self.to.ctypes.data + 4 * at) for at in firsts]
        return itertools.cycle(addresses), max(least // n, 1) if len(firsts) == 1 else 1


def data(size: int, copied: bool = True) -> Data:
    """Data of so many floats, and of what parts a line apart may reach behind them."""
    x = _aligned(size + MARGIN)
    return Data(x, _aligned(size + MARGIN) if copied else x)


@dataclass(frozen=True)
class Probe:
    """The loops, for vectors of so many lanes."""

    loops: ctypes.CDLL
    lanes: int

    def add(self, steps: int = 10_000) -> float:
        """Seconds of an addition that needs the one before, which takes a cycle."""
        found = seconds(lambda: self.loops.sirius_probe_add(ctypes.c_int64(steps)))
        return found / (32 * steps)

    def multiply(self, lanes: int, chains: int, steps: int = 50_000) -> float:
        """Seconds of a multiply-add of vectors, with so many sums in turns."""
        out = np.ones(chains * lanes, np.float32)
        loop, pointer = self.loops[f"sirius_probe_multiply_{lanes}_{chains}"], _pointer(out)
        return seconds(lambda: loop(ctypes.c_int64(steps), pointer)) / (steps * chains)

    def over(self, name: str, where: Data, n: int) -> float:
        """Seconds of one run of a loop over `n` floats."""
        loop, (places, times) = self.loops[f"sirius_probe_{name}"], where.places(n)
        loop.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 2
        return seconds(lambda: loop(*next(places), n, times)) / times

    def follow(self, size: int, steps: int = 20_000) -> float:
        """Seconds of a load that needs the one before, from anywhere among so many bytes."""
        order = np.random.default_rng(0).permutation(size // LINE)
        floats = _aligned(size // 4)
        links = floats.view(np.uint64).reshape(-1, LINE // 8)
        links[order, 0] = floats.ctypes.data + LINE * np.roll(order, -1)
        loop, at = self.loops.sirius_probe_follow, floats.ctypes.data
        loop.restype = ctypes.c_void_p

        def go_on() -> None:
            nonlocal at
            at = loop(ctypes.c_void_p(at), ctypes.c_int64(steps))

        return seconds(go_on) / steps

    def together(self, threads: int, phases: int, tiles: int) -> Callable[[], None]:
        """A call by so many workers, a team as within `team`, with tiles of nothing for each."""
        return self._together(threads, _Work(phases=phases, tiles=tiles))

    def together_over(self, threads: int, name: str, where: Data, n: int) -> float:
        """Seconds in which each of so many workers runs a loop once over `n` floats of its own."""
        places, times = where.places(threads * (n + MARGIN), 4 * ONCE)
        loop = _address(self.loops[f"sirius_probe_{name}"])
        work = _Work(phases=1, tiles=1, loop=loop, n=n, times=times)
        run = self._together(threads, work)

        def go_on() -> None:
            work.x, work.to = next(places)
            run()

        return seconds(go_on, patience=PATIENT) / times

    def _together(self, threads: int, work: _Work) -> Callable[[], None]:
        runtime, run = native.library(), self.loops.sirius_probe_together
        functions = (runtime.sirius_team_run, runtime.sirius_wait, runtime.sirius_wake)
        team = _Team(*map(_address, functions))
        return lambda: run(ctypes.byref(team), threads, ctypes.byref(work))


def compiled() -> Probe:
    """The loops, compiled by the compiler of bundles for the instruction set of this machine."""
    flags = ["-std=gnu11", "-O2", *link.MARCH[link.ISAS[native.isa()]]]
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder, "probe.c"), Path(folder, "probe.so")
        source.write_text(PRELUDE + Path(__file__).with_name("probe.c").read_text())
        cc.compile_shared([source], built, [*flags, f"-I{library.native_directory()}"])
        return Probe(ctypes.CDLL(str(built)), lanes())


@contextmanager
def team(threads: int) -> Iterator[int]:
    """Take the team of workers of this process; gives how many of those asked for there are."""
    runtime = native.library()
    got = runtime.sirius_team_acquire(ctypes.c_int32(threads))
    try:
        yield got
    finally:
        if got > 1:
            runtime.sirius_team_release()


def _aligned(size: int) -> Array:
    """Ones, from the beginning of a line of the caches on."""
    array = np.ones(size + LINE // 4, np.float32)
    first = -array.ctypes.data % LINE // 4
    return array[first : first + size]


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value
