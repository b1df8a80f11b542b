# SPDX-License-Identifier: Apache-2.0
"""Small graphs, of which each gives some pass something to do.

Their programs are texts in testdata/programs, so that tests of passes need no TensorFlow.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

RNG = np.random.default_rng(7)


def weights(*shape):
    return (RNG.standard_normal(shape) / 4).astype(np.float32)


def dense(x):
    """A product with an epilogue, and a softmax."""
    return tf.nn.softmax(tf.nn.relu(x @ W1 + B1) @ W2)


def residual(x):
    """A 3x3 convolution (Winograd's), a batch norm whose factors go into weights, a residual."""
    y = tf.nn.conv2d(x, K3, 1, "SAME")
    y = tf.nn.batch_normalization(y, MEAN, VARIANCE, None, SCALE, 1e-3)
    return tf.nn.relu(y + x)


def separable(x):
    """A depthwise convolution whose tiles overlap, and a pool."""
    y = tf.nn.relu6(tf.nn.conv2d(x, K1, 1, "SAME"))
    y = tf.nn.depthwise_conv2d(y, KD, [1, 1, 1, 1], "SAME")
    return tf.reduce_mean(tf.nn.relu6(y), [1, 2])


def unrolled(x):
    """Five steps of a cell that Python has unrolled."""
    h = tf.zeros_like(x[:, 0] @ W1)
    for t in range(5):
        h = tf.tanh(x[:, t] @ W1 + h @ W3 + B1)
    return h


def two_layers(x):
    """Two recurrences, of which the second follows the first step by step."""

    def layer(x, w, u):
        xw = x @ w
        states = tf.TensorArray(tf.float32, tf.shape(x)[0], element_shape=[None, 16])

        def step(t, h, states):
            h = tf.tanh(xw[t] + h @ u)
            return t + 1, h, states.write(t, h)

        start = (0, tf.zeros_like(xw[0]), states)
        return tf.while_loop(lambda t, h, s: t < tf.shape(x)[0], step, start)[2].stack()

    return layer(layer(x, W1, W3), W3, W4)


def attention(x):
    """Heads are split from, and joined to, the last dimension."""
    n, width, heads = tf.shape(x)[1], 12, 3

    def split(y):
        return tf.transpose(tf.reshape(y, [-1, n, heads, width // heads]), [0, 2, 1, 3])

    q, k, v = (split(x @ w) for w in (WQ, WK, WV))
    p = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) * 0.5)
    y = tf.reshape(tf.transpose(p @ v, [0, 2, 1, 3]), [-1, n, width])
    return y @ WQ + x


def looked_up(ids):
    """Products with rows that data picks."""
    return tf.nn.relu(tf.gather(TABLE, ids) @ W1 + B1)


def decided(x):
    """A loop that data ends, and a branch in it."""

    def step(y, n):
        y = tf.cond(tf.reduce_sum(y) > 10.0, lambda: y * 0.5, lambda: tf.sqrt(y) + 1.0)
        return y, n + 1

    y, n = tf.while_loop(
        lambda y, n: tf.reduce_max(y) > 0.7, step, (tf.abs(x), 0), maximum_iterations=9
    )
    return y, n


def normalized(x):
    """A layer norm and a gated feed-forward layer."""
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    y = (x - mean) * tf.math.rsqrt(variance + 1e-5) * SCALE + MEAN
    return x + tf.nn.gelu(y @ WG, approximate=True) @ WH


def pieces(x):
    """Parts that are written one by one, reversed, and summed up to each element."""
    y = tf.pad(tf.concat([x * 2.0, tf.exp(x)], 1), [[0, 0], [1, 2]], constant_values=5.0)
    top = tf.math.top_k(y, 3)
    return tf.cumsum(y[:, ::-1], 1), top.values, tf.one_hot(top.indices, 4)


def gates(x):
    """Seven steps of an LSTM that Python has unrolled: a loop again, with slices for the gates."""
    h = c = tf.zeros_like(x[:, 0] @ W1)
    steps = []
    for t in range(7):
        i, f, g, o = tf.split(x[:, t] @ WX + h @ WU + BG, 4, 1)
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        h = tf.sigmoid(o) * tf.tanh(c)
        steps.append(h)
    return tf.stack(steps, 1)


def convolution(x):
    """A 3x3 convolution of many channels, Winograd's."""
    return tf.nn.relu(tf.nn.conv2d(x, K32, 1, "VALID") + B32)


def deep(x):
    """A sum so long that blocks of a GPU take pieces of it."""
    return tf.nn.relu(x @ WD + 1.0)


def replaced(x):
    """A loop that replaces two rows of its state in each step."""
    n = tf.shape(x)[0]
    rows = tf.range(n)[:, None]

    def step(t, y):
        y = tf.where(rows == t, tf.reduce_mean(y, 0), y)
        y = tf.where(rows == n - 1 - t, tf.reduce_max(y, 0), y)
        return t + 1, y

    return tf.while_loop(lambda t, y: t < n, step, (0, tf.exp(x)))[1]


def sliding(x):
    """A depthwise convolution of an image that is large, and made of few channels."""
    x = tf.nn.conv2d(x, K4, 1, "VALID")
    e = tf.nn.relu6(tf.nn.conv2d(x, K5, 1, "VALID") + 1.0)
    y = tf.nn.depthwise_conv2d(e, K6, [1, 2, 2, 1], "SAME")
    return tf.nn.conv2d(tf.nn.relu(y), K7, 1, "VALID")


W1, W2, W3, W4, B1 = weights(12, 16), weights(16, 5), weights(16, 16), weights(16, 16), weights(16)
K3, K1, KD = weights(3, 3, 8, 8), weights(1, 1, 4, 16), weights(3, 3, 16, 1)
MEAN, SCALE, VARIANCE = weights(8), weights(8), np.abs(weights(8)) + np.float32(0.5)
WQ, WK, WV, TABLE = weights(12, 12), weights(12, 12), weights(12, 12), weights(50, 12)
WG, WH = weights(8, 24), weights(24, 8)
WX, WU, BG = weights(12, 64), weights(16, 64), weights(64)
K32, B32, WD = weights(3, 3, 32, 32), weights(32), weights(1 << 17, 2)
K4, K5, K6, K7 = (
    weights(1, 1, 3, 3),
    weights(1, 1, 3, 8),
    weights(3, 3, 8, 1),
    weights(1, 1, 8, 4),
)

GRAPHS = {
    dense: [tf.TensorSpec([None, 12])],
    residual: [tf.TensorSpec([None, 10, 10, 8])],
    separable: [tf.TensorSpec([None, 12, 12, 4])],
    unrolled: [tf.TensorSpec([None, 5, 12])],
    two_layers: [tf.TensorSpec([None, None, 12])],
    attention: [tf.TensorSpec([None, None, 12])],
    looked_up: [tf.TensorSpec([None, None], tf.int32)],
    decided: [tf.TensorSpec([None])],
    normalized: [tf.TensorSpec([None, None, 8])],
    pieces: [tf.TensorSpec([None, 4])],
    gates: [tf.TensorSpec([None, 7, 12])],
    convolution: [tf.TensorSpec([None, 8, 8, 32])],
    deep: [tf.TensorSpec([None, 1 << 17])],
    replaced: [tf.TensorSpec([None, 4])],
    sliding: [tf.TensorSpec([None, 18, 16, 3])],
}
