# SPDX-License-Identifier: Apache-2.0
"""Ten small graphs, of which each gives some pass something to do.

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


W1, W2, W3, W4, B1 = weights(12, 16), weights(16, 5), weights(16, 16), weights(16, 16), weights(16)
K3, K1, KD = weights(3, 3, 8, 8), weights(1, 1, 4, 16), weights(3, 3, 16, 1)
MEAN, SCALE, VARIANCE = weights(8), weights(8), np.abs(weights(8)) + np.float32(0.5)
WQ, WK, WV, TABLE = weights(12, 12), weights(12, 12), weights(12, 12), weights(50, 12)
WG, WH = weights(8, 24), weights(24, 8)

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
}
