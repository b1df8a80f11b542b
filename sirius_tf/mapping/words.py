# SPDX-License-Identifier: Apache-2.0
"""Loops whose blocks exchange words (mapping/exchange.py): the program.

    for t:  tile i:  h[t + 1, i] = ... h[t, k] ...          h_words: 64 bits for an element
    ->  for t:  tile i:  h_near[t, k] = h_words[t, k];  h[t + 1, i] = ... h_near[t, k] ...

Of what a tile awaits it makes a copy of its own, once, before all else; so a leaf that reads it is
one that reads what its tile has made. Who defines an element stores its word, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Load
from sirius_tf.ir.program import Iter, Program, Statement, Tensor
from sirius_tf.ir.rewrite import fresh, map_loads
from sirius_tf.mapping.exchange import Exchange, Near
from sirius_tf.nest.nodes import Block, Bound, Loop, LoopNest, Run, Tile, map_parts
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.plan import choose
from sirius_tf.schedule.storage import Storage, Words


@dataclass(frozen=True)
class Awaited:
    """The copy of what a tile awaits: its tensor `name` of `count` elements, and the statement that
    makes it."""

    near: Near
    name: str
    statement: Statement
    nest: LoopNest
    count: int


def with_words(kernel: Scheduled, found: Sequence[Exchange]) -> tuple[Scheduled, frozenset[str]]:
    """The kernel of which blocks exchange words in some loops, and the names of the tensors that a
    tile has of others' elements."""
    program, storage = kernel.program, kernel.storage
    taken = program.tensor.keys() | {s.name for s in program.statements}
    names = {x: fresh(f"{x}_words", taken) for e in found for x in e.words}
    awaited = list[Awaited]()
    for e in found:
        for near in e.nears:
            name = fresh(f"{near.tensor}_near{len(awaited)}", taken)
            time = e.words[near.tensor].time
            awaited.append(_awaited(program, near, name, names[near.tensor], time))
    times = {x: one.time for e in found for x, one in e.words.items()}
    tensors = {t.name: t for t in program.tensors}
    more = [replace(tensors[x], name=name, dtype="int64") for x, name in names.items()]
    more += [replace(tensors[a.near.tensor], name=a.name) for a in awaited]
    statements = [_reading(s, awaited) for s in program.statements]
    windows, private = dict(storage.windows), dict(storage.private)
    for e in found:
        for x, one in e.words.items():
            windows[names[x]] = _along(tensors[x], one.time, one.window)
    for a in awaited:
        windows[a.name] = _along(tensors[a.near.tensor], times[a.near.tensor], 1)
        private[a.name] = tuple(part and part[1] for part in a.near.along)
    slots = dict(storage.slots)
    for name in names.values():
        slots[name] = len(set(slots.values()))
    slots |= _shared(awaited, len(set(slots.values())))
    program = replace(
        program,
        tensors=(*program.tensors, *more),
        statements=(*statements, *(a.statement for a in awaited)),
    )
    words = {x: Words(name, times[x]) for x, name in names.items()}
    copies = dict[str, list[LoopNest]]()
    for a in awaited:
        copies.setdefault(a.near.cluster, []).append(a.nest)
    nest = _awaiting(kernel.nest, copies)
    storage = Storage(windows, private, slots, words)
    made = frozenset(a.name for a in awaited)
    own = {a.name: choose(program, a.statement, kernel.machine) for a in awaited}
    plans = {**kernel.plans, **own}
    return replace(kernel, program=program, nest=nest, plans=plans, storage=storage), made


def _shared(awaited: Sequence[Awaited], first: int) -> dict[str, int]:
    """Slots, from number `first` on, of what tiles await: each tile has all of them."""
    slots, clusters = dict[str, int](), dict[str, list[Awaited]]()
    for a in awaited:
        clusters.setdefault(a.near.cluster, []).append(a)
    for found in clusters.values():
        found.sort(key=lambda a: -a.count)
        slots |= {a.name: first + k for k, a in enumerate(found)}
    return slots


def _along(t: Tensor, time: int, count: int) -> tuple[int | None, ...]:
    return tuple(count if k == time else None for k in range(len(t.shape)))


def _awaited(program: Program, near: Near, name: str, words: str, time: int) -> Awaited:
    """The copy of the part of a tensor that a tile awaits, and the loops around it."""
    t = program.tensor[near.tensor]
    iters = tuple(Iter(f"w{k}", extent) for k, extent in enumerate(t.shape))
    index = tuple(symbol(i.name) for i in iters)
    s = Statement(name, iters, name, index, Load(words, index, "int64"))
    values, loops, count = list[Affine](), list[Loop](), 1
    for k, (extent, part) in enumerate(zip(t.shape, near.along, strict=True)):
        if k == time or (part and part[1] == 1):
            values.append(near.at if k == time else symbol(part[0] if part else ""))
            continue
        first = symbol(part[0]) if part else affine(0)
        count *= part[1] if part else extent.const
        divides = part and extent.is_const and extent.const % part[1] == 0
        ends = [] if divides else [extent]
        ends += [first + part[1]] if part else []
        loops.append(Loop(f"w{k}", Bound((first,)), Bound(tuple(ends)), 1, False, Block(())))
        values.append(symbol(f"w{k}"))
    nest: LoopNest = Run(name, tuple(values))
    for loop in reversed(loops):
        nest = replace(loop, body=nest)
    return Awaited(near, name, s, nest, count)


def _reading(s: Statement, awaited: Iterable[Awaited]) -> Statement:
    """The statement that reads what its tile has awaited."""
    places = {
        load: Load(a.name, load.index, load.dtype)
        for a in awaited
        for name, load in a.near.loads
        if name == s.name
    }

    return map_loads(s, {x.tensor for x in places}, lambda x: places.get(x, x))


def _awaiting(nest: LoopNest, copies: dict[str, list[LoopNest]]) -> LoopNest:
    """The loops in which the first tile of each point makes the copies of its cluster."""
    if isinstance(nest, Tile):
        first = copies.pop(nest.cluster, ())
        return replace(nest, body=Block((*first, nest.body))) if first else nest
    return map_parts(nest, lambda part: _awaiting(part, copies))
