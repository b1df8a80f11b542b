# SPDX-License-Identifier: Apache-2.0
"""The target of a schedule: its workers and the costs of the model. All numbers are guesses for
speed: results depend on none of them but `precision`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sirius_tf.config import Precision
from sirius_tf.schedule import cpu_costs, gpu_costs

Target = Literal["cpu", "cuda"]


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
    cache: int = cpu_costs.CACHE
    worth_a_tile: int = cpu_costs.WORTH_A_TILE
    worth_a_worker: int = cpu_costs.WORTH_A_WORKER
    worth_a_barrier: int = cpu_costs.WORTH_A_BARRIER
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


def gpu(multiprocessors: int, shared: int, precision: Precision = "strict") -> Machine:
    """A GPU, whose workers are blocks with `shared` bytes each: tiles may be small, but to wait for
    all blocks takes longer than for a few threads (about 1.5 us)."""
    return Machine(
        target="cuda",
        workers=multiprocessors * gpu_costs.BLOCKS_PER_SM,
        threads=gpu_costs.THREADS,
        warp=32,
        shared=shared,
        panels=False,
        cache=gpu_costs.CACHE,
        worth_a_tile=gpu_costs.WORTH_A_TILE,
        worth_a_worker=gpu_costs.WORTH_A_WORKER,
        worth_a_barrier=gpu_costs.WORTH_A_BARRIER,
        precision=precision,
    )


@dataclass(frozen=True)
class ScheduleOptions:
    """Switches of the scheduler: each is on, but to see what it is worth.

    hoist: what a loop does not carry leaves it (the pass of that name, and fuse.py).
    fusion: statements share loops.
    share_phases: clusters that do not need each other run between the same barriers.
    private: temporaries that a tile alone needs lie in memory of its worker.
    """

    hoist: bool = True
    fusion: bool = True
    share_phases: bool = True
    private: bool = True


ALL = ScheduleOptions()
