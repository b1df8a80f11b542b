# SPDX-License-Identifier: Apache-2.0
"""Tiles for blocks of threads, and what each thread has of them."""

from dataclasses import replace

import pytest

from sirius_tf.ir.affine import symbol
from sirius_tf.mapping.targets import machine_of
from sirius_tf.schedule.plan import choose_all
from sirius_tf.schedule.tile import block_tile_sizes, of_thread, warps_of_point
from tests.support import programs, saved

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


def sizes(program, name, machine, **hints):
    """Tile sizes of a statement by itself."""
    params = (replace(p, hint=hints.get(p.name, p.hint)) for p in program.params)
    program = replace(program, params=tuple(params))
    s = next(s for s in program.statements if s.name == name)
    loops = [{name: symbol(i.name)} for i in s.iters if not i.loop]
    return block_tile_sizes(program, choose_all(program, machine), (s,), loops, machine)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (1, (1, 4)),  # 192 tiles: as many as are worth it, not one for each block
        (128, (8, 32)),  # 384 tiles, as the module has it; twice as many rows would leave 192
        (4096, (64, 64)),  # large enough for all threads, though there are more tiles than blocks
    ],
)
def test_tiles_of_a_product(rows, found) -> None:
    assert sizes(programs.dense(768, 768), "S3", H100, B=rows) == found


RECURRENCE = """program text(x)
params:
  T = dim(x, 0)   # >= 0, hint 100
  B = dim(x, 1)   # >= 0, hint 64
tensors:
  input x[T, B, 256]: float32
  constant u[256, 256]: float32
  temp h[T + 1, B, 256]: float32
  output y[B, 256]: float32
statements:
  Z: h[0, b, j] = 0.0   for b < B, j < 256
  S: h[t + 1, b, j] = sum over k of h[t, b, k] * u[k, j]
    for t < T in order, b < B, j < 256, k < 256
  Y: y[b, j] = h[T, b, j] + x[0, b, j]   for b < B, j < 256
outputs:
  y: [B, 256]
"""


@pytest.mark.parametrize(
    ("shared", "found"),
    [
        (115712, (32, 32)),  # a tile for each of 16 blocks
        (1 << 15, (64, 8)),  # with fewer columns, since a block keeps those of its weights
        (1 << 14, (64, 1)),
        (200, (16, 64)),  # no block could keep any
    ],
)
def test_tiles_of_a_recurrence_leave_room_for_weights(shared, found) -> None:
    machine = replace(H100, workers=16, shared=shared)
    assert sizes(saved.parsed(RECURRENCE), "S", machine) == found
