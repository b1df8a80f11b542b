# SPDX-License-Identifier: Apache-2.0
"""Residency: parts of constants, and temporaries of a tile, that stay in a block's shared memory.

    for t:  parallel i by 8:  z[t, i] = sum over k of h[t, k] * u[k, i]
    ->  keep u[:, i] of this block's tiles;  for t:  ... * kept[k, i]

A block has the same tiles in every iteration of a sequential loop where neither their number nor
that of blocks depends on it. A slice of a constant that follows from the tile is then copied once.
That weights of a recurrence stay on chip is the idea of Diamos et al., "Persistent RNNs: Stashing
Recurrent Weights On-Chip" (ICML 2016).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sirius_tf.ir.affine import Affine, affine
from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.expr import Expr
from sirius_tf.ir.program import Statement, Tensor
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
from sirius_tf.schedule.storage import ALIGN, Storage, Window

Along = tuple[str, int] | None  # the loop over tiles that a dimension follows, and a tile's part


@dataclass(frozen=True)
class Part:
    """A slice of tensor `name`: along each dimension the loop over tiles that says where it begins,
    and its size, or None for all of the dimension. Slices lie one after the other from `offset`; if
    places are shared, `offset` is where the part begins in a slice.
    """

    name: str
    along: tuple[Along, ...]
    bytes: int
    offset: int = 0

    @property
    def window(self) -> Window:
        """The sizes alone."""
        return tuple(a and a[1] for a in self.along)


@dataclass(frozen=True)
class Kept:
    """The slices that a block keeps for a cluster of tiles over the sequential loop around: the
    `parts` of its first `count` slices, which loops `over` number, `inner` loops being those that
    share a slice.

    `needed`: all slices that a block has on a full grid.

    Where clusters run beside each other each block has tiles of some of them. Then they share what
    room there is (`Shared`), and a block finds out how many slices it has before the loop.
    """

    over: tuple[str, ...]
    inner: tuple[str, ...]
    parts: tuple[Part, ...]
    count: int
    needed: int
    shared: Shared | None = None

    @property
    def bytes(self) -> int:
        """The size of a slice."""
        return sum(part.bytes for part in self.parts)

    @property
    def always(self) -> bool:
        """Whether there is but one slice, for which there is room."""
        return not self.over and self.shared is None

    @property
    def number(self) -> str:
        """C of which slice of the block's a tile has."""
        if not self.over:
            return "0"
        per = " * ".join(f"{name}_count" for name in self.inner)
        whole = f" / ({per})" if per else ""
        return f"tile{whole} - tiles * mine / blocks{whole}"

    @property
    def begins(self) -> str:
        """C of whether a tile is the first of the block's that has its slice; empty if all are."""
        if not self.inner:
            return ""
        per = " * ".join(f"{name}_count" for name in self.inner)
        first = "tile == tiles * mine / blocks"
        return f"tile % ({per}) == 0 || {first}" if self.over else first

    @property
    def there(self) -> str:
        """C of whether slice number `kept` is there."""
        return f"kept < held[{self.shared.number}][1]" if self.shared else f"kept < {self.count}"


@dataclass(frozen=True)
class Shared:
    """Room from byte `first` to `end` for all clusters of a loop, of which this is a `number`."""

    number: int
    first: int
    end: int


@dataclass(frozen=True)
class Resident:
    """Dynamic shared memory of a kernel's blocks, `bytes` in all: temporaries by their offset, and
    what is kept by cluster."""

    temporaries: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, Kept] = field(default_factory=dict)
    bytes: int = 0

    @property
    def constants(self) -> int:
        """Bytes of what is kept."""
        shared = sum(k.count * k.bytes for k in self.kept.values() if k.shared)
        room = max(
            (k.shared.end - k.shared.first for k in self.kept.values() if k.shared), default=0
        )
        return sum(k.count * k.bytes for k in self.kept.values() if not k.shared) + min(
            shared, room
        )


NOTHING = Resident()


def memory(storage: Storage, resident: Resident) -> dict[str, str]:
    """Names of the memory of tensors of which an element may be where another one was, or one of
    another tensor with that name, in a tile or the next one of its block."""
    names = {name: name for name in storage.windows}
    names |= {n: f"slot{k}" for n, k in storage.slots.items() if n in storage.private}
    return names | {name: f"at {offset}" for name, offset in resident.temporaries.items()}


