# SPDX-License-Identifier: Apache-2.0
"""Clustering: statements share parallel loops as far as dependences and workers allow; clusters are
convex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import islpy as isl

from sirius_tf.ir.affine import Affine, FloorDiv, symbol
from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.program import Program, Statement, Tiles
from sirius_tf.poly.dependence import Flow, at_distance
from sirius_tf.schedule.cluster import Cluster, Loop, grain, iterator
from sirius_tf.schedule.cpu_costs import FAR, ROWS
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import Plan, work
from sirius_tf.schedule.split_k import stays_apart


def _tiled(program: Program) -> dict[str, set[str]]:
    """The iterators of statements that number the tiles of what they define."""
    found: dict[str, set[str]] = {}
    for s in program.statements:
        layout = program.tensor[s.target].layout
        if isinstance(layout, Tiles):
            found[s.name] = set(s.index[layout.axis].names())
    return found


class Clusterer:
    """Clusters the statements of a program, whose dependences are `flows`, for some workers."""

    def __init__(
        self,
        program: Program,
        flows: Sequence[Flow],
        plans: Mapping[str, Plan],
        machine: Machine,
    ) -> None:
        self.program, self.flows, self.plans = program, flows, plans
        self.machine, self.workers = machine, machine.workers
        self.statements = {s.name: s for s in program.statements}
        self.hints = program.hints
        self.tiled = _tiled(program)
        self.uses = Uses(program)

    def clusters(
        self,
        names: Sequence[str],
        flows: Sequence[Flow],
        entered: frozenset[str],
        fusion: bool = True,
    ) -> list[Cluster]:
        """Greedy convex clustering: a statement joins the latest cluster it can.

        It may join one that no later cluster feeding it depends on; since clusters are kept in
        topological order, that is any from its last producer's on. Joining must leave a loop to
        share, if there was one, and must not cost parallelism that the workers can use. What is
        next to nothing and needs nothing comes first, lest a heavy reader finds it last and shares
        its few loops.
        """
        clusters: list[Cluster] = []
        for name in self.light_first(names, flows):
            free = [i.name for i in self.statements[name].iters if i.name not in entered]
            own = Cluster((name,), tuple({name: symbol(i)} for i in free))
            feeding = [f for f in flows if f.sink == name]
            sources = {f.source for f in feeding}
            fed = [k for k, c in enumerate(clusters) if sources & set(c.statements)]
            fills = sum(self._is_fill(c) for c in clusters)  # all in front
            last = fed[-1] if fed and fed[-1] >= fills else None
            if last is not None and fusion and not self._stays_apart(name):
                joined = self.join(clusters[last], own, feeding)
                busy = self._keeps_workers_busy(joined, clusters[last], own)
                tiled = self.tiled.get(name, set()) <= {iterator(x[name]) for x in joined.loops}
                scalar = fed == [last] and not (own.loops or clusters[last].loops)
                if (joined.loops or scalar) and busy and tiled and self._divides_well(joined, own):
                    clusters[last] = joined
                    self.adopt(clusters, last)
                    continue
            if self._is_fill(own):
                clusters.insert(0, own)
            elif not feeding and self._points(own) < self.machine.worth_a_barrier:
                clusters.insert(fills, own)
            else:
                clusters.append(own)
        return clusters

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

    def _stays_apart(self, name: str) -> bool:
        """Whether blocks divide a sum that it is a part, or the end, of."""
        return self.machine.target == "cuda" and stays_apart(self.uses, self.statements[name])

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
            if s.target not in made:
                continue
            leaving = [f for f in self.flows if f.source == s.name]
            if {f.sink for f in leaving} != {user}:
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

    def _aligned(self, between: Sequence[Flow], loop: Loop) -> bool:
        """Every source runs in the iteration of `loop`, or the tile of its grain, of its sink."""
        size = grain(loop)
        if size == 1:
            pairs = ((f, iterator(loop[f.source]), iterator(loop[f.sink])) for f in between)
            return all(f.relation.is_subset(self.within(f, i, j).relation) for f, i, j in pairs)
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

    def within(self, f: Flow, source_iter: str, sink_iter: str, distance: int = 0) -> Flow:
        """The pairs of a dependence whose second iterator exceeds the first by `distance`."""
        i = self._position(self.statements[f.source], source_iter)
        j = self._position(self.statements[f.sink], sink_iter)
        return at_distance(f, i, j, distance)

    @staticmethod
    def _position(statement: Statement, iterator: str) -> int:
        return [i.name for i in statement.iters].index(iterator)

    def _keeps_workers_busy(self, joined: Cluster, *parts: Cluster) -> bool:
        """Joining leaves tiles for every worker that a part worth a barrier has tiles for."""
        worth = [self._tiles(p) for p in parts if self._points(p) >= self.machine.worth_a_barrier]
        return self._tiles(joined) >= min(self.workers, max(worth, default=1))

    def _divides_well(self, joined: Cluster, own: Cluster) -> bool:
        """Whether workers that idle cost less than a phase of its own, where few rows do not divide
        evenly.

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
        idle = -(-units // self.workers) * self.workers / max(units, 1) - 1
        made = {self.statements[n].target for n in joined.statements}
        passed = sum(
            prod(e.evaluate(self.hints) for e in self.program.tensor[load.tensor].shape)
            for load in s.loads
            if load.tensor in made
        )
        cost = self.machine.worth_a_barrier + FAR * passed
        return self._points(own) * idle / self.workers <= cost

    def _points(self, cluster: Cluster) -> int:
        """Scalar evaluations of the cluster at the sizes of the sample inputs."""
        return sum(
            prod(i.extent.evaluate(self.hints) for i in self.statements[name].all_iters)
            for name in cluster.statements
        )

    def _tiles(self, cluster: Cluster) -> int:
        """Independent iterations of the shared loops, at the sizes of the sample inputs."""
        return prod(self.extents(loop)[0] // grain(loop) for loop in cluster.loops)

    def extents(self, loop: Loop) -> list[int]:
        """For each statement of a loop the number of its iterations, on the sample inputs."""
        found = []
        for name, value in loop.items():
            extents = {i.name: i.extent for i in self.statements[name].iters}
            factor = value.coefficient(iterator(value))
            found.append(extents[iterator(value)].evaluate(self.hints) * factor)
        return found
