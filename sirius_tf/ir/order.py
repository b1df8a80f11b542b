# SPDX-License-Identifier: Apache-2.0
"""Order of statements by "may read what the other writes".

Whether a statement reads what another writes is decided on intervals: per axis, the range of the
subscript over the whole domain. That is safe (it never misses a dependence) and enough to tell
h[t+1] from h[t] once t has a value, and the parts of a concatenation from each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from sirius_tf.ir.affine import Affine, FloorDiv
from sirius_tf.ir.expr import Load
from sirius_tf.ir.program import Program, Statement
from sirius_tf.ir.scc import strongly_connected

Interval = tuple[float, float]
Box = tuple[Interval, ...]
_EVERYTHING: Interval = (-math.inf, math.inf)


def interval(value: Affine, ranges: Mapping[str, Interval]) -> Interval:
    """Bounds of an affine expression whose names lie in closed intervals."""
    low: float = value.const
    high: float = value.const
    for key, coefficient in value.terms:
        if isinstance(key, FloorDiv):
            bounds = interval(key.numerator, ranges)
            first, last = (bounds[0] // key.divisor, bounds[1] // key.divisor)
        else:
            first, last = ranges[key]
        ends = (coefficient * first, coefficient * last)
        low, high = low + min(ends), high + max(ends)
    return low, high


def components(
    program: Program, statements: Sequence[Statement], env: Mapping[str, int]
) -> list[tuple[tuple[Statement, ...], bool]]:
    """Strongly connected components, what is read before what reads it, and whether each is a
    cycle. `env` has the parameters, and the iterators of loops that are being run."""
    writes = []
    reads: list[list[tuple[str, Box]]] = []
    for statement in statements:
        ranges = _ranges(program, statement, env)
        writes.append(tuple(interval(i, ranges) for i in statement.index))
        reads.append(_reads(program.needs(statement), ranges))
    writers: dict[str, list[int]] = {}
    for number, statement in enumerate(statements):
        writers.setdefault(statement.target, []).append(number)
    sources: list[list[int]] = [
        sorted(
            {w for tensor, box in boxes for w in writers.get(tensor, ()) if _meet(box, writes[w])}
        )
        for boxes in reads
    ]
    return [
        (tuple(statements[n] for n in group), len(group) > 1 or group[0] in sources[group[0]])
        for group in strongly_connected(sources)
    ]


def _ranges(program: Program, statement: Statement, env: Mapping[str, int]) -> dict[str, Interval]:
    """Bounds of all names; a loop that data ends counts as two iterations at least, since one of
    them has to be run before it is known whether there is another."""
    ranges: dict[str, Interval] = {name: (value, value) for name, value in env.items()}
    for it in statement.all_iters:
        if it.name not in env:
            least = 1 if str(it.extent) in program.exits else 0
            ranges[it.name] = (0, max(it.extent.evaluate(env) - 1, least))
    return ranges


def _reads(needed: Iterable[Load], ranges: Mapping[str, Interval]) -> list[tuple[str, Box]]:
    return [
        (
            load.tensor,
            tuple(
                interval(i, ranges) if isinstance(i, Affine) else _EVERYTHING for i in load.index
            ),
        )
        for load in needed
    ]


def _meet(a: Box, b: Box) -> bool:
    return all(x[0] <= y[1] and y[0] <= x[1] for x, y in zip(a, b, strict=False))
