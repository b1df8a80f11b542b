# SPDX-License-Identifier: Apache-2.0
"""Overlapped tiles: where, and that rows computed twice and borders are right."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf import compile as compiler
from sirius_tf.ir.program import Tiles
from sirius_tf.pipeline import PIPELINE
from sirius_tf.schedule import overlap
from tests.support.parity import check, program_of
from tests.support.programs import simplified

RNG = np.random.default_rng(5)
MIX = RNG.standard_normal((1, 1, 3, 3)).astype(np.float32)
EXPAND = RNG.standard_normal((1, 1, 3, 8)).astype(np.float32)
FILTER = RNG.standard_normal((5, 5, 8, 1)).astype(np.float32)
PROJECT = RNG.standard_normal((1, 1, 8, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_caches(monkeypatch):
    monkeypatch.setattr(overlap, "CACHE", 1 << 12)
    monkeypatch.setattr(overlap, "READ", 40)


def block(taps=3, strides=1, padding="SAME", made=lambda x: tf.nn.relu6(x + 1.0), reuse=False):
    """What is slid over is large, and made of few channels; its result goes into a product."""

    def fn(x):
        x = tf.nn.conv2d(x, MIX, 1, "VALID")
        e = made(tf.nn.conv2d(x, EXPAND, 1, "VALID"))
        steps = (1, strides, strides, 1)
        y = tf.nn.depthwise_conv2d(e, FILTER[:taps, :taps], steps, padding)
        y = tf.nn.conv2d(tf.nn.relu(y), PROJECT, 1, "VALID")
        return (y, tf.reduce_sum(e)) if reuse else y

    return fn


def dear(x):
    """What takes longer than to store it."""
    for _ in range(5):
        x = tf.sigmoid(tf.exp(x))
    return x


def tiles(fn, shape=(1, 16, 16, 3)):
    """The temporaries that lie in tiles."""
    program = simplified(program_of(fn, np.zeros(shape, "f"), hints={"x": shape}))
    tiled = overlap.overlap(program, 2)
    return [t for t in tiled.tensors if isinstance(t.layout, Tiles)]


@pytest.mark.parametrize("padding", ["SAME", "VALID", [[0, 0], [3, 1], [0, 3], [0, 0]]])
@pytest.mark.parametrize(("taps", "strides"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_results_are_those_of_tensorflow(taps, strides, padding):
    fn = block(taps, strides, padding)
    check(fn, (None, 18, 16, 3), sizes=(0, 1, 3), tolerance=2e-4)
    assert len(tiles(fn, (1, 18, 16, 3))) == 1


def test_a_tile_is_its_workers_own():
    fn = block()
    shape = (1, 16, 16, 3)
    scheduled = compiler.schedule_program(program_of(fn, np.zeros(shape, "f"), hints={"x": shape}))
    (tile,) = tiles(fn)
    assert scheduled.storage.private[tile.name][1] == 1  # of all tiles


@pytest.mark.parametrize(
    ("fn", "shape"),
    [
        (block(), (1, 8, 8, 3)),  # small enough to stay near
        (block(padding="VALID", reuse=True), (1, 16, 16, 3)),  # somebody else needs it, too
        (block(padding="VALID", made=dear), (1, 16, 16, 3)),
    ],
)
def test_other_tensors_are_defined_first(fn, shape):
    assert not tiles(fn, shape)
    check(fn, (None, *shape[1:]), sizes=(1, 2), tolerance=2e-4)


def test_it_can_be_left_out():
    program = program_of(block(), np.zeros((1, 16, 16, 3), "f"))
    scheduled = compiler.schedule_program(program, passes=PIPELINE.without(["overlap"]))
    assert all(len(t.shape) <= 4 for t in scheduled.program.tensors)


def test_what_slides_can_be_slid_over():
    def fn(x):
        for _ in range(3):
            x = tf.nn.relu(tf.nn.depthwise_conv2d(x, FILTER[:3, :3], (1, 1, 1, 1), "SAME"))
        return x

    check(fn, (None, 16, 16, 8), sizes=(1, 2), tolerance=2e-3)
    assert tiles(fn, (1, 16, 16, 8))