def place(
    kernel: Scheduled, budget: int, copied: Collection[str], multiplied: Collection[str] = ()
) -> Resident:
    """Allocate `budget` bytes: temporaries first, since they are also written; then of each
    sequential loop the constants of which most bytes are read.

    Not temporaries in `copied`: cp.async copies from device memory alone; nor constants that are
    `multiplied` by matrix units, to which this memory is on the way.
    """
    temporaries, start = _temporaries(kernel, budget, copied)
    kept, end = dict[str, Kept](), start
    for found in candidates(kernel, multiplied):
        chosen, last = (_share if _crowded(found, start, budget) else _choose)(found, start, budget)
        kept |= chosen
        end = max(end, last)
    return Resident(temporaries, kept, end)


def _temporaries(
    kernel: Scheduled, budget: int, copied: Collection[str]
) -> tuple[dict[str, int], int]:
    """Offsets of what one tile alone needs, small slots first, and where they end."""
    members = dict[int, dict[str, int]]()
    for name in kernel.storage.private:
        t = kernel.program.tensor[name]
        slot = members.setdefault(kernel.storage.slots[name], {})
        size = None if name in copied else size_of(t, kernel.storage.shape(t))
        slot[name] = budget + 1 if size is None else size
    offsets, end = dict[str, int](), 0
    for _, slot in sorted(members.items(), key=lambda member: (max(member[1].values()), member[0])):
        size = _aligned(max(slot.values()))
        if end + size <= budget:
            offsets |= dict.fromkeys(slot, end)
            end += size
    return offsets, end


def size_of(t: Tensor, shape: Sequence[Affine]) -> int | None:
    """The size of a part of a tensor, if it is known."""
    if not all(e.is_const for e in shape):
        return None
    return math.prod(e.const for e in shape) * numpy_dtype(t.dtype).itemsize


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


# Where slices are the same in every iteration


def _sequential(nest: LoopNest) -> Iterator[Loop]:
    """The outermost loops around phases."""
    match nest:
        case Loop():
            yield nest
        case Block() | Guard() | When():
            for part in parts_of(nest):
                yield from _sequential(part)


def _pieces(nest: LoopNest) -> Iterator[Loop | Tile]:
    """The outermost loops over tiles, and the single tiles, of all phases inside."""
    for phase in (n for n in walk(nest) if isinstance(n, Phase)):
        yield from pieces(phase.body)


@dataclass(frozen=True)
class Candidate:
    """The slices that could be kept for a cluster: `needed` on all blocks, `most` on half of
    them."""

    cluster: str
    over: tuple[str, ...]
    inner: tuple[str, ...]
    parts: tuple[Part, ...]
    needed: int
    most: int


def candidates(kernel: Scheduled, multiplied: Collection[str]) -> Iterator[list[Candidate]]:
    """For each sequential loop the slices that could be kept; not of constants that are
    `multiplied` by matrix units."""
    whole = Counter(n.cluster for n in walk(kernel.nest) if isinstance(n, Tile))
    for loop in _sequential(kernel.nest):
        found = (_candidate(kernel, p, whole, multiplied) for p in _pieces(loop))
        yield [c for c in found if c is not None]


