# SPDX-License-Identifier: Apache-2.0
"""Long sums of few points in CUDA code: all warps of a block divide the terms of each."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.emulator.emulator import EmulationError
from tests.support.emulated import LAUNCHES, Emulated, agree, fits, many
from tests.support.parity import lowered

pytestmark = pytest.mark.cuda_emu

RNG = np.random.default_rng(0)
LENGTH = 4100


def product(x):
    w = np.random.default_rng(1).standard_normal((LENGTH, 3)).astype("f")
    return tf.nn.relu(tf.matmul(x, w / 64) + 1.0)


def reductions(x):
    squares = tf.reduce_mean(x * x, 1)
    return tf.reduce_max(x, 1), tf.reduce_min(x, 1), squares, tf.reduce_sum(x, [0, 1])


@pytest.mark.parametrize("fn", [product, reductions])
def test_warps_divide_terms(fn) -> None:
    concrete, program = lowered(fn, tf.TensorSpec([None, LENGTH], "float32"))
    emulated = Emulated(many(program, 1))
    assert "__syncthreads(); // other warps have summed up their part" in emulated.kernel.source
    for size in (1, 3, 9):
        x = RNG.standard_normal((size, LENGTH)).astype("f")
        want = tf.nest.flatten(concrete(tf.constant(x)))
        agree(program, [w.numpy() for w in want], [x], emulated, 2e-5)
    fits(emulated.kernel)


def test_sums_are_the_same_in_any_order_of_threads() -> None:
    _, program = lowered(product, tf.TensorSpec([None, LENGTH], "float32"))
    emulated = Emulated(many(program, 1))
    x = RNG.standard_normal((3, LENGTH)).astype("f")
    results = [emulated([x], 2, 256, order)[0] for _, _, order in LAUNCHES]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_no_races() -> None:
    for fn in (product, reductions):
        _, program = lowered(fn, tf.TensorSpec([None, LENGTH], "float32"))
        Emulated(many(program, 1), "thread")([RNG.standard_normal((5, LENGTH))], 2, 256)


@pytest.mark.parametrize("number", range(2))
def test_every_barrier_is_needed(number) -> None:
    _, program = lowered(product, tf.TensorSpec([None, LENGTH], "float32"))

    def without(source):
        pieces = re.split(r"(__syncthreads\(\); // .*)", source)
        assert len(pieces) == 2 * 2 + 1
        pieces[2 * number + 1] = ""
        return "".join(pieces)

    with pytest.raises(EmulationError, match="data race"):
        Emulated(many(program, 1), "thread", without)([RNG.standard_normal((5, LENGTH))], 1, 256)
