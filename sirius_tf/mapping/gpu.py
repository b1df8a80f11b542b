# SPDX-License-Identifier: Apache-2.0
"""The mapping of a scheduled program to a GPU: all that is decided between its loops and its text.

It is a value, chosen from accesses alone; `apply` makes of it what is printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sirius_tf.config import Launch
from sirius_tf.ir.expr import loads
from sirius_tf.mapping.exchange import Exchange, exchanges
from sirius_tf.mapping.half_weights import in_half, rounded
from sirius_tf.mapping.launch import BYTES_IN_US, is_persistent
from sirius_tf.mapping.micro import Micro, Products, Staged, choose_micro, shared_words
from sirius_tf.mapping.residency import NOTHING, Kept, Resident, place
from sirius_tf.mapping.words import with_words
from sirius_tf.nest.boxes import with_boxes
from sirius_tf.nest.coalesce import Leaf, leaf_of
from sirius_tf.nest.nodes import Box, LoopNest, Range, Run, Tile, walk
from sirius_tf.nest.scheduled import Scheduled

Place = tuple[str, tuple[Range, ...], bool]
"""A leaf: its statement, its ranges, and whether it finds constants in shared memory."""


@dataclass(frozen=True)
class GpuMapping:
    """The launch of a region, in one persistent kernel or a graph; the loops, by what they run
    first, whose blocks await words and not each other; constants stored in half precision; what
    stays in shared memory; and the microkernel of each leaf."""

    persistent: bool
    words: tuple[str, ...]
    half: tuple[str, ...]
    resident: Resident
    micro: Mapping[Place, Micro]


@dataclass(frozen=True)
class Mapped:
    """A scheduled program whose loops are those that blocks run, the exchanges of words in them,
    and all else that is decided."""

    kernel: Scheduled
    exchanges: tuple[Exchange, ...]
    mapping: GpuMapping


def choose_mapping(scheduled: Scheduled, launch: Launch = "auto") -> GpuMapping:
    """The mapping of a scheduled program.

    Blocks exchange words in loops where they can, and that is worth it, if what a tile awaits lies
    in shared memory, where it takes the place of constants that are loaded every time then.
    """
    plain, wanted = _choose(scheduled, launch), scheduled.machine.words
    found = exchanges(scheduled) if wanted is not False else ()
    if found := tuple(e for e in found if wanted or e.gain > 0):
        changed, near = with_words(scheduled, found)
        exchanging = _choose(changed, launch, [first_of(scheduled, e) for e in found])
        lost = (plain.resident.constants - exchanging.resident.constants) / BYTES_IN_US
        pays = wanted or lost < min(e.gain for e in found)
        if pays and near <= exchanging.resident.temporaries.keys():
            return exchanging
    return plain


def apply(scheduled: Scheduled, mapping: GpuMapping) -> Mapped:
    """The program and the loops that are printed."""
    found = exchanges(scheduled) if mapping.words else ()
    found = tuple(e for e in found if first_of(scheduled, e) in mapping.words)
    if found:
        scheduled, _ = with_words(scheduled, found)
    scheduled = in_half(without_slots(scheduled, mapping.resident), mapping.half)
    return Mapped(with_boxes(scheduled), found, mapping)


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
    leaves = _leaves(kernel, nest, mapping.resident)
    return max((shared_words(a.kernel, a.leaf, mapping.micro[a.place]) for a in leaves), default=0)


# Leaves


@dataclass(frozen=True)
class _Leaf:
    """A leaf, and the kernel as it is there."""

    place: Place
    leaf: Leaf
    kernel: Scheduled

    @property
    def tensors(self) -> set[str]:
        """The tensors that its function accesses."""
        s = self.leaf.statement
        return {s.target, *(load.tensor for load in (*loads(s.value), *s.finish_loads))}


def _leaves(kernel: Scheduled, nest: LoopNest, resident: Resident) -> Iterator[_Leaf]:
    """The leaves of all tiles, twice where only some tiles find constants in shared memory."""
    statements = {s.name: s for s in kernel.program.statements}
    for tile in (n for n in walk(nest) if isinstance(n, Tile)):
        kept = kept_by(kernel, tile, resident)
        ways = [(with_parts(kernel, kept), True)] if kept else []
        ways += [] if kept and kept.always else [(kernel, False)]
        for box in (n for n in walk(tile) if isinstance(n, Box)):
            s = statements[box.run.statement]
            for own, has in ways:
                yield _Leaf((s.name, box.ranges, has), leaf_of(own, s, box), own)


def _micro(leaves: Iterable[_Leaf]) -> dict[Place, Micro]:
    return {a.place: choose_micro(a.kernel, a.leaf, a.place[-1]) for a in leaves}


def _choose(scheduled: Scheduled, launch: Launch, words: Sequence[str] = ()) -> GpuMapping:
    """The mapping of a program, whose loops `words` have words already."""
    program, machine = scheduled.program, scheduled.machine
    kernel = with_boxes(scheduled)
    leaves = list(_leaves(kernel, kernel.nest, NOTHING))
    micro = _micro(leaves)
    products, copied = set[str](), set[str]()
    for a in leaves:
        products |= a.tensors if isinstance(micro[a.place], Products) else set()
        copied |= a.tensors if isinstance(micro[a.place], Products | Staged) else set()
    words_ = max((shared_words(a.kernel, a.leaf, micro[a.place]) for a in leaves), default=0)
    static = 4 * words_ + 8 * len(program.tensors)
    resident = place(kernel, machine.shared - static, copied, products)
    resident = resident if resident.bytes else NOTHING
    kernel = without_slots(kernel, resident)
    leaves = list(_leaves(kernel, kernel.nest, resident))
    micro = _micro(leaves)
    half: tuple[str, ...] = ()
    if machine.precision == "half":
        known = ((a.leaf.statement, isinstance(micro[a.place], Products)) for a in leaves)
        half = rounded(program, known)
        kernel = in_half(kernel, half)
        micro = _micro(_leaves(kernel, kernel.nest, resident))
    return GpuMapping(is_persistent(kernel.nest, launch), tuple(words), half, resident, micro)
