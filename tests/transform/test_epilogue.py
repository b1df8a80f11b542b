# SPDX-License-Identifier: Apache-2.0
"""What is done with the result of a reduction before it is stored."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.ir.printer import show_statement
from sirius_tf.ir.verify import verify
from tests.support.parity import check, compiled, program_of
from tests.support.programs import simplified

WEIGHTS = np.random.default_rng(3).standard_normal((33, 19)).astype(np.float32)
BIAS = np.arange(19, dtype=np.float32)


def reductions(fn, *feeds):
    """The statements of a simplified function."""
    program = simplified(program_of(fn, *feeds))
    verify(program)
    return program.statements


def dense(x, y):
    return tf.nn.relu(x @ WEIGHTS + BIAS) * 0.5 + y


def test_a_bias_an_activation_and_a_residual_are_part_of_a_product():
    check(dense, (None, 33), (None, 19))
    (s,) = reductions(dense, np.zeros((2, 33), "f"), np.zeros((2, 19), "f"))
    assert s.reduce is not None
    assert {load.tensor for load in s.finish_loads} >= {"y"}
    assert " where acc = sum over " in show_statement(s)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: tf.reduce_mean(x, 1) * 2.0 - 1.0,
        lambda x: tf.sqrt(tf.reduce_sum(x * x, -1)),
        lambda x: tf.reduce_max(x, 0) / 3.0,
        lambda x: tf.where(tf.reduce_min(x, 1) < 0.0, 0.0, tf.reduce_min(x, 1)),
        lambda x: tf.reduce_sum(x, 0)[None, :] + x,  # each sum is for many elements
        lambda x: tf.transpose(x @ WEIGHTS) + 1.0,  # stored the other way round
        lambda x: tf.tanh(tf.sigmoid(x @ WEIGHTS)),  # dear functions
        lambda x: tf.cast(x @ WEIGHTS + 0.5, tf.int32),
        lambda x: (x @ WEIGHTS) + tf.reverse(x @ WEIGHTS, [1]),  # two readers, one reversed
        lambda x: (
            tf.nn.conv2d(tf.reshape(x, [-1, 3, 11, 1]), WEIGHTS[:9].reshape(3, 3, 1, 19), 1, "SAME")
            + BIAS
        ),
        lambda x: tf.pad(tf.nn.relu(x @ WEIGHTS), [[1, 0], [2, 3]]),
    ],
)
def test_results_are_those_of_tensorflow(fn):
    check(fn, (None, 33), sizes=(1, 7, 33))


@pytest.mark.parametrize("rows", [1, 7])
def test_a_large_residual_rounds_a_sum_once(rows):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, 768), np.float32)
    w = rng.standard_normal((768, 19), np.float32)
    residual = 1000 * rng.standard_normal((rows, 19), np.float32)
    program = program_of(lambda x, y: x @ w + y, x, residual)
    (got,) = compiled(program)([x, residual])
    want = x.astype(np.float64) @ w.astype(np.float64) + residual
    assert np.abs(got - want).max() < 2 * np.spacing(np.float32(np.abs(want).max()))


def test_what_many_elements_read_is_not_done_again_for_each():
    found = reductions(lambda x: tf.reduce_sum(x, 0)[None, :] + x, np.zeros((2, 33), "f"))
    assert len(found) == 2


def test_dear_functions_are_left_where_a_loop_runs_them():
    found = reductions(lambda x: tf.tanh(x @ WEIGHTS), np.zeros((2, 33), "f"))
    assert len(found) == 2
    assert all(s.finish is None for s in found)