def _candidate(
    kernel: Scheduled, piece: Loop | Tile, whole: Mapping[str, int], left: Collection[str]
) -> Candidate | None:
    """None if a block's tiles depend on the iteration, or others of the cluster are elsewhere.

    Tensors that are `left` are no parts.
    """
    loops, body = rectangle_of(piece) if isinstance(piece, Loop) else ([], piece)
    params = {p.name for p in kernel.program.params}
    tiles = [n for n in walk(body) if isinstance(n, Tile)]
    cluster = tiles[0].cluster
    if any(t.cluster != cluster for t in tiles) or len(tiles) < whole[cluster]:
        return None
    if any(not bound_names(loop) <= params for loop in loops):
        return None
    parts = [part for part in _parts(kernel, body, loops) if part.name not in left]
    parts.sort(key=lambda part: -part.bytes)
    if not parts:
        return None
    names = _names(parts[0])
    over = tuple(loop.var for loop in loops if loop.var in names)
    inner = tuple(loop.var for loop in loops if loop.var not in names)
    hints = kernel.program.hints
    slices = math.prod(count_of(loop, hints) for loop in loops if loop.var in names)
    inside = 1 if inner else 0  # a share may begin in the middle of a slice
    needed, most = (
        min(slices, -(-slices // blocks) + inside)
        for blocks in (kernel.machine.workers, max(kernel.machine.workers // 2, 1))
    )
    same = tuple(p for p in parts if _names(p) == names)
    return Candidate(cluster, over, inner, same, needed, most)


def _names(part: Part) -> set[str]:
    return {a[0] for a in part.along if a}


def count_of(loop: Loop, hints: Mapping[str, int]) -> int:
    """Iterations on the samples."""
    first = max(t.evaluate(hints) for t in loop.lower.terms)
    end = min(t.evaluate(hints) for t in loop.upper.terms)
    return max(-(-(end - first) // loop.step), 1)


def _parts(kernel: Scheduled, body: LoopNest, loops: Sequence[Loop]) -> Iterator[Part]:
    """The part that a tile reads of each tensor that nobody writes: of all that runs inside of
    `loops`."""
    program, outer = kernel.program, {loop.var: loop for loop in loops}
    statements = {s.name: s for s in program.statements}
    read = dict[str, list[set[Along]]]()
    for run, inner in runs_of(body, {}):
        s = statements[run.statement]
        for load in s.loads:
            t = program.tensor[load.tensor]
            if t.role in ("constant", "input"):
                places = read.setdefault(t.name, [set() for _ in t.shape])
                for place, index in zip(places, load.index, strict=True):
                    place.add(follows(value_in_loops(s, run, index), inner, outer))
    for name, places in read.items():
        t = program.tensor[name]
        along = tuple(p.pop() if len(p) == 1 else None for p in places)
        along = tuple(
            a if a and affine(a[1]) != e else None for a, e in zip(along, t.shape, strict=True)
        )
        shape = [affine(a[1]) if a else e for a, e in zip(along, t.shape, strict=True)]
        if size := size_of(t, shape):
            yield Part(name, along, _aligned(size))


def runs_of(nest: LoopNest, inner: Mapping[str, Loop]) -> Iterator[tuple[Run, Mapping[str, Loop]]]:
    """The statements of a tile, each with the loops around it."""
    if isinstance(nest, Run):
        yield nest, inner
    for part in parts_of(nest):
        yield from runs_of(part, {**inner, nest.var: nest} if isinstance(nest, Loop) else inner)


def value_in_loops(s: Statement, run: Run, index: Affine | Expr) -> Affine | None:
    """A subscript in terms of loops; None if it has others."""
    reduced = {i.name for i in s.reduce.iters} if s.reduce else set[str]()
    if not isinstance(index, Affine) or reduced & set(index.names()):
        return None
    return index.substitute({i.name: v for i, v in zip(s.iters, run.iters, strict=True)})


def follows(value: Affine | None, inner: Mapping[str, Loop], outer: Mapping[str, Loop]) -> Along:
    """The loop over tiles that a subscript goes through a tile of."""
    if str(value) in inner:
        loop = inner[str(value)]
        (value, *more), ends = loop.lower.terms, loop.upper.terms
        step = outer[str(value)].step if str(value) in outer else 0
        if more or value + step not in ends:
            return None
    name = str(value)
    if name not in outer:
        return None
    (first, *more), size = outer[name].lower.terms, outer[name].step
    whole = not more and first.is_const and first.const % size == 0
    return (name, size) if whole else None


def _choose(found: Sequence[Candidate], start: int, budget: int) -> tuple[dict[str, Kept], int]:
    """Choose the slices to keep: as many as half of the blocks would need; or as many as all need,
    or fit, those of most bytes first."""

    def size(c: Candidate, count: int) -> int:
        return count * sum(p.bytes for p in c.parts)

    roomy = start + sum(size(c, c.most) for c in found) <= budget
    kept, end = dict[str, Kept](), start
    for c in sorted(found, key=lambda c: -size(c, c.needed)):
        wanted, parts, count = (c.most if roomy else c.needed), list[Part](), 0
        for part in c.parts:
            fitting = min(count or wanted, (budget - end) // part.bytes)
            if fitting and (not count or fitting == count):
                parts.append(Part(part.name, part.along, part.bytes, end))
                count, end = fitting, end + fitting * part.bytes
        if count:
            kept[c.cluster] = Kept(c.over, c.inner, tuple(parts), count, c.needed)
    return kept, end


def _crowded(found: Sequence[Candidate], start: int, budget: int) -> bool:
    """Whether there is no room for what several clusters may have on each block."""
    most = sum(c.most * sum(p.bytes for p in c.parts) for c in found)
    return len(found) > 1 and start + most > budget


def _share(found: Sequence[Candidate], start: int, budget: int) -> tuple[dict[str, Kept], int]:
    """Room that clusters share, those that come first before others."""
    kept = dict[str, Kept]()
    for c in found:
        parts, size = list[Part](), 0
        for part in c.parts:
            if start + size + part.bytes <= budget:
                parts.append(Part(part.name, part.along, part.bytes, size))
                size += part.bytes
        if parts:
            kept[c.cluster] = Kept(c.over, c.inner, tuple(parts), c.most, c.needed)
    end = min(budget, start + sum(k.count * k.bytes for k in kept.values()))
    rooms = ((name, Shared(number, start, end)) for number, name in enumerate(kept))
    return {name: replace(kept[name], shared=room) for name, room in rooms}, end
