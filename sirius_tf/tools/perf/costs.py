# SPDX-License-Identifier: Apache-2.0
"""Costs of schedule/cpu_costs.py that can be measured, beside what stands for them on a CPU."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

from sirius_tf.schedule import cpu_costs
from sirius_tf.schedule.plan import PANEL
from sirius_tf.tools.perf.cpu_limits import Limits

#: NAME = VALUE  # UNIT: MEANING [SOURCE; COMMAND]
COMMENT = re.compile(
    r"^([A-Z][A-Z0-9_]*) = .*  # ([a-z, -]+): (.+) \[(?:([^;\]]+); )?(\w+)\]$", re.MULTILINE
)
FLOAT = 4  # bytes of an element
SHARE_OF_A_TILE = 0.01  # that its claim may be


@dataclass(frozen=True)
class Remark:
    """Comment of a number: its unit, what it stands for, where it comes from, if that is said, and
    the command that measures it or whose times show whether it is good."""

    unit: str
    meaning: str
    source: str
    command: str


@dataclass(frozen=True)
class Cost:
    """A number in force, the one measured, and as what."""

    name: str
    unit: str
    in_force: float
    measured: float
    how: str


def remarks(module: ModuleType) -> dict[str, Remark]:
    """The comments of the numbers of a module of costs, by name."""
    found = COMMENT.findall(inspect.getsource(module))
    return {name: Remark(*rest) for name, *rest in found}


def compare(limits: Limits) -> list[Cost]:
    """The numbers that can be measured, in the order of their module."""
    return [
        Cost(name, remark.unit, getattr(cpu_costs, name), measured(limits), how)
        for name, remark in remarks(cpu_costs).items()
        if remark.command == "machine"
        for how, measured in [MEASURED[name]]
    ]


def _points(nanoseconds: float) -> float:
    return nanoseconds / cpu_costs.POINT_NS


def _multiply_adds(limits: Limits, gb_s: float) -> float:
    """Multiply-adds of a core while an element is moved."""
    return FLOAT / gb_s / limits.multiply_add_ns


def _written(limits: Limits) -> float:
    """Multiply-adds while an element is written: what a copy takes longer than a load."""
    far = limits.far
    return _multiply_adds(limits, far.copy) - _multiply_adds(limits, far.load[1])


def _worth_a_worker(limits: Limits) -> float:
    """Points of which the others' share takes as long as a barrier."""
    workers = limits.team.workers
    return _points(limits.team.barrier) * workers / max(workers - 1, 1)


#: As what a number is measured, and how that follows from the limits.
MEASURED: Mapping[str, tuple[str, Callable[[Limits], float]]] = {
    "POINT_NS": ("an element copied in L2", lambda m: FLOAT / m.second.copy),
    "CACHE": ("half of L2", lambda m: m.second.size / 2),
    "WORTH_A_TILE": (
        f"{1 / SHARE_OF_A_TILE:.0f} claims, as all claim",
        lambda m: _points(m.team.claim / SHARE_OF_A_TILE),
    ),
    "WORTH_A_WORKER": ("of which the others' share takes a barrier", _worth_a_worker),
    "WORTH_A_BARRIER": ("a barrier", lambda m: _points(m.team.barrier)),
    "FAR": ("an element copied in the last cache", lambda m: _points(FLOAT / m.far.copy)),
    "READ": (
        "at the peak, while the last cache loads an element",
        lambda m: _multiply_adds(m, m.far.load[1]),
    ),
    "WRITTEN": ("likewise, by what a copy takes longer than a load", _written),
    "LANES": ("the widest vector", lambda m: m.units[-1].lanes),
    "IN_FLIGHT": (
        "latency times multiply-adds a cycle",
        lambda m: m.units[-1].latency * m.units[-1].per_cycle,
    ),
    "STREAMS": ("8 places of the last cache, over one", lambda m: m.far.load[1] / m.far.load[8]),
    "SCATTERED": ("lanes apart in L1, over a vector", lambda m: m.first.load[1] / m.first.apart),
    "SMALLEST_PACKED": ("a quarter of L1", lambda m: m.first.size / 4 / FLOAT),
    "SMALL_BLOCK": (
        "sums that keep the units busy, by vectors of a panel",
        lambda m: m.units[-1].sums * m.units[-1].lanes / PANEL,
    ),
    "SHARED_IN_L1": ("half of L1", lambda m: m.first.size / 2),
    "WORTH_ASKING": (
        "loaded from the last cache while the first is waited for",
        lambda m: m.far.load[1] * m.far.latency_ns / FLOAT,
    ),
}
