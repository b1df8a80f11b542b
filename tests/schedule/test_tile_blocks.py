# SPDX-License-Identifier: Apache-2.0
"""Tiles for blocks of threads, and what each thread has of them."""

import pytest

from sirius_tf.ir.affine import symbol
from sirius_tf.mapping.targets import machine_of
from sirius_tf.schedule.plan import choose_all
from sirius_tf.schedule.tile_blocks import block_tile_sizes, of_thread, warps_of_point
from tests.support import programs

pytestmark = pytest.mark.ir

H100 = machine_of("sm_90")


@pytest.mark.parametrize(
    ("rows", "lanes", "others", "busy", "found"),
    [
        (16, 16, 1, 16, (4, 4)),  # as many as there are threads for
        (16, 16, 1, 17, (2, 4)),
        (16, 16, 1, 256, (1, 1)),
        (16, 16, 16, 256, (4, 4)),  # the others keep threads busy, too
        (1, 64, 1, 16, (1, 4)),
        (5, 64, 1, 1, (4, 4)),  # three rows for nothing, for fewer loads
        (5, 4, 1, 3, (2, 4)),  # but no idle thread
    ],
)
def test_sums_of_a_thread(rows, lanes, others, busy, found) -> None:
    assert of_thread(rows, lanes, others, busy) == found


def test_warps_divide_long_sums_of_few_points() -> None:
    warps = H100.threads // H100.warp
    assert warps_of_point(1, 1 << 20, H100) == warps
    assert warps_of_point(warps, 1 << 20, H100) == 1
    assert warps_of_point(1, 2 * 16 * H100.warp, H100) == 2
    assert warps_of_point(0, 1, H100) == 1


@pytest.mark.parametrize("rows", [8, 4096])
def test_tiles_are_enough_for_all_blocks_and_no_smaller(rows) -> None:
    program = programs.dense(256, 256)
    sized = program.params[0].__class__("B", program.params[0].value, 1, rows)
    program = program.__class__(**{**vars(program), "params": (sized,)})
    (s,) = program.statements
    loops = [{s.name: symbol(i.name)} for i in s.iters]
    sizes = block_tile_sizes(program, choose_all(program, H100), (s,), loops, H100)
    assert all(size & (size - 1) == 0 for size in sizes)
    tiles = -(-rows // sizes[0]) * -(-256 // sizes[1])
    wanted = min(H100.workers, rows * 256 * 256 // H100.worth_a_tile)
    assert wanted <= tiles <= 4 * max(wanted, 1)
