# SPDX-License-Identifier: Apache-2.0
"""The mapping of a scheduled program to a GPU: all that is decided between its loops and its text.

It is a value. choose.py finds one from accesses alone, text.py prints it and reads it back, and
apply.py checks it and makes of it what is printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sirius_tf.ir.expr import loads
from sirius_tf.mapping.exchange import Exchange
from sirius_tf.mapping.micro import Micro, shared_words
from sirius_tf.mapping.residency import Kept, Resident
from sirius_tf.nest.coalesce import Leaf, leaf_of
from sirius_tf.nest.nodes import Box, LoopNest, Range, Run, Tile, walk
from sirius_tf.nest.scheduled import Scheduled

Place = tuple[str, tuple[Range, ...], bool]
"""A leaf: its statement, its ranges, and whether it finds constants in shared memory."""


@dataclass(frozen=True)
class GpuMapping:
    """The decisions about a region.

    persistent: one kernel runs all of it, and not a graph of kernels.
    words: the loops, by what they run first, whose blocks await words and not each other.
    half: constants that are stored in half precision.
    resident: what stays in shared memory.
    micro: the microkernel of each leaf.
    """

    persistent: bool
    words: tuple[str, ...]
    half: tuple[str, ...]
    resident: Resident
    micro: Mapping[Place, Micro]


def first_of(scheduled: Scheduled, e: Exchange) -> str:
    """The name of a loop: the first statement that it runs."""
    runs = (n.statement for n in walk(scheduled.nest) if isinstance(n, Run))
    return next(name for name in runs if name in e.statements)


def without_slots(kernel: Scheduled, resident: Resident) -> Scheduled:
    """The kernel whose workspace has no room for what lies in shared memory."""
    left = {n: k for n, k in kernel.storage.slots.items() if n not in resident.temporaries}
    numbers = {slot: number for number, slot in enumerate(sorted(set(left.values())))}
    slots = {name: numbers[slot] for name, slot in left.items()}
    return replace(kernel, storage=replace(kernel.storage, slots=slots))


def with_parts(kernel: Scheduled, kept: Kept) -> Scheduled:
    """The kernel of which a block has one tile's parts of constants."""
    private = {**kernel.storage.private, **{p.name: p.window for p in kept.parts}}
    return replace(kernel, storage=replace(kernel.storage, private=private))


def kept_by(kernel: Scheduled, tile: Tile, resident: Resident) -> Kept | None:
    """The constants that a tile finds in shared memory, if it reads one of them."""
    kept = resident.kept.get(tile.cluster)
    if kept is None:
        return None
    names = {n.statement for n in walk(tile) if isinstance(n, Run)}
    read = {x.tensor for s in kernel.program.statements if s.name in names for x in s.loads}
    return kept if read & {part.name for part in kept.parts} else None


def staged_words(kernel: Scheduled, nest: LoopNest, mapping: GpuMapping) -> int:
    """Words of static shared memory of the kernel that runs a part of the nest."""
    leaves = leaves_of(kernel, nest, mapping.resident)
    return max((shared_words(a.kernel, a.leaf, mapping.micro[a.place]) for a in leaves), default=0)


# Leaves


@dataclass(frozen=True)
class LeafOf:
    """A leaf, and the kernel as it is there."""

    place: Place
    leaf: Leaf
    kernel: Scheduled

    @property
    def tensors(self) -> set[str]:
        """The tensors that its function accesses."""
        s = self.leaf.statement
        return {s.target, *(load.tensor for load in (*loads(s.value), *s.finish_loads))}


def leaves_of(kernel: Scheduled, nest: LoopNest, resident: Resident) -> Iterator[LeafOf]:
    """The leaves of all tiles, twice where only some tiles find constants in shared memory."""
    statements = {s.name: s for s in kernel.program.statements}
    for tile in (n for n in walk(nest) if isinstance(n, Tile)):
        kept = kept_by(kernel, tile, resident)
        ways = [(with_parts(kernel, kept), True)] if kept else []
        ways += [] if kept and kept.always else [(kernel, False)]
        for box in (n for n in walk(tile) if isinstance(n, Box)):
            s = statements[box.run.statement]
            for own, has in ways:
                yield LeafOf((s.name, box.ranges, has), leaf_of(own, s, box), own)
