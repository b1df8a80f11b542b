# SPDX-License-Identifier: Apache-2.0
"""Hazards: where the threads of a block wait for each other, since one touches what another has
touched.

    tile: m[b] = ...;  e[b, i] = ... m[b] ...
    ->  tile: m[b] = ...;  wait;  e[b, i] = ... m[b] ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from sirius_tf.ir.program import Program
from sirius_tf.mapping.residency import Resident, memory
from sirius_tf.nest.nodes import (
    Block,
    Box,
    Guard,
    Loop,
    LoopNest,
    Phase,
    Run,
    Tile,
    Wait,
    When,
    map_parts,
    rectangle_of,
    walk,
)
from sirius_tf.nest.scheduled import Scheduled


@dataclass(frozen=True)
class Touched:
    """The tensors, by what was done."""

    read: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()

    def __or__(self, other: Touched) -> Touched:
        return Touched(self.read | other.read, self.written | other.written)

    def only(self, names: Iterable[str]) -> Touched:
        """The touched tensors that have some names."""
        return Touched(self.read.intersection(names), self.written.intersection(names))

    def followed_by(self, now: Touched, memory: Mapping[str, str]) -> tuple[Touched, str]:
        """The tensors touched once `now` is, too, and why threads wait before it; "" if they need
        not. A tensor in which other elements may have been has a name in `memory`."""
        made = now.read & self.written
        used = {memory.get(name) for name in self.read | self.written}
        again = {name for name in now.written & memory.keys() if memory[name] in used}
        if not made and not again:
            return self | now, ""
        reasons = [f"other threads may have made {', '.join(sorted(made))}"] if made else []
        reasons += [f"others may still be using {', '.join(sorted(again))}"] if again else []
        return now, "; ".join(reasons)


def touched_by(program: Program, nest: LoopNest) -> Touched:
    """The tensors that the statements inside read and write."""
    names = {n.statement for n in walk(nest) if isinstance(n, Run)}
    found = [s for s in program.statements if s.name in names]
    read = frozenset(load.tensor for s in found for load in s.loads)
    return Touched(read, frozenset(s.target for s in found))


def with_waits(kernel: Scheduled, resident: Resident) -> Scheduled:
    """The kernel in whose tiles threads wait for each other."""
    return replace(kernel, nest=_Waits(kernel, resident).phases(kernel.nest))


class _Waits:
    """The pass, which goes through the nest as the threads of a block do."""

    def __init__(self, kernel: Scheduled, resident: Resident) -> None:
        self.program, self.own = kernel.program, frozenset(kernel.storage.private)
        self.memory = memory(kernel.storage, resident)
        self.touched = Touched()

    def phases(self, nest: LoopNest) -> LoopNest:
        """Behind a phase all threads have waited."""
        if isinstance(nest, Phase):
            self.touched = Touched()
            return replace(nest, body=self.clusters(nest.body))
        return map_parts(nest, self.phases)

    def clusters(self, nest: LoopNest) -> LoopNest:
        """The body of a phase: its tiles are numbered."""
        if isinstance(nest, Loop):
            return self.numbered(nest, len(rectangle_of(nest)[0]))
        return self.tile(nest) if isinstance(nest, Tile) else map_parts(nest, self.clusters)

    def numbered(self, nest: LoopNest, loops: int) -> LoopNest:
        """The loops over the numbers, of which a tile has one point."""
        if loops and isinstance(nest, Loop):
            return replace(nest, body=self.numbered(nest.body, loops - 1))
        return self.inside(nest)

    def inside(self, nest: LoopNest) -> LoopNest:
        """Loops of a phase that are not numbered, down to the tile; and inside of it."""
        match nest:
            case Tile():
                return self.tile(nest)
            case Loop() | Guard() | When():
                return self.control(nest, self.inside)
            case Box():
                return self.waiting(touched_by(self.program, nest), lambda: nest)
        return map_parts(nest, self.inside)

    def tile(self, tile: Tile) -> Tile:
        """The tile before it may still be using what a block has for one tile at a time, and
        another piece of its cluster may have come before."""
        before, used = self.touched, touched_by(self.program, tile)
        self.touched = before | used.only(self.own)
        body = self.inside(tile.body)
        self.touched = before | used  # a block may have no tile
        return replace(tile, body=body)

    def control(
        self, nest: Loop | Guard | When, of_part: Callable[[LoopNest], LoopNest]
    ) -> LoopNest:
        """The body may follow itself, or what was before; nothing is known to be over after it."""
        conditions = {g.condition.tensor for g in nest.guards} if isinstance(nest, When) else set()

        def body() -> LoopNest:
            around = self.touched | touched_by(self.program, nest)

            def part(one: LoopNest) -> LoopNest:
                self.touched = around
                return of_part(one)

            made = map_parts(nest, part)
            self.touched = around
            return made

        return self.waiting(Touched(frozenset(conditions)), body)

    def waiting(self, now: Touched, then: Callable[[], LoopNest]) -> LoopNest:
        """The node, after a wait if what it touches now was touched by other threads."""
        self.touched, reason = self.touched.followed_by(now, self.memory)
        return Block((Wait(reason), then())) if reason else then()
