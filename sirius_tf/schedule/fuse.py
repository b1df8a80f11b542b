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
from sirius_tf.ir.affine import Affine, FloorDiv, symbol
from sirius_tf.ir.program import Iter, Program, Statement
from sirius_tf.poly.dependence import Flow, components
from sirius_tf.schedule.plan import ROWS, choose, work
from sirius_tf.schedule.tile import Loop, grain, iterator, tile_sizes
from sirius_tf.schedule.tree import Band, Filter, Mark, Node
from sirius_tf.schedule.tree import Sequence as InOrder

# A barrier of two workers takes about 0.5 us, in which a core evaluates some thousand points.
WORTH_A_BARRIER = 4096
FAR = 8  # points that are worth an element that is written to, and read from, a far cache
PARTS = ("hoisting", "fusion", "shared phases")  # that can be left out
MOST_REASONS = 3  # that a dumped tree gives for a barrier


@dataclass(frozen=True)
class Cluster:
    """Statements run as one phase under `loops`, the parallel loops that all of them share."""

    statements: tuple[str, ...]
    loops: tuple[Loop, ...]


def fuse(
    program: Program, flows: Sequence[Flow], threads: int, without: Collection[str] = ()
) -> Node:
    """A legal schedule tree of the whole program; `threads` is how many workers want tiles.

    `without` some of PARTS, to see what they are worth.
    """
    fuser = _Fuser(program, flows, threads, without)
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


def _tiled(program: Program) -> dict[str, set[str]]:
    """The iterators of statements along which some user reads by tiles: at floor(h / size)."""
    found: dict[str, set[str]] = {}
    writers = [s for s in program.statements if program.tensor[s.target].role == "temp"]
    for load in (load for s in program.statements for load in s.loads):
        for axis, i in enumerate(load.index):
            match i:
                case Affine(((FloorDiv(), 1),), 0):
                    for s in (s for s in writers if s.target == load.tensor):
                        found.setdefault(s.name, set()).update(s.index[axis].names())
                case _:
                    pass
    return found


