# SPDX-License-Identifier: Apache-2.0
"""Numbers of double precision against TensorFlow."""

import numpy as np
import tensorflow as tf

from tests.support import parity

FUNCTIONS = ["abs", "exp", "expm1", "tanh", "sigmoid", "sin", "cos", "floor", "ceil"]
FUNCTIONS += ["round", "sign", "negative", "square", "is_nan", "is_finite", "is_inf"]
ACTIVATIONS = ["relu", "relu6", "elu", "selu", "softplus", "softsign", "leaky_relu", "silu", "gelu"]
RULED = [0.0, -0.0, 1.0, -2.5, 1e300, 1e-300, float("nan"), float("inf"), -float("inf")]


def check(fn, *shapes, tolerance=1e-13, **options):
    options = {"dtypes": ["float64"] * len(shapes)} | options
    return parity.check(fn, *shapes, tolerance=tolerance, **options)


def named(name):
    return getattr(tf, name, getattr(tf.math, name, getattr(tf.nn, name, None)))


def weights(*shape):
    return np.random.default_rng(1).standard_normal(shape)


def test_functions():
    def fn(x):
        y = tf.abs(x)
        found = [tf.sqrt(y), tf.math.rsqrt(y + 1.0), tf.math.log(y), tf.math.log1p(y)]
        return [*(named(f)(x) for f in FUNCTIONS), *found, tf.pow(y, 2.5), tf.pow(x, 3.0)]

    check(fn, [None, 5])
    check(lambda x: [tf.math.erf(x), tf.math.erfc(x)], [None, 5])  # TF has no number for 1e300
    check(fn, [None], arrays=lambda _: [np.array(RULED)], sizes=(9,))


def test_activations():
    check(lambda x: [named(f)(x) for f in ACTIVATIONS], [None, 5])


def test_two_operands():
    def fn(x, y):
        found = [f(x, y) for f in (tf.add, tf.subtract, tf.multiply, tf.divide, tf.maximum)]
        found += [
            tf.minimum(x, y),
            x // y,
            tf.math.divide_no_nan(x, y),
            tf.math.xlogy(x, tf.abs(y)),
        ]
        return [*found, x < y, tf.equal(x, y), tf.where(x < y, x, y), tf.pow(tf.abs(x), y)]

    check(fn, [None, 5], [5])
    check(fn, [None, 17], [None, 1], sizes=(1, 33))


def test_casts():
    def fn(x):
        kinds = ["float32", "int32", "int64", "bool", "float16", "bfloat16"]
        return [tf.cast(tf.cast(x * 9.0, k), tf.float64) for k in kinds]

    check(fn, [None, 17])


def test_reductions():
    def fn(x):
        kinds = ("sum", "mean", "max", "min", "prod")
        found = [
            getattr(tf, f"reduce_{k}")(x / 3.0, axis) for k in kinds for axis in (1, 2, [0, 1])
        ]
        return [*found, tf.reduce_sum(x), tf.argmax(x, 1), tf.cumsum(x, 1), tf.nn.l2_loss(x)]

    check(fn, [None, 3, 33], sizes=(1, 2, 7), tolerance=1e-12)


def test_softmax():
    check(lambda x: [tf.nn.softmax(x), tf.nn.log_softmax(x)], [None, 5, 7])


def test_products():
    w, b = weights(65, 33), weights(33)
    fn = lambda x: [tf.nn.relu(x @ w + b), tf.matmul(x, x, transpose_b=True)]
    check(fn, [None, 65], tolerance=1e-12)
    check(lambda a, b: tf.einsum("abc,adc->abd", a, b), [None, 3, 17], [None, 5, 17])


def test_windows():
    w, k, v = weights(3, 3, 3, 5), weights(3, 3, 3, 2), weights(3, 3, 4, 3)

    def fn(x):
        found = [tf.nn.conv2d(x, w, s, "SAME") for s in (1, 2)]
        found += [tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], "VALID")]
        found += [tf.nn.conv2d_transpose(x, v, [tf.shape(x)[0], 14, 16, 4], 2)]
        return [*found, tf.nn.max_pool2d(x, 3, 2, "SAME"), tf.nn.avg_pool2d(x, 2, 2, "SAME")]

    check(fn, [None, 7, 8, 3], sizes=(0, 2), tolerance=1e-12)


def test_a_loop():
    w = weights(5, 5)

    def fn(x):
        body = lambda i, h: (i + 1, tf.tanh(h @ w + x[:, i]))
        return tf.while_loop(lambda i, h: i < 7, body, (0, tf.zeros_like(x[:, 0])))[1]

    check(fn, [None, 7, 5], sizes=(1, 7))
