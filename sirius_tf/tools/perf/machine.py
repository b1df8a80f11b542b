# SPDX-License-Identifier: Apache-2.0
"""Limits of this CPU, measured in some seconds, and the costs of the models beside them.

usage: machine.py [--threads=N] [--json=FILE]

Prints, one table after the other:

    units   by the width of vectors, multiply-adds a cycle, the cycles from one to the next that
            needs it, and how many sums that do not need each other keep the units busy
    levels  caches and memory: nanoseconds of a load that needs the one before; GB/s of a core that
            loads from one place, or from 8 side by side, that loads vectors whose lanes lie apart,
            and that copies; GB/s of all cores that load
    team    nanoseconds that workers cost
    costs   the numbers of schedule/cpu_costs.py that can be measured, and what stands for them here
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from absl import app, flags

from sirius_tf.runtime import native
from sirius_tf.tools import benchmark
from sirius_tf.tools.perf import costs
from sirius_tf.tools.perf.cpu_limits import Level, Limits, Team, Units, measure
from sirius_tf.tools.tables import table


def markdown(limits: Limits) -> str:
    """All tables."""
    tables = (
        units_table(limits.units),
        levels_table(limits.levels),
        team_table(limits.team),
        costs_table(costs.compare(limits)),
    )
    loads = f"{limits.ghz:.2f} GHz; {limits.loads:.1f} loads of the widest vectors a cycle."
    return "\n\n".join((loads, *tables))


def short(value: float) -> str:
    """A number in three digits, or all that are before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def units_table(units: Sequence[Units]) -> str:
    """A row for each width of vectors."""
    heads = ("lanes", "multiply-adds a cycle", "latency, cycles", "sums that keep the units busy")
    rows = [[str(u.lanes), f"{u.per_cycle:.2f}", f"{u.latency:.1f}", str(u.sums)] for u in units]
    return table(heads, rows)


def levels_table(levels: Sequence[Level]) -> str:
    """A row for each level; GB/s."""
    heads = (
        "level",
        "kB",
        "latency, ns",
        "loads",
        "8 places",
        "lanes apart",
        "copies",
        "all cores",
    )
    rows = []
    for v in levels:
        rates = (v.load[1], v.load[8], v.apart, v.copy, v.together)
        size = str(v.size >> 10) if v.size else ""
        rows.append([v.name, size, f"{v.latency_ns:.1f}", *(f"{r:.1f}" for r in rates)])
    return table(heads, rows)


def team_table(team: Team) -> str:
    """A row for each cost."""
    named = {
        "a phase with an empty tile for each": team.barrier,
        "to wake workers that spin": team.spinning,
        "to wake workers that sleep": team.sleeping,
        "to claim a tile, alone": team.claim_alone,
        "to claim a tile, as all do": team.claim,
        "a call of a small region, from Python": team.call,
    }
    rows = [[name, short(ns)] for name, ns in named.items()]
    return table((f"of {team.workers} workers", "ns"), rows)


def costs_table(found: Sequence[costs.Cost]) -> str:
    """A row for each number that can be measured."""
    heads = ("cost", "unit", "in force", "measured", "as")
    rows = [[c.name, c.unit, short(c.in_force), short(c.measured), c.how] for c in found]
    return table(heads, rows)


def define_flags(values: flags.FlagValues) -> None:
    """Define the flags of this command."""
    flags.DEFINE_integer(
        "threads", 0, "Workers; 0 is as many as there are.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_string("json", None, "A file to write the numbers to.", flag_values=values)


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """See the module."""
    if len(argv) != 1:
        raise app.UsageError("takes no arguments, only flags")
    limits = measure(values.threads or native.default_threads())
    found = [asdict(c) for c in costs.compare(limits)]
    content = {"limits": asdict(limits), "costs": found}
    benchmark.report({"cpu": benchmark.cpu()}, markdown(limits), content, values.json)


def run() -> None:
    """Run the command line of this process."""
    define_flags(flags.FLAGS)
    app.run(main)


if __name__ == "__main__":
    run()
