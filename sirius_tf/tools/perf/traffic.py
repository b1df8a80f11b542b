# SPDX-License-Identifier: Apache-2.0
"""Traffic of a call of a scheduled program, on the samples: phases, bytes moved, bytes kept."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from sirius_tf.ir.affine import Affine
from sirius_tf.ir.order import Interval, interval
from sirius_tf.nest.nodes import Loop, LoopNest, Phase, Run, parts_of, walk
from sirius_tf.nest.scheduled import Scheduled

_NO_LOOPS: Mapping[str, int] = {}


@dataclass(frozen=True)
class Executed:
    """A phase, how often a call executes it, and the first iteration of each loop around it."""

    phase: Phase
    times: int
    first: Mapping[str, int]


def phases(
    nest: LoopNest, hints: Mapping[str, int], times: int = 1, first: Mapping[str, int] = _NO_LOOPS
) -> Iterator[Executed]:
    """Every phase; loops run as often, and branches are taken, as counters alone say."""
    if isinstance(nest, Phase):
        yield Executed(nest, times, first)
        return
    if isinstance(nest, Loop):
        lower = nest.lower.terms[0].evaluate(hints)
        times *= nest.upper.terms[0].evaluate(hints) - lower
        first = {**first, nest.var: lower}
    for part in parts_of(nest):
        yield from phases(part, hints, times, first)


def moved(scheduled: Scheduled, executed: Executed) -> int:
    """Bytes of the elements that a phase reads or writes, each once; none of what stays in a tile.

    The elements of a tensor are taken to fill a box. Where data decides on a subscript, they are no
    more than are accessed.
    """
    program, private = scheduled.program, scheduled.storage.private
    by_name = {s.name: s for s in program.statements}
    boxes, accessed = dict[str, list[Interval]](), defaultdict[str, int](int)
    for run in (n for n in walk(executed.phase) if isinstance(n, Run)):
        s = by_name[run.statement]
        ranges = {name: _once(n) for name, n in program.hints.items()}
        ranges |= {i.name: _all(i.extent, program.hints) for i in s.all_iters}
        known = {**program.hints, **executed.first}
        for i, value in zip(s.iters, run.iters, strict=True):
            if known.keys() >= set(value.names()):  # a loop's, or there is only one
                ranges[i.name] = _once(value.evaluate(known))
        points = _volume([ranges[i.name] for i in s.all_iters])
        for name, subscripts in s.accesses:
            accessed[name] += points
            axes = zip(subscripts, program.tensor[name].shape, strict=True)
            box = [
                interval(i, ranges) if isinstance(i, Affine) else _all(extent, program.hints)
                for i, extent in axes
            ]
            pairs = zip(box, boxes.get(name, box), strict=True)
            boxes[name] = [(min(a, c), max(b, d)) for (a, b), (c, d) in pairs]
    return sum(
        min(_volume(box), accessed[name]) * np.dtype(program.tensor[name].dtype).itemsize
        for name, box in boxes.items()
        if name not in private
    )


def workspace(scheduled: Scheduled) -> int:
    """Bytes of all temporaries; those that share a slot count once."""
    program, sizes = scheduled.program, dict[int, int]()
    storage = scheduled.storage
    for name, slot in storage.slots.items():
        counts = [e.evaluate(program.hints) for e in storage.shape(program.tensor[name])]
        size = math.prod(counts) * np.dtype(program.tensor[name].dtype).itemsize
        size *= scheduled.machine.workers if name in storage.private else 1
        sizes[slot] = max(sizes.get(slot, 0), size)
    return sum(sizes.values())


def _once(value: int) -> Interval:
    return value, value


def _all(extent: Affine, hints: Mapping[str, int]) -> Interval:
    return 0, extent.evaluate(hints) - 1


def _volume(box: list[Interval]) -> int:
    return math.prod(int(last - first) + 1 for first, last in box)
