# SPDX-License-Identifier: Apache-2.0
"""Sums over three by three taps with fewer multiplications: where, and how exact."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf import compile as compiler
from sirius_tf.pipeline import STRICT
from tests.support.parity import check, program_of
from tests.support.programs import simplified

RNG = np.random.default_rng(7)


def filters(height, width, channels, made):
    return RNG.standard_normal((height, width, channels, made)).astype(np.float32)


def convolution(weights, padding="SAME", strides=1, dilations=1):
    def fn(x):
        y = tf.nn.conv2d(x, weights, strides, padding, dilations=dilations)
        return tf.nn.relu(y + tf.range(weights.shape[3], dtype=tf.float32))

    return fn


def steps(program):
    """How many statements Winograd makes of one."""
    strict = simplified(program, STRICT)
    return len(simplified(program).statements) - len(strict.statements)


@pytest.mark.parametrize(("rows", "columns"), [(12, 14), (14, 12)])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_results_are_those_of_tensorflow(rows, columns, padding):
    fn = convolution(filters(3, 3, 32, 33), padding)
    program = check(fn, (None, rows, columns, 32), sizes=(0, 1, 3), tolerance=2e-4)
    assert steps(program) == 16 + 1 + 4 - 1


@pytest.mark.parametrize(
    ("fn", "channels"),
    [
        (convolution(filters(3, 3, 16, 64)), 16),  # few channels
        (convolution(filters(3, 3, 64, 16)), 64),
        (convolution(filters(5, 5, 32, 32)), 32),
        (convolution(filters(3, 1, 32, 32)), 32),
        (convolution(filters(3, 3, 32, 32), strides=2), 32),
        (convolution(filters(3, 3, 32, 32), dilations=2), 32),
        (lambda x: tf.nn.depthwise_conv2d(x, filters(3, 3, 64, 1), (1, 1, 1, 1), "SAME"), 64),
        (lambda x: tf.nn.conv2d(x[:, :15], filters(3, 3, 32, 32), 1, "SAME"), 32),  # an odd number
        (lambda x: tf.nn.conv2d(x[:, :8], filters(3, 3, 32, 32), 1, "SAME"), 32),  # few results
    ],
)
def test_other_sums_stay_as_they_are(fn, channels):
    shape = (1, 16, 16, channels)
    assert not steps(program_of(fn, np.zeros(shape, "f"), hints={"x": shape}))


def test_a_group_is_worth_it_if_it_is_wide():
    fn = convolution(filters(3, 3, 32, 64))  # of 64 channels: two groups of 32
    assert steps(check(fn, (None, 12, 12, 64), sizes=(1, 2), tolerance=2e-4)) == 16 + 1 + 4 - 1


def test_it_can_be_left_out():
    fn = convolution(filters(3, 3, 32, 32))
    program = program_of(fn, np.zeros((1, 14, 14, 32), "f"))
    strict = compiler.schedule_program(program, passes=STRICT)
    assert len(strict.program.statements) < 10
    assert steps(program) > 10


def test_a_sum_on_a_branch_stays_one_statement_under_its_guard():
    fn = convolution(filters(3, 3, 32, 32))
    image = np.zeros((1, 14, 14, 32), "f")
    branch = lambda x: tf.cond(tf.reduce_sum(x) > 0.0, lambda: fn(x), lambda: x)
    program = program_of(branch, image, hints={"x": image.shape})
    assert any(s.guards and s.reduce and len(s.reduce.iters) == 3 for s in program.statements)
    assert steps(program) == 0
