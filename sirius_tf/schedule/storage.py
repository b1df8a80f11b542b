# SPDX-License-Identifier: Apache-2.0
"""Storage folding: how many elements of a tensor are alive at once along each dimension.

    h[t + 1, b, j] from h[t, b, j], T steps   ->   h kept as h[t mod 2, b, j]

Time is counted in phases: inside one, workers run in no known order. The window of a dimension is
found after those before it (Lefebvre and Feautrier 1998, "successive modulo").
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import islpy as isl

from sirius_tf.errors import Unsupported
from sirius_tf.ir.affine import Affine, affine
from sirius_tf.ir.program import Program, Tensor
from sirius_tf.poly.scop import Scop
from sirius_tf.schedule.tree import Band, Filter, Node, Phase, Sequence, Tile

ALIGN = 64  # bytes, of every array in the workspace and among the weights

_Tile = Mapping[str, tuple[Affine, ...]]  # by statement: values of the loops around
Window = tuple[int | None, ...]  # per dimension: slots kept, or None for all of them


@dataclass(frozen=True)
class Words:
    """The tensor `name` of int64: the bits of an element below a tag, which is one more than the
    subscript along dimension `time`."""

    name: str
    time: int


@dataclass(frozen=True)
class Storage:
    """The places of temporaries. Element i of a dimension lies in slot i mod w of its window; of a
    tensor in `private`, every worker has a copy, which starts where its tile does.

    Tensors with one number in `slots` share memory. What is stored to a tensor in `words` is also
    stored there.
    """

    windows: Mapping[str, Window] = field(default_factory=dict)
    private: Mapping[str, Window] = field(default_factory=dict)
    slots: Mapping[str, int] = field(default_factory=dict)
    words: Mapping[str, Words] = field(default_factory=dict)

    def window(self, t: Tensor) -> Window:
        """Slots along each dimension."""
        return self.windows.get(t.name, (None,) * len(t.shape))

    def tile(self, t: Tensor) -> Window:
        """The part of a tile along each dimension, where it starts with the tile."""
        return self.private.get(t.name, (None,) * len(t.shape))

    def shape(self, t: Tensor) -> tuple[Affine, ...]:
        """The shape of what is kept."""
        kept = zip(t.shape, self.window(t), self.tile(t), strict=True)
        return tuple(affine(w or n or extent) for extent, w, n in kept)


def phase_times(
    node: Node | None, prefix: tuple[Affine, ...] = ()
) -> dict[str, tuple[Affine, ...]]:
    """The time of each statement's phase: positions in sequences and values of sequential loops."""
    match node:
        case Sequence(children):
            times: dict[str, tuple[Affine, ...]] = {}
            for k, child in enumerate(children):
                times |= phase_times(child, (*prefix, affine(k)))
            return times
        case Filter(statements, Phase()):
            return dict.fromkeys(statements, prefix)
        case Filter(statements, None):
            return dict.fromkeys(statements, prefix)
        case Filter(_, child):
            return phase_times(child, prefix)
        case Band(members, child):
            inner = phase_times(child, prefix)
            start = len(prefix)
            return {s: (*t[:start], *(m[s] for m in members), *t[start:]) for s, t in inner.items()}
        case Phase(child) | Tile(child):
            return phase_times(child, prefix)
        case None:
            return {}


def windows(
    program: Program, scop: Scop, root: Node, updates: Collection[str] = ()
) -> dict[str, Window]:
    """Slots that each temporary needs; tensors that need all of theirs are left out.

    An instance of a statement of `updates` may store where it loads.

    Unsupported if one needs a slot for every iteration of a loop whose length nothing bounds.
    """
    times = time_maps(scop, root)
    found = {}
    unlimited = {p.name for p in program.params if p.unlimited}
    for tensor in program.tensors:
        if tensor.role == "temp" and tensor.name in scop.shapes:
            window = _smaller(_window(scop, root, times, tensor.name, updates), tensor.shape)
            endless = [unlimited & set(extent.names()) for extent in tensor.shape]
            if tensor.name in program.conditions:  # one more: workers look between phases
                pairs = zip(window, endless, strict=True)
                window = tuple(w + 1 if w is not None and e else None for w, e in pairs)
            if any(w is None and e for w, e in zip(window, endless, strict=True)):
                why = f"all iterations of {tensor.name} are needed, and nothing bounds their number"
                raise Unsupported(tensor.name, "While", why)
            if any(w is not None for w in window):
                found[tensor.name] = window
    return found


