# SPDX-License-Identifier: Apache-2.0
"""Launches: how the phases of a region follow each other on a GPU, and on how many blocks they run.

One persistent kernel runs them all, and its blocks wait for each other in between. Or each phase is
a kernel, and a CUDA graph runs one after the other.
"""

from __future__ import annotations

from sirius_tf.config import Launch
from sirius_tf.errors import VerifyError
from sirius_tf.nest.nodes import (
    Block,
    Guard,
    LoopNest,
    Phase,
    parts_of,
    show,
)
from sirius_tf.schedule.gpu_costs import BARRIER_US, NODE_US


def is_persistent(nest: LoopNest, launch: Launch) -> bool:
    """Whether one kernel runs all of the nest.

    A graph has no loops, and no branches that data decides: where such are around phases, the
    kernel is persistent.
    """
    phases = _phases(nest) if is_straight(nest) else []
    cheaper = len(phases) * NODE_US < (len(phases) - 1) * BARRIER_US
    return not phases or launch == "persistent" or (launch == "auto" and not cheaper)


def kernels(nest: LoopNest, name: str, persistent: bool) -> dict[str, LoopNest]:
    """The part of the nest that each kernel runs, by the kernel's name, in the order of the
    launches: `<name>` alone is a persistent one, `<name>_phase<k>` are a graph's."""
    if persistent:
        return {name: nest}
    return {f"{name}_phase{k}": part for k, part in enumerate(_phases(nest), 1)}


def is_straight(nest: LoopNest) -> bool:
    """Whether every phase runs once at most, and the host could tell whether it does."""
    match nest:
        case Phase():
            return True
        case Block() | Guard():
            return all(map(is_straight, parts_of(nest)))
    return False


def _phases(nest: LoopNest) -> list[LoopNest]:
    """For each phase a nest that runs it where `nest` does, and nothing else."""
    match nest:
        case Phase():
            return [nest]
        case Block(parts):
            return [one for part in parts for one in _phases(part)]
        case Guard(conditions, body, otherwise):
            others = _phases(otherwise) if otherwise else []
            return [
                *(Guard(conditions, one) for one in _phases(body)),
                *(Guard(conditions, Block(()), one) for one in others),
            ]
    raise VerifyError(f"a phase of a graph of kernels is inside of\n{show(nest)}")
