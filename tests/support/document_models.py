# SPDX-License-Identifier: Apache-2.0
"""Small models of which docs/*.md show the texts, each as a function of TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class Input:
    """The shape of an input on the samples, and the axes of which the size is not known."""

    shape: tuple[int, ...]
    free: tuple[int, ...] = (0,)
    dtype: str = "float32"

    @property
    def spec(self) -> Any:
        sizes = [None if k in self.free else n for k, n in enumerate(self.shape)]
        return tf.TensorSpec(sizes, self.dtype)


@dataclass(frozen=True)
class Example:
    """A function of inputs by name. `cuda`: its stages are those for a GPU."""

    fn: Callable[..., Any]
    inputs: dict[str, Input]
    cuda: bool = False


EXAMPLES: dict[str, Example] = {}


def _example(cuda: bool = False, **inputs: Input) -> Callable[..., Callable[..., Any]]:
    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        EXAMPLES[fn.__name__] = Example(fn, inputs, cuda)
        return fn

    return register


def _weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@_example(x=Input((8, 64)))
def softmax(x):
    return tf.nn.softmax(x)


@_example(x=Input((100, 1, 64), (0, 1)))
def lstm(x, units=64):
    """x[time, batch, features] -> the last state of a cell with four gates."""
    wx, wh = _weights(units, 4 * units), 0.1 * _weights(units, 4 * units)
    bias = _weights(4 * units)

    def step(t, h, c):
        z = tf.add(tf.matmul(x[t], wx, name="xw"), tf.matmul(h, wh, name="hw"), name="sum")
        i, f, g, o = tf.split(tf.add(z, bias, name="z"), 4, axis=1)
        c = tf.add(tf.sigmoid(f) * c, tf.sigmoid(i) * tf.tanh(g), name="c")
        return t + 1, tf.multiply(tf.sigmoid(o), tf.tanh(c), name="h"), c

    steps, batch = tf.shape(x)[0], tf.shape(x)[1]
    zero = tf.zeros([batch, units])
    return tf.while_loop(lambda t, *_: t < steps, step, (0, zero, zero), name="lstm")[1]


@_example(x=Input((8, 64)))
def gelu(x):
    return tf.nn.gelu(x, approximate=True)


@_example(x=Input((6, 4, 32), (1,)))
def unrolled(x):
    """Six steps of a recurrent layer, without a loop."""
    wx, wh = _weights(32, 32), 0.1 * _weights(32, 32)
    h = tf.zeros([tf.shape(x)[1], 32])
    for t in range(6):
        h = tf.tanh(tf.matmul(x[t], wx, name="xw") + tf.matmul(h, wh, name="hw"), name="h")
    return h


@_example(ids=Input((20,), dtype="int32"))
def embedding(ids):
    rows = tf.gather(_weights(100, 16), ids, name="row")
    return tf.matmul(rows, _weights(16, 32), name="y")


@_example(x=Input((20, 16)))
def normalized(x):
    scale, offset = _weights(32), _weights(32)
    return tf.nn.relu(tf.matmul(x, _weights(16, 32), name="xw") * scale + offset)


@_example(x=Input((1, 24, 24, 32)))
def convolution(x):
    return tf.nn.conv2d(x, _weights(3, 3, 32, 32), 1, "VALID", name="y")


@_example(x=Input((1, 112, 112, 16), ()))
def expansion(x):
    """The first block of a MobileNet: few channels become many, which a depthwise sum reads."""
    wide = tf.nn.conv2d(tf.nn.relu(x), _weights(1, 1, 16, 96), 1, "SAME", name="wide")
    strides = [1, 1, 1, 1]
    return tf.nn.depthwise_conv2d(tf.nn.relu(wide), _weights(3, 3, 96, 1), strides, "SAME")


@_example(x=Input((128, 64)))
def scores(x):
    """The attention of each position to all others."""
    q, k = (tf.matmul(x, _weights(64, 64), name=name) for name in "qk")
    return tf.nn.softmax(tf.matmul(q, k, transpose_b=True, name="scores"))


@_example(x=Input((100, 32), ()), at=Input((8,), dtype="int32"), to=Input((8,), dtype="int32"))
def updates(x, at, to):
    """In each step a row is replaced, and then copied to another place."""

    def step(t, x):
        x = tf.tensor_scatter_nd_update(x, [[at[t]]], [tf.ones(32)], name="x")
        row = tf.gather(x, at[t])
        return t + 1, tf.tensor_scatter_nd_update(x, [[to[t]]], [2.0 * row], name="y")

    return tf.while_loop(lambda t, *_: t < tf.shape(at)[0], step, (0, x), name="x")[1]


@_example(cuda=True, x=Input((64, 3072), ()))
def product(x):
    return tf.matmul(x, _weights(3072, 768), name="y")


@_example(cuda=True, x=Input((100, 1, 64), (0, 1)))
def layers(x):
    """Two recurrent layers."""
    for name in "hg":
        wx, wh = _weights(64, 64), 0.1 * _weights(64, 64)
        zero = tf.zeros([tf.shape(x)[1], 64])
        x = tf.scan(lambda h, x, wx=wx, wh=wh: tf.tanh(x @ wx + h @ wh), x, zero, name=name)
    return x
