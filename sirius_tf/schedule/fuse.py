# SPDX-License-Identifier: Apache-2.0
"""Dependences -> schedule tree: loop distribution, recurrences, and clusters fused into phases.

    schedule(statements) = for each strongly connected component, in topological order:
        a recurrence, or several that are one wavefront
                                 ->  loop over its graph loop: schedule(its statements, inside)
        runs of single statements -> convex clusters, those of one depth in one phase; a cluster:
                                     parallel loops all its statements share: sequence of statements

No ILP: two loops fuse where every dependence between them stays within one iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.program import Iter, Program
from sirius_tf.ir.scc import components
from sirius_tf.poly.dependence import Flow
from sirius_tf.schedule.cluster import Cluster, Tiled, Tilings, fits, iterator, key, runs_alone
from sirius_tf.schedule.hoist import demanded, ring, whole_loops
from sirius_tf.schedule.join import Clusterer
from sirius_tf.schedule.machine import ALL, Machine, ScheduleOptions
from sirius_tf.schedule.plan import choose_all
from sirius_tf.schedule.tile import tile_sizes, units
from sirius_tf.schedule.tree import Band, Filter, Node, Phase, Tile
from sirius_tf.schedule.tree import Sequence as InOrder
from sirius_tf.schedule.wavefront import members

MOST_REASONS = 3  # that a dumped tree gives for a barrier


def fuse(
    program: Program,
    flows: Sequence[Flow],
    machine: Machine,
    options: ScheduleOptions = ALL,
    tilings: Tilings | None = None,
) -> Node:
    """A legal schedule tree of the whole program, for a machine whose workers want tiles.

    Tile sizes are those of `tilings` for the clusters that it knows.
    """
    fuser = _Fuser(program, flows, machine, options, tilings)
    names = tuple(s.name for s in program.statements)
    return InOrder(tuple(fuser.distribute(names, flows, frozenset())))


def tiled(program: Program, flows: Sequence[Flow], machine: Machine) -> tuple[Tiled, ...]:
    """The clusters of the whole program that can be run alone, with the tiles that the cost model
    chooses."""
    fuser = _Fuser(program, flows, machine, ALL, None)
    fuser.distribute(tuple(s.name for s in program.statements), flows, frozenset())
    met = [pair for pair in fuser.met if runs_alone(program, pair[0])]
    return tuple(fuser.tiled(cluster, entered) for cluster, entered in met)


def fuse_alone(
    program: Program, flows: Sequence[Flow], machine: Machine, given: Tiled, sizes: Sequence[int]
) -> Node:
    """The schedule tree of a cluster's program: one phase inside of its loops, behind the zeros
    that others leave it."""
    zeros = tuple(s.name for s in program.statements if s.name not in given.cluster.statements)
    before = _Fuser(program, flows, machine, ALL, None).distribute(zeros, (), frozenset())
    fuser = _Fuser(program, flows, machine, ALL, lambda _: sizes)
    node = fuser.phase([given.cluster], frozenset(given.entered))
    for t in reversed(given.entered):
        band = Band((fuser.steps(node.statements, t),), InOrder((node,)))
        node = Filter(node.statements, band)
    return InOrder((*before, node))


def _beside(names: Sequence[str], flows: Sequence[Flow]) -> int:
    """The number of recurrences among the statements of a loop."""
    cyclic = {f.source for f in flows if f.source == f.sink}
    found = components(names, [(f.source, f.sink) for f in flows])
    return sum(len(component) > 1 or component[0] in cyclic for component in found)


class _Fuser:
    def __init__(
        self,
        program: Program,
        flows: Sequence[Flow],
        machine: Machine,
        options: ScheduleOptions,
        tilings: Tilings | None,
    ) -> None:
        self.program, self.flows, self.options = program, flows, options
        self.tilings = tilings
        self.met = list[tuple[Cluster, frozenset[str]]]()
        self.carried = set[tuple[str, str, str]]()  # from one iteration to another, as met
        self.statements = {s.name: s for s in program.statements}
        self.plans = choose_all(program, machine)
        self.hints = program.hints
        self.waves = [pair for wave in members(program.statements) for pair in ring(wave)]
        self.machine, self.workers = machine, machine.workers
        self.clusterer = Clusterer(program, self.flows, self.plans, machine)

    def distribute(
        self, names: tuple[str, ...], flows: Sequence[Flow], entered: frozenset[str]
    ) -> list[Filter]:
        """The children of the sequence that runs `names` inside the graph loops `entered`."""
        whole = [] if entered else whole_loops(self.program, names, self.options.hoist)
        whole += [] if entered else [pair for pair in self.waves if {*pair} <= {*names}]
        edges = [(f.source, f.sink) for f in flows]
        found = components(names, edges + whole + demanded(self.program, names, edges, entered))
        cyclic = {f.source for f in flows if f.source == f.sink}
        cyclic |= {a for a, b in whole if a == b}
        parts: list[Filter] = []
        run: list[str] = []
        for component in found:
            if len(component) == 1 and component[0] not in cyclic:
                run.append(component[0])
                continue
            parts += self.phases(run, flows, entered)
            run = []
            parts.append(self.recurrence(component, flows, entered))
        return parts + self.phases(run, flows, entered)

    def recurrence(
        self, names: tuple[str, ...], flows: Sequence[Flow], entered: frozenset[str]
    ) -> Filter:
        """For t in order: what remains of `names` when t is fixed."""
        iters = {n: {i.name: i for i in self.statements[n].iters if i.loop} for n in names}
        first = [i.name for i in self.statements[names[0]].iters]
        common = [i for i in first if i not in entered and all(i in own for own in iters.values())]
        if not common:
            raise VerifyError(f"{', '.join(names)} need each other and share no loop")
        t = common[0]
        steps = self.steps(names, t)
        inside = [f for f in flows if f.source in names and f.sink in names]
        kept = [
            self.clusterer.within(f, t, t, (steps[f.source] - steps[f.sink]).const) for f in inside
        ]
        self.carried |= {
            (f.source, f.sink, f.tensor)
            for f, rest in zip(inside, kept, strict=True)
            if not rest.relation.is_equal(f.relation)
        }
        kept = [f for f in kept if not f.relation.is_empty()]
        machine, clusterer = self.machine, self.clusterer
        if beside := _beside(names, inside):
            self.machine = machine.divided(beside)
            self.clusterer = Clusterer(self.program, self.flows, self.plans, self.machine)
        body = InOrder(tuple(self.distribute(names, kept, entered | {t})))
        self.machine, self.clusterer = machine, clusterer
        return Filter(names, Band((steps,), body))

    def steps(self, names: Sequence[str], t: str) -> dict[str, Affine]:
        """In which step of loop t an iteration of each statement runs."""
        iters = {n: {i.name: i for i in self.statements[n].iters} for n in names}
        return {n: symbol(t) + (own[t].shift or 0) for n, own in iters.items()}

    def phases(
        self, names: Sequence[str], flows: Sequence[Flow], entered: frozenset[str]
    ) -> list[Filter]:
        """Clusters of statements, as few phases as their dependences allow."""
        clusters = self.clusterer.clusters(names, flows, entered, self.options.fusion)
        level: dict[str, int] = {}
        for c in clusters:
            sources = {f.source for f in flows if f.sink in c.statements} - set(c.statements)
            here = 1 + max((level[s] for s in sources if s in level), default=-1)
            if not self.options.share_phases:
                here = len(level)
            level |= dict.fromkeys(c.statements, here)
        sinks = {f.sink for f in flows}
        for c in clusters:  # what needs nothing comes late: its memory is in use for less time
            users = {f.sink for f in flows if f.source in c.statements} - set(c.statements)
            if sinks.isdisjoint(c.statements) and users & level.keys():
                here = min(level[u] for u in users if u in level) - 1
                level |= dict.fromkeys(c.statements, here)
        return [
            self.phase([c for c in clusters if level[c.statements[0]] == k], entered)
            for k in sorted(set(level.values()))
        ]

    def phase(self, clusters: Sequence[Cluster], entered: frozenset[str]) -> Filter:
        """Clusters that do not depend on each other, between two barriers."""
        parts = tuple(Filter(c.statements, self.tiles(c, entered)) for c in clusters)
        names = tuple(n for c in clusters for n in c.statements)
        body = parts[0].child if len(parts) == 1 else InOrder(parts)
        return Filter(names, Phase(body, self.reasons(names)))

    def reasons(self, names: Sequence[str]) -> str:
        """Why there is a barrier before a phase: what it reads that other phases define."""
        found: dict[str, set[str]] = {}
        for f in self.flows:
            carried = (f.source, f.sink, f.tensor) in self.carried
            if f.sink in names and (carried or f.source not in names):
                before = ", an iteration before" if carried else ""
                found.setdefault(f"{f.tensor} of {f.source}{before}", set()).add(f.sink)
        texts = [f"{', '.join(sorted(sinks))} after {what}" for what, sinks in found.items()]
        more = len(texts) - MOST_REASONS
        return "; ".join(texts[:MOST_REASONS]) + (f"; {more} more" if more > 0 else "")

    def tiles(self, cluster: Cluster, entered: frozenset[str]) -> Node:
        """Parallel loops over tiles: in sequence, each statement over its part of a tile.

        before   parallel b, n:  S[b, n]; R[b, n]
        after    parallel b by 8, n by 32:  S[8 x 32 points]; R[8 x 32 points]
        """
        self.met.append((cluster, entered))
        loops, sizes = cluster.loops, self.sizes(cluster, entered)
        children = []
        for name in cluster.statements:
            values = [loop[name] for loop in loops]
            whole = [v for v, size in zip(values, sizes, strict=True) if v // size * size == v]
            rest = [i for i in self._free(name, entered) if i.name not in map(iterator, whole)]
            point = Band(tuple({name: symbol(i.name)} for i in rest), None, (True,) * len(rest))
            children.append(Filter((name,), point if rest else None))
        body = Tile(InOrder(tuple(children)))
        if not loops:
            return body
        members = tuple(
            {s: value // size * size for s, value in loop.items()}
            for loop, size in zip(loops, sizes, strict=True)
        )
        return Band(members, body, (True,) * len(members))

    def sizes(self, cluster: Cluster, entered: frozenset[str]) -> Sequence[int]:
        """The tile sizes that were measured, if they fit the loops; else those of the model."""
        found = self.tilings and self.tilings(key(self.uses, cluster, entered, self.workers))
        if found and fits(found, self.units(cluster)):
            return found
        loops, names = cluster.loops, cluster.statements
        return tile_sizes(self.program, self.plans, names, loops, self.machine)

    def units(self, cluster: Cluster) -> tuple[int, ...]:
        """For each loop of a cluster the number of which its tile size is a multiple."""
        return units([self.statements[n] for n in cluster.statements], cluster.loops, self.plans)

    def tiled(self, cluster: Cluster, entered: frozenset[str]) -> Tiled:
        """A cluster with its tiles."""
        extents = [self.clusterer.extents(loop) for loop in cluster.loops]
        first = self.statements[cluster.statements[0]]
        return Tiled(
            cluster,
            tuple(i.name for i in first.iters if i.name in entered),
            key(self.uses, cluster, entered, self.workers),
            tuple(self.sizes(cluster, entered)),
            tuple(max(1, *sizes) for sizes in extents),
            self.units(cluster),
        )

    @cached_property
    def uses(self) -> Uses:
        """The statements that define and that read each tensor, found once."""
        return Uses(self.program)

    def _free(self, name: str, entered: frozenset[str]) -> list[Iter]:
        return [i for i in self.statements[name].iters if i.name not in entered]
