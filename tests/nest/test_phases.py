# SPDX-License-Identifier: Apache-2.0
"""Phases of a region: their numbers, the clusters that they run, and the one behind which nobody
waits."""

from dataclasses import replace

import pytest

from sirius_tf.ir.affine import affine, symbol
from sirius_tf.mapping.targets import machine_of
from sirius_tf.nest.nodes import Block, Bound, Guard, Loop, Phase, Run, Tile, walk
from sirius_tf.nest.phases import clusters_of, last_of, with_numbers
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.storage import Storage
from tests.support.programs import softmax

pytestmark = pytest.mark.ir


def over(var, body, parallel=False):
    return Loop(var, Bound((affine(0),)), Bound((symbol("B"),)), 1, parallel, body)


def tiles(*clusters):
    return Block(tuple(over("c1", Tile(Run("S", ()), c), parallel=True) for c in clusters))


PHASE = Phase(tiles("a"))


def test_phases_are_numbered_as_their_text_goes() -> None:
    """Equal ones, too: inside of loops, and on both ways of a guard."""
    guard = Guard((symbol("B"),), PHASE, Block((PHASE, PHASE)))
    nest = Block((PHASE, over("c0", Block((guard, PHASE))), PHASE))
    kernel = Scheduled(softmax(), nest, {}, Storage(), machine_of("sm_90"))
    numbered = with_numbers(kernel)
    phases = [n for n in walk(numbered.nest) if isinstance(n, Phase)]
    assert [p.number for p in phases] == [1, 2, 3, 4, 5, 6]
    assert {replace(p, number=0) for p in phases} == {PHASE}
    assert replace(numbered, nest=nest) == kernel


def test_clusters_of_a_phase_are_named_once() -> None:
    """Pieces of one cluster may have others between them, and a tile may be no loop's."""
    phase = Phase(Block((tiles("b", "a", "b"), Tile(Run("S", ()), "c"), tiles("a"))))
    assert clusters_of(phase) == ("b", "a", "c")
    assert clusters_of(Phase(Block(()))) == ()


def test_the_last_part_of_a_region() -> None:
    """Only blocks are looked into: a loop has to wait before it starts again."""
    loop = over("c0", Block((PHASE,)))
    assert last_of(Block((loop, Block((loop, PHASE))))) is PHASE
    assert last_of(Block((PHASE, loop))) is loop
    assert last_of(Block(())) == Block(())
