# SPDX-License-Identifier: Apache-2.0
"""A mapping to a GPU, checked and applied: the program and the loops that are printed.

A mapping that somebody has edited is as good as one that was chosen, if all of it is possible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from sirius_tf.errors import VerifyError
from sirius_tf.mapping.exchange import Exchange, exchanges
from sirius_tf.mapping.gpu import GpuMapping, first_of, leaves_of, without_slots
from sirius_tf.mapping.half_weights import in_half, rounded
from sirius_tf.mapping.hazards import with_waits
from sirius_tf.mapping.micro import Products, Staged, is_possible, shared_words
from sirius_tf.mapping.residency import Kept, candidates, size_of
from sirius_tf.mapping.words import with_words
from sirius_tf.nest.boxes import with_boxes
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.storage import ALIGN

_Span = tuple[str, int, int]  # bytes of shared memory: whose, where they begin and end


@dataclass(frozen=True)
class Mapped:
    """A scheduled program whose loops are those that blocks run, the exchanges of words in them,
    and all else that is decided."""

    kernel: Scheduled
    exchanges: tuple[Exchange, ...]
    mapping: GpuMapping


def apply(scheduled: Scheduled, mapping: GpuMapping) -> Mapped:
    """The program and the loops that are printed. VerifyError says what is not possible."""
    found = exchanges(scheduled) if mapping.words else ()
    by_name = {first_of(scheduled, e): e for e in found}
    for name in mapping.words:
        if name not in by_name:
            raise VerifyError(f"the loop of {name} needs barriers: words do not say what is there")
    chosen = tuple(by_name[name] for name in mapping.words)
    if chosen:
        scheduled, near = with_words(scheduled, chosen)
        if missing := near - mapping.resident.temporaries.keys():
            raise VerifyError(f"{', '.join(sorted(missing))} must lie in shared memory")
    before = with_boxes(scheduled)
    _check_places(before, mapping)
    _check_half(before, mapping)
    after = in_half(without_slots(before, mapping.resident), mapping.half)
    _check_leaves(after, mapping)
    _check_resident(before, mapping)
    return Mapped(with_waits(after, mapping.resident), chosen, mapping)


def _check_places(kernel: Scheduled, mapping: GpuMapping) -> None:
    """Each leaf has a microkernel."""
    places = {a.place for a in leaves_of(kernel, kernel.nest, mapping.resident)}
    for place in sorted(places ^ mapping.micro.keys(), key=str):
        problem = "without a microkernel" if place in places else "that does not exist"
        raise VerifyError(f"a mapping with a leaf of {place[0]} {problem}")


def _check_leaves(kernel: Scheduled, mapping: GpuMapping) -> None:
    """Microkernels can compute their leaves."""
    for a in leaves_of(kernel, kernel.nest, mapping.resident):
        how = mapping.micro[a.place]
        if not is_possible(a.kernel, a.leaf, how, a.place[-1]):
            raise VerifyError(f"a leaf of {a.place[0]} cannot be computed by {how}")


def _check_half(kernel: Scheduled, mapping: GpuMapping) -> None:
    """Constants lose bits where all that reads them drops these anyway."""
    leaves = leaves_of(kernel, kernel.nest, mapping.resident)
    known = ((a.leaf.statement, isinstance(mapping.micro[a.place], Products)) for a in leaves)
    possible = rounded(kernel.program, known) if kernel.machine.precision == "half" else ()
    if wrong := sorted(set(mapping.half) - set(possible)):
        raise VerifyError(f"{', '.join(wrong)} must keep its precision")


def _check_resident(kernel: Scheduled, mapping: GpuMapping) -> None:
    """Shared memory is large enough, and has room for each thing that is there at a time."""
    resident, leaves = mapping.resident, leaves_of(kernel, kernel.nest, mapping.resident)
    staged, copied, multiplied = 0, set[str](), set[str]()
    for a in leaves:
        how = mapping.micro[a.place]
        staged = max(staged, shared_words(a.kernel, a.leaf, how))
        copied |= a.tensors if isinstance(how, Products | Staged) else set()
        multiplied |= a.tensors if isinstance(how, Products) else set()
    used = resident.bytes + 4 * staged + 8 * len(kernel.program.tensors)
    if used > kernel.machine.shared:
        raise VerifyError(f"a block has {kernel.machine.shared} bytes of memory, and not {used}")
    temporaries = list(_temporaries(kernel, mapping, copied))
    _check_apart(temporaries, resident.bytes)
    known = set[str]()
    for loop in candidates(kernel, multiplied):
        own = list[_Span]()
        for c in (c for c in loop if c.cluster in resident.kept):
            kept = resident.kept[c.cluster]
            known.add(c.cluster)
            parts = {(p.name, p.along, p.bytes) for p in c.parts}
            same = (kept.over, kept.inner) == (c.over, c.inner) and kept.count > 0
            if not same or not {(p.name, p.along, p.bytes) for p in kept.parts} <= parts:
                raise VerifyError(f"tiles of {c.cluster} do not read such slices")
            own += _slices(c.cluster, kept)
        _check_apart([*temporaries, *dict.fromkeys(own)], resident.bytes)
    if unknown := sorted(resident.kept.keys() - known):
        raise VerifyError(f"tiles of {', '.join(unknown)} read no slice that can be kept")


def _temporaries(kernel: Scheduled, mapping: GpuMapping, copied: set[str]) -> Iterator[_Span]:
    """The bytes of slots of temporaries."""
    sizes = dict[tuple[int, int], int]()
    for name, offset in mapping.resident.temporaries.items():
        if name not in kernel.storage.private or name in copied:
            raise VerifyError(f"{name} cannot lie in shared memory")
        t = kernel.program.tensor[name]
        size = size_of(t, kernel.storage.shape(t))
        if size is None or offset % ALIGN:
            raise VerifyError(f"{name} cannot lie at {offset}, or has no known size")
        key = (kernel.storage.slots[name], offset)
        sizes[key] = max(sizes.get(key, 0), size)
    for (slot, offset), size in sizes.items():
        yield f"slot {slot}", offset, offset + size


def _slices(cluster: str, kept: Kept) -> Iterator[_Span]:
    """The bytes that a block keeps for a cluster."""
    if kept.shared:
        yield "room for slices", kept.shared.first, kept.shared.end
        return
    for part in kept.parts:
        yield f"{part.name} of {cluster}", part.offset, part.offset + kept.count * part.bytes


def _check_apart(spans: list[_Span], end: int) -> None:
    for whose, first, last in spans:
        if first < 0 or last > end:
            raise VerifyError(f"{whose} lies beyond the {end} bytes of shared memory")
    for (a, first, last), (b, start, stop) in combinations(spans, 2):
        if first < stop and start < last:
            raise VerifyError(f"{a} and {b} share bytes of shared memory")
