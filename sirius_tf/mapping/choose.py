# SPDX-License-Identifier: Apache-2.0
"""The choice of a mapping to a GPU, from accesses alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sirius_tf.config import Launch
from sirius_tf.mapping.exchange import exchanges
from sirius_tf.mapping.gpu import GpuMapping, LeafOf, Place, first_of, leaves_of, without_slots
from sirius_tf.mapping.half_weights import in_half, rounded
from sirius_tf.mapping.launch import is_persistent
from sirius_tf.mapping.micro import Micro, Products, Staged, choose_micro, shared_words
from sirius_tf.mapping.residency import NOTHING, place
from sirius_tf.mapping.words import with_words
from sirius_tf.nest.boxes import with_boxes
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.gpu_costs import BYTES_IN_US


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


def _micro(leaves: Iterable[LeafOf]) -> dict[Place, Micro]:
    return {a.place: choose_micro(a.kernel, a.leaf, a.place[-1]) for a in leaves}


def _choose(scheduled: Scheduled, launch: Launch, words: Sequence[str] = ()) -> GpuMapping:
    """The mapping of a program, whose loops `words` have words already."""
    program, machine = scheduled.program, scheduled.machine
    kernel = with_boxes(scheduled)
    leaves = list(leaves_of(kernel, kernel.nest, NOTHING))
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
    leaves = list(leaves_of(kernel, kernel.nest, resident))
    micro = _micro(leaves)
    half: tuple[str, ...] = ()
    if machine.precision == "half":
        known = ((a.leaf.statement, isinstance(micro[a.place], Products)) for a in leaves)
        half = rounded(program, known)
        kernel = in_half(kernel, half)
        micro = _micro(leaves_of(kernel, kernel.nest, resident))
    return GpuMapping(is_persistent(kernel.nest, launch), tuple(words), half, resident, micro)
