# SPDX-License-Identifier: Apache-2.0
"""Dependences -> schedule tree: loop distribution, recurrences, and clusters fused into phases.

    schedule(statements) = for each strongly connected component, in topological order:
        a recurrence             ->  loop over its graph loop: schedule(its statements, inside)
        runs of single statements -> convex clusters, those of one depth in one phase; a cluster:
                                     parallel loops all its statements share: sequence of statements

No ILP: two loops fuse where every dependence between them stays within one iteration.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import islpy as isl

from sirius_tf.errors import VerifyError
from sirius_tf.ir.affine import symbol
from sirius_tf.ir.program import Iter, Program, Statement
from sirius_tf.poly.dependence import Flow, components
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import ROWS, choose, work
from sirius_tf.schedule.tile import Loop, tile_sizes
from sirius_tf.schedule.tree import Band, Filter, Mark, Node
from sirius_tf.schedule.tree import Sequence as InOrder

FAR = 8  # points that are worth an element that is written to, and read from, a far cache
PARTS = ("hoisting", "fusion", "shared phases")  # that can be left out
MOST_REASONS = 3  # that a dumped tree gives for a barrier


@dataclass(frozen=True)
class Cluster:
    """Statements run as one phase under `loops`, the parallel loops that all of them share."""

    statements: tuple[str, ...]
    loops: tuple[Loop, ...]


def fuse(
    program: Program, flows: Sequence[Flow], machine: Machine, without: Collection[str] = ()
) -> Node:
    """A legal schedule tree of the whole program, for a machine whose workers want tiles.

    `without` some of PARTS, to see what they are worth.
    """
    fuser = _Fuser(program, flows, machine, without)
    names = tuple(s.name for s in program.statements)
    return InOrder(tuple(fuser.distribute(names, flows, frozenset())))


def release(program: Program, flows: Sequence[Flow], without: Collection[str] = ()) -> Program:
    """The program with loops only where they carry something.

    x[t] W for all t is a contraction like any other: t may run along rows, lanes or workers.
    """
    names = [s.name for s in program.statements]
    edges = [(f.source, f.sink) for f in flows]
    found = components(names, edges + _whole_loops(program, names, without))
    cyclic = {f.source for f in flows if f.source == f.sink}
    cyclic.update(n for component in found if len(component) > 1 for n in component)
    statements = tuple(
        s if s.name in cyclic else replace(s, iters=tuple(replace(i, loop=False) for i in s.iters))
        for s in program.statements
    )
    return replace(program, statements=statements)


def _whole_loops(
    program: Program, names: Sequence[str], without: Collection[str]
) -> list[tuple[str, str]]:
    """Edges that keep the statements of some loops together.

    What leaves a loop needs all iterations at once of what it reads there: there is no memory for
    those of a loop whose length nothing bounds.
    """
    endless = {p.name for p in program.params if p.exit and p.unlimited}
    inside: dict[str, list[str]] = {}
    kept = set(names)
    for s in program.statements:
        for i in s.iters:
            if s.name in kept and i.loop and ("hoisting" in without or str(i.extent) in endless):
                inside.setdefault(i.name, []).append(s.name)
    return [pair for group in inside.values() for pair in pairwise([*group, group[0]])]


class _Fuser:
    def __init__(
        self, program: Program, flows: Sequence[Flow], machine: Machine, without: Collection[str]
    ) -> None:
        self.program, self.flows, self.without = program, flows, without
        self.carried = set[tuple[str, str, str]]()  # from one iteration to another, as met
        self.statements = {s.name: s for s in program.statements}
        self.plans = {s.name: choose(program, s, machine) for s in program.statements}
        self.hints = program.hints
        self.machine, self.threads = machine, machine.workers

    def distribute(
        self, names: tuple[str, ...], flows: Sequence[Flow], entered: frozenset[str]
    ) -> list[Filter]:
        """The children of the sequence that runs `names` inside the graph loops `entered`."""
        whole = [] if entered else _whole_loops(self.program, names, self.without)
        found = components(names, [(f.source, f.sink) for f in flows] + whole)
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
        shared = [{i.name for i in self.statements[n].iters if i.loop} - entered for n in names]
        first = [i.name for i in self.statements[names[0]].iters]
        common = [i for i in first if all(i in s for s in shared)]
        if not common:
            raise VerifyError(f"{', '.join(names)} need each other and share no loop")
        t = common[0]
        inside = [f for f in flows if f.source in names and f.sink in names]
        kept = [replace(f, relation=self._within(f, t, t)) for f in inside]
        self.carried |= {
            (f.source, f.sink, f.tensor)
            for f, rest in zip(inside, kept, strict=True)
            if not rest.relation.is_equal(f.relation)
        }
        kept = [f for f in kept if not f.relation.is_empty()]
        body = InOrder(tuple(self.distribute(names, kept, entered | {t})))
        return Filter(names, Band((dict.fromkeys(names, symbol(t)),), body))

    def phases(
        self, names: Sequence[str], flows: Sequence[Flow], entered: frozenset[str]
    ) -> list[Filter]:
        """Clusters of statements, as few phases as their dependences allow."""
        clusters = self.clusters(self.light_first(names, flows), flows, entered)
        level: dict[str, int] = {}
        for c in clusters:
            sources = {f.source for f in flows if f.sink in c.statements} - set(c.statements)
            here = 1 + max((level[s] for s in sources if s in level), default=-1)
            if "shared phases" in self.without:
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

    def light_first(self, names: Sequence[str], flows: Sequence[Flow]) -> list[str]:
        """Topological order in which what a statement needs with least work comes first.

        What needs most comes right before the statement, whose cluster it can then still join.
        """
        feeding: dict[str, list[str]] = {n: [] for n in names}
        for f in flows:
            if f.sink in feeding and f.source in feeding and f.source != f.sink:
                feeding[f.sink].append(f.source)
        depth: dict[str, int] = {}
        for n in names:  # which are in some topological order
            depth[n] = work(self.statements[n], self.hints)
            depth[n] += max((depth[s] for s in feeding[n]), default=0)
        order: dict[str, None] = {}
        needed = {s for sources in feeding.values() for s in sources}
        stack = [(n, False) for n in reversed(names) if n not in needed]
        while stack:
            name, ready = stack.pop()
            if ready:
                order[name] = None
            elif name not in order:
                stack.append((name, True))
                later = sorted(set(feeding[name]), key=lambda s: (-depth[s], s))
                stack += [(s, False) for s in later if s not in order]
        return list(order)

    def clusters(
        self, names: Sequence[str], flows: Sequence[Flow], entered: frozenset[str]
    ) -> list[Cluster]:
        """Greedy convex clustering: a statement joins the latest cluster it can.

        It may join one that no later cluster feeding it depends on; since clusters are kept in
        topological order, that is any from its last producer's on. Joining must leave a loop to
        share, and must not cost parallelism that the workers can use. What is next to nothing and
        needs nothing comes first, lest a heavy reader finds it last and shares its few loops.
        """
        clusters: list[Cluster] = []
        for name in names:
            own = Cluster((name,), tuple({name: i.name} for i in self._free(name, entered)))
            feeding = [f for f in flows if f.sink == name]
            sources = {f.source for f in feeding}
            last = max(
                (k for k, c in enumerate(clusters) if sources & set(c.statements)), default=None
            )
            if last is not None and "fusion" not in self.without:
                joined = self.join(clusters[last], own, feeding)
                busy = self._keeps_workers_busy(joined, clusters[last], own)
                if joined.loops and busy and self._divides_well(joined, own):
                    clusters[last] = joined
                    continue
            few = self._points(own) < self.machine.worth_a_barrier
            light = few or not self.statements[name].loads
            clusters.insert(0 if not feeding and light else len(clusters), own)
        return clusters

    def join(self, cluster: Cluster, own: Cluster, feeding: Sequence[Flow]) -> Cluster:
        """Both clusters as one, under the loops along which every dependence stays put."""
        between = [f for f in feeding if f.source in cluster.statements]
        (name,) = own.statements
        loops: list[Loop] = []
        free = [loop[name] for loop in own.loops]
        for loop in cluster.loops:
            match = next((i for i in free if self._aligned(between, loop, i)), None)
            if match is not None:
                free.remove(match)
                loops.append({**loop, name: match})
        return Cluster((*cluster.statements, name), tuple(loops))

    def phase(self, clusters: Sequence[Cluster], entered: frozenset[str]) -> Filter:
        """Clusters that do not depend on each other, between two barriers."""
        parts = tuple(Filter(c.statements, self.tiles(c, entered)) for c in clusters)
        names = tuple(n for c in clusters for n in c.statements)
        body = parts[0].child if len(parts) == 1 else InOrder(parts)
        return Filter(names, Mark("phase", body, self.reasons(names)))

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
        loops = cluster.loops
        sizes = tile_sizes(self.program, self.plans, cluster.statements, loops, self.machine)
        children = []
        for name in cluster.statements:
            whole = {loop[name] for loop, size in zip(loops, sizes, strict=True) if size == 1}
            rest = [i for i in self._free(name, entered) if i.name not in whole]
            point = Band(tuple({name: symbol(i.name)} for i in rest), None, (True,) * len(rest))
            children.append(Filter((name,), point if rest else None))
        body: Node = Mark(f"tile {cluster.statements[0]}", InOrder(tuple(children)))
        if not loops:
            return body
        members = tuple(
            {s: symbol(i) // size * size for s, i in loop.items()}
            for loop, size in zip(loops, sizes, strict=True)
        )
        return Band(members, body, (True,) * len(members), permutable=True)

    def _free(self, name: str, entered: frozenset[str]) -> list[Iter]:
        return [i for i in self.statements[name].iters if i.name not in entered]

    def _aligned(self, between: Sequence[Flow], loop: Loop, iterator: str) -> bool:
        """Every source runs in the iteration of `loop` that equals the sink's `iterator`."""
        return all(f.relation.is_subset(self._within(f, loop[f.source], iterator)) for f in between)

    def _within(self, f: Flow, source_iter: str, sink_iter: str) -> isl.Map:
        """The pairs of a dependence whose two iterators are equal."""
        i = self._position(self.statements[f.source], source_iter)
        j = self._position(self.statements[f.sink], sink_iter)
        return f.relation.equate(isl.dim_type.in_, i, isl.dim_type.out, j)

    @staticmethod
    def _position(statement: Statement, iterator: str) -> int:
        return [i.name for i in statement.iters].index(iterator)

    def _keeps_workers_busy(self, joined: Cluster, *parts: Cluster) -> bool:
        """Joining leaves tiles for every worker that a part worth a barrier has tiles for."""
        worth = [self._tiles(p) for p in parts if self._points(p) >= self.machine.worth_a_barrier]
        return self._tiles(joined) >= min(self.threads, max(worth, default=1))

    def _divides_well(self, joined: Cluster, own: Cluster) -> bool:
        """Where few rows do not divide evenly, workers wait for less than a phase of its own costs.

        Seven rows of an image are four for one worker and three for the other; by itself, a
        contraction has columns to divide. What then goes between phases leaves the near caches.
        """
        (name,) = own.statements
        s, rows = self.statements[name], self.plans[name].rows
        extents = {i.name: i.extent for i in s.iters}
        shared = [loop[name] for loop in joined.loops]
        if s.reduce is None or len(shared) == len(own.loops):
            return True
        if not all(extents[i].is_const or extents[i].evaluate(self.hints) == 1 for i in shared):
            return True
        sizes = {i: extents[i].evaluate(self.hints) for i in shared}
        units = prod(-(-n // ROWS) if i == rows else n for i, n in sizes.items())
        idle = -(-units // self.threads) * self.threads / max(units, 1) - 1
        made = {self.statements[n].target for n in joined.statements}
        passed = sum(
            prod(e.evaluate(self.hints) for e in self.program.tensor[load.tensor].shape)
            for load in s.loads
            if load.tensor in made
        )
        cost = self.machine.worth_a_barrier + FAR * passed
        return self._points(own) * idle / self.threads <= cost

    def _points(self, cluster: Cluster) -> int:
        """Scalar evaluations of the cluster at the sizes of the sample inputs."""
        return sum(
            prod(i.extent.evaluate(self.hints) for i in self.statements[name].all_iters)
            for name in cluster.statements
        )

    def _tiles(self, cluster: Cluster) -> int:
        """Independent iterations of the shared loops, at the sizes of the sample inputs."""
        name = cluster.statements[0]
        extents = {i.name: i.extent for i in self.statements[name].iters}
        return prod(extents[loop[name]].evaluate(self.hints) for loop in cluster.loops)