def slots(program: Program, root: Node, own: Mapping[str, Window] | None = None) -> dict[str, int]:
    """A number per temporary; those that share one are never alive in the same phase.

    Private ones (`own`) only share with each other, that a worker's copies lie together.

    Life is counted in children of the outermost sequence: all of a loop is one of them. What
    decides what runs shares with nothing: workers look at it between phases.
    """
    when = {s: int(time[0].const) for s, time in phase_times(root).items()}
    life: dict[str, tuple[int, int]] = {}
    for s in program.statements:
        for name in {s.target, *(load.tensor for load in program.needs(s))}:
            first, last = life.get(name, (when[s.name], when[s.name]))
            life[name] = (min(first, when[s.name]), max(last, when[s.name]))
    life |= dict.fromkeys(program.conditions & life.keys(), (0, len(life) + len(when)))
    ends: list[int] = []  # of the last tensor in each slot
    sizes: list[int] = []
    shared: list[bool] = []  # whether it holds tensors of all workers
    found: dict[str, int] = {}
    temps = [t for t in program.tensors if t.role == "temp" and t.name in life]
    for t in sorted(temps, key=lambda t: life[t.name]):
        copies = t.name in (own or {})
        kept = Storage(private=own or {}).shape(t)
        size = prod(e.evaluate(program.hints) for e in kept)
        free = [k for k, end in enumerate(ends) if end < life[t.name][0] and shared[k] != copies]
        if not free:
            free = [len(ends)]
            ends.append(0)
            sizes.append(size)
            shared.append(not copies)
        best = min(free, key=lambda k: (abs(sizes[k] - size), k))
        found[t.name], ends[best] = best, life[t.name][1]
        sizes[best] = max(sizes[best], size)
    return found


def storage_maps(
    scop: Scop, folded: Mapping[str, Window], own: Mapping[str, Window] | None = None
) -> dict[str, isl.Map]:
    """Each window as a map { T[...] -> T[... mod window ...] } for `check_reflow`.

    One worker's copy of a private tensor is folded like any other.
    """
    found = {}
    own = own or {}
    for name in folded.keys() | own.keys():
        rank = scop.shapes[name].dim(isl.dim_type.set)
        axes = [f"o{k}" for k in range(rank)]
        none = (None,) * rank
        pairs = zip(folded.get(name, none), own.get(name, none), strict=True)
        sizes = [w or n for w, n in pairs]
        kept = [a if n is None else f"{a} mod {n}" for a, n in zip(axes, sizes, strict=True)]
        found[name] = isl.Map(f"{{ {name}[{', '.join(axes)}] -> {name}[{', '.join(kept)}] }}")
    return found


def time_maps(scop: Scop, root: Node) -> dict[str, isl.Map]:
    """The times of phases as maps { S[i] -> [time] }, all of one length."""
    times = phase_times(root)
    length = max(map(len, times.values()), default=0)
    zero = affine(0)
    return {
        name: _map(scop, name, (*time, *[zero] * (length - len(time))))
        for name, time in times.items()
    }


def _map(scop: Scop, name: str, values: tuple[Affine, ...]) -> isl.Map:
    """{ S[i] -> [values] }."""
    domain = scop.domains[name]
    rank = domain.dim(isl.dim_type.set)
    dims = [str(domain.get_dim_name(isl.dim_type.set, k)) for k in range(rank)]
    text = f"{{ {name}[{', '.join(dims)}] -> [{', '.join(map(str, values))}] }}"
    return isl.Map(text).intersect_domain(domain)


