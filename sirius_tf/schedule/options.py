# SPDX-License-Identifier: Apache-2.0
"""Parts of the scheduler that can be left out."""

from __future__ import annotations

from dataclasses import dataclass


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
