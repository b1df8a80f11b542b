# SPDX-License-Identifier: Apache-2.0
"""Leaves of a loop nest as boxes: which loops they take in, and what is known of their ranges."""

import pytest

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.nest.boxes import with_boxes
from sirius_tf.nest.coalesce import Join, leaf_of
from sirius_tf.nest.nodes import Block, Bound, Box, Loop, Phase, Range, Run, Tile, show, walk
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.machine import CPU
from sirius_tf.schedule.plan import PANEL, Plan
from sirius_tf.schedule.storage import Storage
from tests.support.programs import it, load, param, program, stmt, tensor

pytestmark = pytest.mark.ir

N, c0, c1, c2, i, j = (symbol(name) for name in ("N", "c0", "c1", "c2", "i", "j"))


def loop(var, lower, upper, body, step=1, parallel=False):
    uppers = upper if isinstance(upper, tuple) else (upper,)
    bounds = Bound((affine(lower),)), Bound(tuple(map(affine, uppers)))
    return Loop(var, *bounds, step, parallel, body)


def scheduled(nest, width=64):
    shape = (N, width)
    y = stmt("y", [it("i", N), it("j", width)], "y", (i, j), load("x", i, j))
    tensors = [tensor("x", shape, role="input"), tensor("y", shape, role="output")]
    one = program("copied", [param("N", "x", 0)], tensors, [y], shape)
    return Scheduled(one, nest, {"y": Plan("j")}, Storage(), CPU)


def tiled(step: int, width: Affine | int = 64):
    rows = loop("c1", c0, (N, c0 + step), loop("c2", 0, width, Run("y", (c1, c2))))
    return Phase(loop("c0", 0, N, Tile(rows), step, parallel=True))


def boxes(nest):
    return [n for n in walk(nest) if isinstance(n, Box)]


def test_a_box_takes_in_all_loops_of_a_statement() -> None:
    kernel = scheduled(tiled(8))
    (box,) = boxes(with_boxes(kernel).nest)
    assert [x.var for x in box.loops] == ["c1", "c2"]
    assert box.ranges == (Range("i", None, None, False, 8), Range("j", 0, 64, True, 64))
    assert show(with_boxes(kernel).nest) == show(kernel.nest)
    assert with_boxes(with_boxes(kernel)) == with_boxes(kernel)


def test_loops_that_bound_each_other_are_no_box() -> None:
    (box,) = boxes(with_boxes(scheduled(tiled(8, width=c1 + 1))).nest)
    assert [x.var for x in box.loops] == ["c2"]


@pytest.mark.parametrize(("step", "aligned"), [(PANEL, True), (3 * PANEL, True), (8, False)])
def test_tiles_of_whole_panels_are_aligned(step, aligned) -> None:
    (box,) = boxes(with_boxes(scheduled(tiled(step))).nest)
    assert box.ranges[0].aligned is aligned


def test_alignment_is_that_of_the_loops_around() -> None:
    """A loop of the same name elsewhere says nothing."""
    rows = loop("c1", c0, c0 + 4, loop("c2", 0, 64, Run("y", (c1, c2))))
    other = Phase(Tile(Block((loop("c0", 0, N, Block((rows, rows))),))))
    found = boxes(with_boxes(scheduled(Block((tiled(PANEL), other)))).nest)
    assert [box.ranges[0].aligned for box in found] == [True, False, False]


def test_rows_that_follow_each_other_become_one_loop() -> None:
    kernel = with_boxes(scheduled(tiled(8)))
    leaf = leaf_of(kernel, kernel.program.statements[0], boxes(kernel.nest)[0])
    assert leaf.joins == (Join("i", "j", 64),)
    assert leaf.box == (Range("j", None, None, False, 8 * 64),)