def _window(
    scop: Scop,
    root: Node,
    times: Mapping[str, isl.Map],
    tensor: str,
    updates: Collection[str],
) -> Window:
    """Two elements conflict if each is defined no later than the phase of the other's last use,
    or earlier in it where a statement of `updates` defines the tensor."""
    defined = _touched(times, {s: (w,) for s, w in scop.writes.items()}, tensor)
    used = _touched(times, scop.reads, tensor)
    if defined is None:
        return (None,) * scop.shapes[tensor].dim(isl.dim_type.set)
    last = (used.union(defined) if used is not None else defined).lexmax()
    own = [s for s in updates if _of(scop.writes[s]) == tensor]
    order = isl.Map.lex_lt if own else isl.Map.lex_le
    reaches = defined.apply_range(order(defined.get_space().range())).apply_range(last.reverse())
    if own:
        for pairs in at_once(scop, root, tensor, own, after=True):
            reaches = reaches.union(pairs)
    deltas = reaches.intersect(reaches.reverse()).deltas()
    rank = scop.shapes[tensor].dim(isl.dim_type.set)
    window: list[int | None] = [None] * rank
    # x[t + 1, i] and x[t, k] are in one phase: they have slots of their own along i, none along t
    for k in reversed(range(rank)) if own else range(rank):
        bound = deltas.dim_max_val(k)
        window[k] = bound.to_python() + 1 if bound.is_int() else None
        # elements that differ here have slots of their own now
        deltas = deltas.fix_val(isl.dim_type.set, k, isl.Val(0))
    return tuple(window)


def _smaller(window: Window, shape: tuple[Affine, ...]) -> Window:
    """The window without what is no less than all of a dimension."""
    return tuple(
        None if w is not None and extent.is_const and w >= extent.const else w
        for w, extent in zip(window, shape, strict=True)
    )


def _touched(
    times: Mapping[str, isl.Map], accesses: Mapping[str, tuple[isl.Map, ...]], tensor: str
) -> isl.Map | None:
    """{ T[...] -> [time] } of all accesses to `tensor`."""
    found: isl.Map | None = None
    for statement, maps in accesses.items():
        for access in maps:
            if _of(access) == tensor:
                touch = access.reverse().apply_range(times[statement])
                found = touch if found is None else found.union(touch)
    return found


def at_once(
    scop: Scop, root: Node, tensor: str, updates: Collection[str], after: bool
) -> Iterator[isl.Map]:
    """{ T[e] -> T[f] }: in the phase that defines e, f is defined or read, in no known order; with
    `after`, or later.

    A worker runs the statements of a tile in order. An instance of a statement of `updates` reads
    before it defines.
    """
    times, tiles = time_maps(scop, root), _tiles(root)
    writers = {s: w for s, w in scop.writes.items() if _of(w) == tensor}
    accesses = [(s, r) for s, reads in scop.reads.items() for r in reads if _of(r) == tensor]
    for s, write in writers.items():
        tile = tiles.get(s, {s: ()})
        order = list(tile)
        for other, access in (*writers.items(), *accesses):
            pairs = times[s].apply_range(times[other].reverse())
            if s == other and s in updates:
                pairs = pairs.subtract(isl.Map.identity(pairs.get_space()))
            known = other in tile and other != s
            if known and not (after and order.index(other) > order.index(s)):
                here, there = (_map(scop, name, tile[name]) for name in (s, other))
                pairs = pairs.subtract(here.apply_range(there.reverse()))
            yield write.reverse().apply_range(pairs).apply_range(access)


def _tiles(node: Node | None, loops: tuple[Mapping[str, Affine], ...] = ()) -> dict[str, _Tile]:
    """For each statement those of its tile, in order, and the place of the tile among others."""
    match node:
        case Sequence(children):
            return {s: tile for child in children for s, tile in _tiles(child, loops).items()}
        case Tile(Sequence(children)):
            names = [s for child in children for s in child.statements]
            tile = {s: tuple(loop[s] for loop in loops) for s in names}
            return dict.fromkeys(names, tile)
        case Band(members, child):
            return _tiles(child, (*loops, *members))
        case Filter(_, child) | Phase(child):
            return _tiles(child, loops)
    return {}


def _of(access: isl.Map) -> str:
    """The tensor that is accessed."""
    return access.get_tuple_name(isl.dim_type.out)
