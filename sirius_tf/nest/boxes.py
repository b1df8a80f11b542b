# SPDX-License-Identifier: Apache-2.0
"""LoopNest -> LoopNest whose leaves are boxes: what is computed by one function, and its ranges.

tile                                            tile
for i in c0 .. min(c0 + 8, N)       ->          box y: i from c0, 8 at most; j from 0, 64
for j in 0 .. 64
y[i, j]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from sirius_tf.ir.affine import Affine, affine
from sirius_tf.ir.program import Statement
from sirius_tf.nest.nodes import (
    Box,
    Loop,
    LoopNest,
    Range,
    Run,
    Tile,
    chain_of,
    is_box,
    map_parts,
)
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.plan import PANEL

_Multiples = Mapping[str, int]  # numbers that the values of loops are multiples of


def with_boxes(kernel: Scheduled) -> Scheduled:
    """The kernel of whose tiles all statements are boxes."""
    statements = {s.name: s for s in kernel.program.statements}
    return replace(kernel, nest=_boxed(kernel.nest, statements, {}, in_tile=False))


def _boxed(
    nest: LoopNest, statements: Mapping[str, Statement], multiples: _Multiples, in_tile: bool
) -> LoopNest:
    match nest:
        case Box():
            return nest
        case Run() if in_tile:
            return Box(nest, (), ())
        case Loop() if in_tile:
            loops, run = chain_of(nest)
            if isinstance(run, Run) and is_box(loops, run):
                return Box(
                    run, tuple(loops), _ranges(statements[run.statement], run, loops, multiples)
                )
    if isinstance(nest, Loop):
        multiples = {**multiples, nest.var: _multiple(nest)}
    within = in_tile or isinstance(nest, Tile)
    return map_parts(nest, lambda part: _boxed(part, statements, multiples, within))


def _ranges(s: Statement, run: Run, loops: list[Loop], multiples: _Multiples) -> tuple[Range, ...]:
    """The ranges of the iterators that loops go through, in the order of the statement's."""
    by_var = {loop.var: loop for loop in loops}
    values = zip((i.name for i in s.iters), map(str, run.iters), strict=True)
    return tuple(_range(name, by_var[v], multiples) for name, v in values if v in by_var)


def _range(name: str, loop: Loop, multiples: _Multiples) -> Range:
    low, high = loop.lower.terms, loop.upper.terms
    only = low[0] if len(low) == 1 else None
    known = only is not None and len(high) == 1 and (high[0] - only).is_const
    sizes = [(a - b).const for a in high for b in low if (a - b).is_const]
    return Range(
        name,
        only.const if only is not None and only.is_const else None,
        (high[0] - only).const if known and only is not None else None,
        only is not None and _divides(PANEL, only, multiples),
        min(sizes, default=None),
    )


def _multiple(loop: Loop) -> int:
    """A number of which every value of a loop's variable is a multiple."""
    start = loop.lower.terms[0]
    return math.gcd(loop.step, start.const) if loop.lower.terms == (affine(start.const),) else 1


def _divides(number: int, value: Affine, multiples: _Multiples) -> bool:
    parts = [c * (multiples.get(k, 1) if isinstance(k, str) else 1) for k, c in value.terms]
    return all(p % number == 0 for p in (*parts, value.const))
