# SPDX-License-Identifier: Apache-2.0
"""Exchange of words: sequential loops whose phases need no barrier, since blocks await single
elements.

    for t:  parallel i by 8:  h[t + 1, i] = sum over k of h[t, k] * u[k, i];  barrier
    ->  for t:  parallel i by 8:  await all words of h[t];  ...;  publish the words of h[t + 1]

A word is an element beside a tag, which says which one it is. Who needs it looks until it is there:
an I-structure (Arvind, Nikhil and Pingali, "I-Structures: Data Structures for Parallel Computing",
TOPLAS 1989), with as many presence bits as make a tag.

Accesses decide. A block has the same tiles in every iteration, so each tensor that a loop writes is
one of these, or all barriers of the loop stay:
- private to a tile;
- owned: all of its elements at one place are accessed by one tile, and hence in the order of a
  block's program. A place is what subscripts say but for that along time;
- all kept, and read by nobody in the loop;
- exchanged: the place is owned by the tile that writes it, and others read words of it.

Blocks poll for what earlier phases, or iterations, define, and publish before they poll again, so
that the one that is furthest behind never waits. Once in EVERY iterations there is a barrier, and
there are slots for EVERY + delay times, if iteration t reads what t - delay has defined at most.
So a word is overwritten EVERY iterations after the last one that reads it, behind a barrier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Load
from sirius_tf.ir.program import Statement, Tensor
from sirius_tf.mapping.launch import is_straight
from sirius_tf.mapping.residency import Along, count_of, follows, runs_of, value_in_loops
from sirius_tf.nest.nodes import (
    Block,
    Guard,
    Loop,
    LoopNest,
    Phase,
    Run,
    Tile,
    When,
    bound_names,
    parts_of,
    pieces,
    rectangle_of,
    walk,
)
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.gpu_costs import AWAIT_US, BARRIER_US, MOST_WORDS

EVERY = 16  # iterations to a barrier
AT_ONCE = 4  # words that a thread looks for before it needs one of them
_EXCHANGED = ("float32", "int32")  # elements that leave room for a tag


@dataclass(frozen=True)
class Near:
    """The remote footprint of a tile of a cluster: the elements of a tensor at the time `at` that
    it awaits. Along each dimension they are its tile's part of a loop, or all; along time, None.
    `loads`: by which statements, and how."""

    cluster: str
    tensor: str
    at: Affine
    along: tuple[Along, ...]
    loads: tuple[tuple[str, Load], ...]


@dataclass(frozen=True)
class Exchanged:
    """A tensor that has words: `window` times along dimension `time`; those `before` the loop are
    published where they are defined."""

    time: int
    window: int
    before: tuple[int, ...]


@dataclass(frozen=True)
class Exchange:
    """A loop of which the phases end without a barrier, by its iterator and its statements; `gain`:
    microseconds that an iteration is shorter, on the samples."""

    var: str
    statements: frozenset[str]
    words: Mapping[str, Exchanged]
    nears: tuple[Near, ...]
    gain: float


def exchanges(kernel: Scheduled) -> tuple[Exchange, ...]:
    """The loops of a persistent kernel, each of which runs once, that need no barriers."""
    found = (_Finder(kernel, loop).exchange() for loop in _loops(kernel.nest))
    return tuple(e for e in found if e)


def _loops(nest: LoopNest) -> Iterator[Loop]:
    match nest:
        case Loop():
            yield nest
        case Block() | Guard():
            for part in parts_of(nest):
                yield from _loops(part)


@dataclass(frozen=True)
class _Access:
    """An access by the tiles of a cluster, in a phase.

    Known are subscripts in terms of loops (None: of what is reduced, or of data), the loops over
    tiles that they follow, and whether these are all.
    """

    s: Statement
    cluster: str
    phase: int
    load: Load | None  # None: it is the definition
    index: tuple[Affine | None, ...]
    along: tuple[Along, ...]
    whole: bool  # whether the subscripts follow every loop over tiles

    @property
    def place(self) -> tuple[str, tuple[Along, ...]]:
        """Accesses with the same are by one tile, if that is the tile of an element's place."""
        return self.cluster, self.along

    def is_of(self, other: _Access) -> bool:
        """Whether an element's place says which tile both accesses are of, and it is the same."""
        return self.whole and other.whole and self.place == other.place


