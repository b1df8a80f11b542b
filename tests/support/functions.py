# SPDX-License-Identifier: Apache-2.0
"""Functions of tensors that several tests share."""

from dataclasses import replace

import numpy as np
import tensorflow as tf

from tests.support.parity import lowered

RNG = np.random.default_rng(0)


def chain(length):
    """Every step reads all rows that the one before has made: each is a phase."""
    steps = [RNG.standard_normal((12, 12)).astype("f") / 4 for _ in range(length)]

    def fn(x):
        for step in steps:
            x = tf.matmul(x - tf.reduce_max(x, 0), step)
        return x

    spec = tf.TensorSpec([None, 12], "float32")
    return replace(lowered(fn, spec)[1], name="chain")


def newton(x):
    """A square root: data ends the loop, and says how long a result is."""
    error = tf.reduce_max(tf.abs(x)) + 1.0
    y, _, steps = tf.while_loop(
        lambda y, error, n: error > 1e-3,
        lambda y, error, n: (
            0.5 * (y + x / y),
            tf.reduce_max(tf.abs(0.5 * (y + x / y) - y)),
            n + 1,
        ),
        (x + 1.0, error, 0),
    )
    return y, steps


def pieces(x):
    """Statements that write parts of one tensor, and one that reads all of it backwards."""
    y = tf.pad(tf.concat([x * 2.0, tf.exp(x)], 1), [[0, 0], [1, 2]], constant_values=5.0)
    return tf.cumsum(y[:, ::-1], 1)
