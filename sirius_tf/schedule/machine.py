# SPDX-License-Identifier: Apache-2.0
"""The target of a schedule: its workers and the costs of the model. All numbers are guesses for
speed: results depend on none of them but `precision`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sirius_tf.config import Precision

Target = Literal["cpu", "cuda"]
CACHE = 1 << 19  # bytes: half of a CPU's second level


@dataclass(frozen=True)
class Machine:
    """Workers that run tiles at the same time; the defaults are those of a CPU, whose workers are
    threads.

    target: the kind of machine that code is made for.
    threads: of a worker; they divide the points of a statement among them.
    warp: those of them that sum up one point together, where there are fewer points than threads.
    shared: bytes of memory beside the workspace that the threads of a worker share.
    panels: whether packed constants lie in panels of a vector's lanes.
    cache: bytes that a tile may use to stay near its worker.
    worth_a_tile: points, below which running a tile costs more than its code.
    worth_a_worker: likewise of a step of a recurrence, in which workers wait for each other.
    worth_a_barrier: points that a worker evaluates while others wait for it.
    wavefronts: whether recurrences become one loop; None where that pays.
    words: whether blocks await what others make, and not a barrier; None where that pays.
    precision: of the factors of a matrix unit (config.Options); it alone changes results.
    """

    target: Target = "cpu"
    workers: int = 2
    threads: int = 1
    warp: int = 1
    shared: int = 0
    panels: bool = True
    cache: int = CACHE
    worth_a_tile: int = 1 << 15
    worth_a_worker: int = 1 << 13
    worth_a_barrier: int = 1 << 12  # 0.5 us
    wavefronts: bool | None = None
    words: bool | None = None
    precision: Precision = "strict"

    @property
    def busy_threads(self) -> int:
        """Threads that want a point of each statement; a worker that is one thread wants tiles."""
        return self.workers * self.threads if self.target == "cuda" else 1

    def divided(self, parts: int) -> Machine:
        """The share of the machine that one of `parts` concurrent recurrences has: of a GPU, a part
        of its blocks; of a CPU, all, since a worker without tiles takes those of others."""
        workers = max(self.workers // parts, 1)
        return replace(self, workers=workers) if self.target == "cuda" else self


def cpu(workers: int) -> Machine:
    """A CPU, on which so many threads run tiles."""
    return Machine(workers=workers)


CPU = cpu(2)
THREADS = 256
BLOCKS_PER_SM = 2


def gpu(multiprocessors: int, shared: int, precision: Precision = "strict") -> Machine:
    """A GPU, whose workers are blocks with `shared` bytes each: tiles may be small, but to wait for
    all blocks takes longer than for a few threads (about 1.5 us)."""
    return Machine(
        target="cuda",
        workers=multiprocessors * BLOCKS_PER_SM,
        threads=THREADS,
        warp=32,
        shared=shared,
        panels=False,
        cache=1 << 17,  # of the first level, which blocks share
        worth_a_tile=1 << 12,
        worth_a_worker=1 << 11,
        worth_a_barrier=1 << 15,
        precision=precision,
    )