class _Finder:
    def __init__(self, kernel: Scheduled, loop: Loop) -> None:
        self.kernel, self.loop, self.program = kernel, loop, kernel.program
        self.statements = {s.name: s for s in self.program.statements}
        self.inside = {n.statement for n in walk(loop) if isinstance(n, Run)}
        self.nears = list[Near]()
        self.tiles = dict[str, int]()  # of each cluster, on the samples

    def exchange(self) -> Exchange | None:
        """None if a barrier is needed."""
        accesses = self.accesses() if self.is_plain() else None
        if accesses is None:
            return None
        by_tensor = dict[str, list[_Access]]()
        for access in accesses:
            name = access.load.tensor if access.load else access.s.target
            by_tensor.setdefault(name, []).append(access)
        words = dict[str, Exchanged]()
        for name, own in by_tensor.items():
            if all(a.load for a in own) or name in self.kernel.storage.private:
                continue  # a constant to the loop, or a worker's own
            if self.is_owned(self.program.tensor[name], own):
                continue
            if (found := self.exchanged(self.program.tensor[name], own)) is None:
                return None
            words[name] = found
        statements = frozenset(self.inside)
        return Exchange(self.loop.var, statements, words, tuple(self.nears), self.gain(words))

    def gain(self, words: Mapping[str, Exchanged]) -> float:
        """The microseconds that an iteration is shorter: barriers saved, less the time to await
        words; 0 if the words leave the cache."""
        steps = max(count_of(self.loop, self.program.hints), 1)
        phases = sum(isinstance(n, Phase) for n in walk(self.loop))
        saved = phases - (1 + (steps // EVERY if words else 0)) / steps
        machine, turns = self.kernel.machine, 0
        for near in self.nears:
            count = self.elements(near.tensor, words[near.tensor].time, near.along)
            turns += self.tiles[near.cluster] * -(-count // (machine.threads * AT_ONCE))
        awaited = -(-turns // machine.workers)
        size = sum(8 * x.window * self.elements(name, x.time) for name, x in words.items())
        return saved * BARRIER_US - awaited * AWAIT_US if size <= MOST_WORDS else 0.0

    def elements(self, name: str, time: int, along: Sequence[Along] = ()) -> int:
        """The elements of a tensor at one time, or of the part of it that tiles have, on the
        samples."""
        sizes = [extent.evaluate(self.program.hints) for extent in self.program.tensor[name].shape]
        for k, part in enumerate(along):
            sizes[k] = part[1] if part else sizes[k]
        return prod(size for k, size in enumerate(sizes) if k != time)

    def is_plain(self) -> bool:
        """Whether the loop is one that counts, around phases alone, which have all of their
        statements, and what decides control is the same in all of it."""
        loop, nest = self.loop, self.kernel.nest
        around = [n for n in walk(nest) if isinstance(n, Run) and n.statement in self.inside]
        within = [n for n in walk(loop) if isinstance(n, Run)]
        made = {self.statements[n].target for n in self.inside}
        known = {p.name for p in self.program.params}
        return (
            loop.go is None
            and loop.step == 1
            and bound_names(loop) <= known
            and len(around) == len(within)
            and made.isdisjoint(self.program.conditions)
            and is_straight(loop.body)
        )

    # Accesses

    def accesses(self) -> list[_Access] | None:
        """All of the loop; None if tiles depend on the iteration."""
        found = list[_Access]()
        params = {p.name for p in self.program.params}
        whole = Counter(n.cluster for n in walk(self.kernel.nest) if isinstance(n, Tile))
        for number, phase in enumerate(n for n in walk(self.loop) if isinstance(n, Phase)):
            for piece in pieces(phase.body):
                loops, body = rectangle_of(piece) if isinstance(piece, Loop) else ([], piece)
                clusters = _clusters(body)
                if clusters is None or len(set(clusters)) > 1 or whole[clusters[0]] > len(clusters):
                    return None  # tiles of one piece are one block's
                if any(not bound_names(loop) <= params for loop in loops):
                    return None
                counts = (count_of(loop, self.program.hints) for loop in loops)
                self.tiles[clusters[0]] = prod(counts)
                found += self.of_tile(body, clusters[0], loops, number)
        return found

    def of_tile(
        self, body: LoopNest, cluster: str, loops: Sequence[Loop], phase: int
    ) -> Iterator[_Access]:
        """The accesses at one point of the loops over tiles."""
        outer = {loop.var: loop for loop in loops}
        for run, inner in runs_of(body, {}):
            s = self.statements[run.statement]
            for load in (None, *s.loads):
                subscripts = load.index if load else s.index
                index = tuple(value_in_loops(s, run, i) for i in subscripts)
                along = tuple(follows(value, inner, outer) for value in index)
                all_followed = outer.keys() == {a[0] for a in along if a}
                yield _Access(s, cluster, phase, load, index, along, all_followed)

    # What a tensor is

    def is_owned(self, t: Tensor, own: Sequence[_Access]) -> bool:
        """Whether only one tile accesses a place of it, or nobody reads what has its own place."""
        folded = [w is not None for w in self.kernel.storage.window(t)]
        if not any(folded) and not any(a.load for a in own):
            return True
        moved = any(f and a for access in own for f, a in zip(folded, access.along, strict=True))
        return not moved and all(a.is_of(own[0]) for a in own)

    def exchanged(self, t: Tensor, own: Sequence[_Access]) -> Exchanged | None:
        """The words of a tensor; None if it is none that can have some."""
        writes = [a for a in own if a.load is None]
        write, var = writes[0], self.loop.var
        times = [k for k, i in enumerate(write.index) if i is not None and var in i.names()]
        if len(writes) > 1 or len(times) != 1 or t.dtype not in _EXCHANGED or t.role != "temp":
            return None
        (time,) = times
        folded = {k for k, w in enumerate(self.kernel.storage.window(t)) if w is not None}
        made = _shift(write.index[time], var)
        if made is None or not write.whole or not folded <= {time}:
            return None
        if not _defines_all(write.s, t, time):
            return None
        delays, others = [0], [a for a in own if a.load and not a.is_of(write)]
        for read in others:
            shift = _shift(read.index[time], var)
            if shift is None or (made, read.phase) <= (shift, write.phase):
                return None
            delays.append(made - shift)
            if not self.await_in_tile(t, time, read, others):
                return None
        window, before = EVERY + max(delays), self.before(t, time)
        if before is None or any(not 0 <= at < window for at in before):
            return None
        return Exchanged(time, window, before)

    def await_in_tile(self, t: Tensor, time: int, read: _Access, others: Sequence[_Access]) -> bool:
        """Notes what a tile awaits of a tensor; false if that has no known size, or the tile may
        need none of it."""
        at, reduce = read.index[time], read.s.reduce
        assert at is not None
        if reduce and not all(i.extent.is_const for i in reduce.iters):
            return False
        same = [a for a in others if (a.cluster, a.index[time]) == (read.cluster, at)]
        along = list[Along]()
        for k, extent in enumerate(t.shape):
            (first, *more) = {a.along[k] for a in same}
            part = None if more or k == time or (first and affine(first[1]) == extent) else first
            if part is None and k != time and not extent.is_const:
                return False
            along.append(part)
        tiles = (n for n in walk(self.loop) if isinstance(n, Tile) and n.cluster == read.cluster)
        if any(isinstance(n, Guard | When) for tile in tiles for n in walk(tile)):
            return False
        loads = tuple((a.s.name, a.load) for a in same if a.load)
        near = Near(read.cluster, t.name, at, tuple(along), loads)
        if near not in self.nears:
            self.nears.append(near)
        return True

    def before(self, t: Tensor, time: int) -> tuple[int, ...] | None:
        """The times that are defined before the loop, each at one point of the program that is
        always run, and all of it; None if something else defines more."""
        found = list[int]()
        early = _runs_before(self.kernel.nest, self.loop)
        for s in self.program.statements:
            if s.target == t.name and s.name not in self.inside:
                at = s.index[time]
                if not at.is_const or s.name not in early or not _defines_all(s, t, time):
                    return None
                found.append(at.const)
        return tuple(sorted(found))


def _clusters(nest: LoopNest) -> list[str] | None:
    """The clusters of tiles that run one after the other; None if there is something else."""
    if isinstance(nest, Tile):
        return [nest.cluster]
    parts = [_clusters(part) for part in nest.parts] if isinstance(nest, Block) else [None]
    return None if None in parts else [name for part in parts if part for name in part]


def _shift(value: Affine | None, var: str) -> int | None:
    """The number of iterations that a subscript is ahead of its own; None if that is not
    constant."""
    ahead = None if value is None else value - symbol(var)
    return ahead.const if ahead is not None and ahead.is_const else None


def _defines_all(s: Statement, t: Tensor, time: int) -> bool:
    """Whether a statement defines all elements of a time, wherever it defines one: who awaits more
    than it needs must not wait for ever."""
    extents = {i.name: i.extent for i in s.iters}
    rest = [(i, e) for k, (i, e) in enumerate(zip(s.index, t.shape, strict=True)) if k != time]
    names = [str(i) for i, _ in rest]
    distinct = len(set(names)) == len(names) and not set(names) & set(s.index[time].names())
    return not s.guards and distinct and all(extents.get(str(i)) == e for i, e in rest)


def _runs_before(nest: LoopNest, loop: Loop) -> set[str]:
    """The statements of phases that run before a loop, whatever parameters and data are."""
    if not isinstance(nest, Block):
        return set()
    found = set[str]()
    for part in nest.parts:
        if any(n is loop for n in walk(part)):
            return found
        if isinstance(part, Phase) and not any(isinstance(n, Guard | When) for n in walk(part)):
            found |= {n.statement for n in walk(part) if isinstance(n, Run)}
    return set()
