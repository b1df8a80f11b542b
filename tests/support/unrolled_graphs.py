# SPDX-License-Identifier: Apache-2.0
"""Loops that Python has unrolled, each of another kind.

Their programs are texts in testdata/unrolled, so that tests of rerolling need no TensorFlow.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tests.support.cells import lstm

WIDTH = 3
RNG = np.random.default_rng(11)


def weights(*shape):
    return (RNG.standard_normal(shape) / 2).astype(np.float32)


def steps(x):
    return tf.unstack(x, axis=1)


def cell(x, h, number):
    return tf.tanh(x @ W[number] + h @ U[number] + B)


def zeros(x):
    return tf.zeros([tf.shape(x)[0], WIDTH])


def two_layers(x):
    """That start from values of the input."""
    c = h = x[:, 0] * 2.0
    g, found = x[:, 1], []
    for v in steps(x):
        c, h = lstm(v @ WX + h @ WU, c)
        g = cell(h, g, 0)
        found.append(g)
    return tf.stack(found, 1)


def two_directions(x):
    """Both read the same products, in opposite orders."""
    h = g = zeros(x)
    xs = [tf.nn.relu(v @ W[2]) for v in steps(x)]
    for v, u in zip(xs, reversed(xs), strict=True):
        h, g = cell(v, h, 0), cell(u, g, 1)
    return tf.concat([h, g], 1)


def two_steps_back(x):
    a = b = zeros(x)
    for v in steps(x):
        a, b = b, tf.tanh(a @ W[0] + b * 0.5 + v)
    return a, b


def no_first_state(x):
    """The first step is another one."""
    h = None
    for v in steps(x):
        h = tf.tanh(v @ W[0] if h is None else v @ W[0] + h @ U[0])
    return h


def one_differs(x):
    """A step in the middle leaves another state."""
    h = zeros(x)
    for t, v in enumerate(steps(x)):
        h = cell(v, h, 0)
        h = h * 2.0 if t == 5 else h
    return h


def different_starts(x):
    """Two recurrences read one state, but for the first step, where there are two."""
    h = None
    for v in steps(x):
        a = tf.tanh(v + (x[:, 0] if h is None else h))
        b = tf.sigmoid((x[:, 1] if h is None else h) - v)
        h = a * b + v
    return h


def part_of_state(x):
    """A step reads a part of what the one before has left; the first one, something else."""
    h = None
    for v in steps(x):
        part = tf.tanh(v[:, :2] + (v[:, :2] * 2.0 if h is None else h[:, 1:]))
        h = tf.concat([part, v[:, :1]], 1)
    return h


def shared_layers(x):
    """Layers in a row that have the same weights."""
    for _ in range(6):
        x = tf.nn.relu(x + tf.nn.relu(x @ W[0]) @ W[1])
    return x


def own_layers(x):
    """Layers in a row that have weights of their own: no loop."""
    for w in MANY:
        x = tf.nn.relu(x @ w)
    return x


def every_step(x):
    """The same for every step, without a recurrence."""
    return tf.stack([tf.nn.relu(v @ W[0] + B) @ W[1] for v in steps(x)], 1)


def results_of_steps(x):
    h, found = zeros(x), []
    for v in steps(x):
        h = cell(v, h, 0)
        found.append(h * 2.0)
    return tuple(found)


W, U, B = weights(3, WIDTH, WIDTH), weights(2, WIDTH, WIDTH), weights(WIDTH)
WX, WU, MANY = weights(WIDTH, 4 * WIDTH), weights(WIDTH, 4 * WIDTH), weights(6, WIDTH, WIDTH)

SIX = [tf.TensorSpec([None, 6, WIDTH])]
GRAPHS = {
    two_layers: [tf.TensorSpec([None, 5, WIDTH])],
    two_directions: SIX,
    two_steps_back: SIX,
    no_first_state: SIX,
    one_differs: [tf.TensorSpec([None, 11, WIDTH])],
    different_starts: SIX,
    part_of_state: SIX,
    shared_layers: [tf.TensorSpec([None, WIDTH])],
    own_layers: [tf.TensorSpec([None, WIDTH])],
    every_step: SIX,
    results_of_steps: SIX,
}
