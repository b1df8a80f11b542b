# SPDX-License-Identifier: Apache-2.0
"""The places of phases in a region: what a printer has to know before it prints one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from sirius_tf.nest.nodes import Block, LoopNest, Phase, Tile, map_parts, pieces, walk
from sirius_tf.nest.scheduled import Scheduled


def with_numbers(kernel: Scheduled) -> Scheduled:
    """The kernel whose phases are numbered as they follow each other in its text: no two are
    equal then."""
    return replace(kernel, nest=_numbered(kernel.nest, count(1)))


def _numbered(nest: LoopNest, numbers: Iterator[int]) -> LoopNest:
    if isinstance(nest, Phase):
        return replace(nest, number=next(numbers))
    return map_parts(nest, lambda part: _numbered(part, numbers))


def clusters_of(phase: Phase) -> tuple[str, ...]:
    """The clusters of a phase, in the order of their first tiles."""
    tiles = (n for piece in pieces(phase.body) for n in walk(piece) if isinstance(n, Tile))
    return tuple(dict.fromkeys(tile.cluster for tile in tiles))


def last_of(nest: LoopNest) -> LoopNest:
    """The part of a region that runs last, behind which nobody has to wait."""
    while isinstance(nest, Block) and nest.parts:
        nest = nest.parts[-1]
    return nest