class _Fuser:
    def __init__(
        self, program: Program, flows: Sequence[Flow], threads: int, without: Collection[str]
    ) -> None:
        self.program, self.flows, self.without = program, flows, without
        self.carried = set[tuple[str, str, str]]()  # from one iteration to another, as met
        self.statements = {s.name: s for s in program.statements}
        self.plans = {s.name: choose(program, s) for s in program.statements}
        self.hints = program.hints
        self.threads = threads
        self.tiled = _tiled(program)

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
            own = Cluster((name,), tuple({name: symbol(i.name)} for i in self._free(name, entered)))
            feeding = [f for f in flows if f.sink == name]
            sources = {f.source for f in feeding}
            fed = [k for k, c in enumerate(clusters) if sources & set(c.statements)]
            fills = sum(self._is_fill(c) for c in clusters)  # all in front
            last = fed[-1] if fed and fed[-1] >= fills else None
            if last is not None and "fusion" not in self.without:
                joined = self.join(clusters[last], own, feeding)
                busy = self._keeps_workers_busy(joined, clusters[last], own)
                tiled = self.tiled.get(name, set()) <= {iterator(x[name]) for x in joined.loops}
                if joined.loops and busy and tiled and self._divides_well(joined, own):
                    clusters[last] = joined
                    self.adopt(clusters, last)
                    continue
            if self._is_fill(own):
                clusters.insert(0, own)
            elif not feeding and self._points(own) < WORTH_A_BARRIER:
                clusters.insert(fills, own)
            else:
                clusters.append(own)
        return clusters

    def _is_fill(self, cluster: Cluster) -> bool:
        """Whether it is one statement, which needs nothing at all."""
        return len(cluster.statements) == 1 and not self.statements[cluster.statements[0]].loads

    def join(self, cluster: Cluster, own: Cluster, feeding: Sequence[Flow]) -> Cluster:
        """Both clusters as one, under the loops along which every dependence stays put."""
        between = [f for f in feeding if f.source in cluster.statements]
        (name,) = own.statements
        loops: list[Loop] = []
        free = [loop[name] for loop in own.loops]
        for loop in cluster.loops:
            joined = (
                {**{s: v * size for s, v in loop.items()}, name: i}
                for i in free
                for size in (1, *self._quotients(name, iterator(i)))
            )
            match = next((new for new in joined if self._aligned(between, new)), None)
            if match is not None:
                free.remove(match[name])
                loops.append(match)
        return Cluster((*cluster.statements, name), tuple(loops))

    def _quotients(self, name: str, i: str) -> list[int]:
        """The divisors by which a statement divides an iterator in subscripts of temporaries."""
        loads = self.statements[name].loads
        places = [p for x in loads if self.program.tensor[x.tensor].role == "temp" for p in x.index]
        keys = [key for p in places if isinstance(p, Affine) for key, _ in p.terms]
        floors = [key for key in keys if isinstance(key, FloorDiv)]
        return sorted({f.divisor for f in floors if f.numerator == symbol(i)})

    def adopt(self, clusters: list[Cluster], last: int) -> None:
        """Take into a cluster what defines the rest of tensors that nothing else defines or uses.

        Constant borders need nothing, and had clusters of their own. In that of their inside they
        are of one tile, which then can be its worker's own.
        """
        cluster = clusters[last]
        (*others, user), made = cluster.statements, set[str]()
        made.update(self.statements[n].target for n in others)
        for c in filter(self._is_fill, clusters[:]):
            s = self.statements[c.statements[0]]
            leaving = [f for f in self.flows if f.source == s.name]
            if s.target not in made or {f.sink for f in leaving} != {user}:
                continue
            found = [self._with(s.name, loop, leaving) for loop in cluster.loops]
            loops = tuple(loop for loop in found if loop)
            if len(loops) == len(found):
                joined = Cluster((s.name, *cluster.statements), loops)
                clusters[clusters.index(cluster)] = cluster = joined
                clusters.remove(c)

    def _with(self, name: str, loop: Loop, leaving: Sequence[Flow]) -> Loop | None:
        """A loop with the iterator of another source for which its dependences stay put, too."""
        sizes = sorted({1, grain(loop)})
        own = (symbol(i.name) * size for i in self.statements[name].iters for size in sizes)
        joined = ({name: value, **loop} for value in own)
        return next((new for new in joined if self._aligned(leaving, new)), None)

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
        sizes = tile_sizes(self.program, self.plans, cluster.statements, loops, self.threads)
        children = []
        for name in cluster.statements:
            values = [loop[name] for loop in loops]
            whole = [v for v, size in zip(values, sizes, strict=True) if v // size * size == v]
            rest = [i for i in self._free(name, entered) if i.name not in map(iterator, whole)]
            point = Band(tuple({name: symbol(i.name)} for i in rest), None, (True,) * len(rest))
            children.append(Filter((name,), point if rest else None))
        body: Node = Mark(f"tile {cluster.statements[0]}", InOrder(tuple(children)))
        if not loops:
            return body
        members = tuple(
            {s: value // size * size for s, value in loop.items()}
            for loop, size in zip(loops, sizes, strict=True)
        )
        return Band(members, body, (True,) * len(members), permutable=True)

    def _free(self, name: str, entered: frozenset[str]) -> list[Iter]:
        return [i for i in self.statements[name].iters if i.name not in entered]

    def _aligned(self, between: Sequence[Flow], loop: Loop) -> bool:
        """Every source runs in the iteration of `loop`, or the tile of its grain, of its sink."""
        size = grain(loop)
        if size == 1:
            pairs = ((f, iterator(loop[f.source]), iterator(loop[f.sink])) for f in between)
            return all(f.relation.is_subset(self._within(f, i, j)) for f, i, j in pairs)
        return all(f.relation.is_subset(self._in_tile(f, loop, size)) for f in between)

    def _in_tile(self, f: Flow, loop: Loop, size: int) -> isl.Map:
        """The pairs of a source and a sink in the same tile of a loop."""
        source, sink = ([i.name for i in self.statements[s].iters] for s in (f.source, f.sink))
        renamed = {n: symbol(f"{n}_") for n in sink}
        pair = (
            f"{f.source}[{', '.join(source)}] -> {f.sink}[{', '.join(map(str, renamed.values()))}]"
        )
        left, right = loop[f.source] // size, loop[f.sink].substitute(renamed) // size
        return isl.Map(f"{{ {pair} : {left} = {right} }}")

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
        worth = [self._tiles(p) for p in parts if self._points(p) >= WORTH_A_BARRIER]
        return self._tiles(joined) >= min(self.threads, max(worth, default=1))

    def _divides_well(self, joined: Cluster, own: Cluster) -> bool:
        """Where few rows do not divide evenly, workers wait for less than a phase of its own costs.

        Seven rows of an image are four for one worker and three for the other; by itself, a
        contraction has columns to divide. What then goes between phases leaves the near caches.
        """
        (name,) = own.statements
        s, rows = self.statements[name], self.plans[name].rows
        extents = {i.name: i.extent for i in s.iters}
        shared = [iterator(loop[name]) for loop in joined.loops]
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
        cost = WORTH_A_BARRIER + FAR * passed
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
        counts = (
            extents[iterator(loop[name])].evaluate(self.hints)
            * loop[name].coefficient(iterator(loop[name]))
            // grain(loop)
            for loop in cluster.loops
        )
        return prod(counts)
