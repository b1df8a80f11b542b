# SPDX-License-Identifier: Apache-2.0
"""No op takes long to convert, whatever its attributes are."""

import os

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.bundle.link import link
from sirius_tf.compile import compile_program
from tests.support.parity import lowered

MOST = 6.0  # seconds of CPU time; on a machine with nothing else to do each takes 2 at most
IMAGE = (None, 64, 64, 3)


def weights(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def upsampled(x):
    size = [tf.shape(x)[0], 1024, 1024, 4]
    return tf.nn.conv2d_transpose(x, weights(31, 31, 4, 3), size, 16)


def dilated(x):
    return tf.nn.depthwise_conv2d(x, weights(9, 9, 3, 2), [1] * 4, "SAME", dilations=(7, 7))


def reflected(x):
    return tf.pad(x, [[0, 0], [30, 31], [30, 31], [1, 1]], "REFLECT")


@pytest.mark.parametrize(
    ("fn", "shape"),
    [
        (upsampled, IMAGE),
        (dilated, IMAGE),
        (reflected, IMAGE),
        (lambda x: tf.nn.conv2d(x, weights(31, 31, 3, 4), 1, "SAME", dilations=2), IMAGE),
        (lambda x: tf.nn.max_pool2d(x, 64, 1, "SAME"), IMAGE),
        (lambda x: tf.nn.avg_pool2d(x, 31, 2, "SAME"), IMAGE),
        (lambda x: tf.image.resize(x, [513, 77]), IMAGE),
        (lambda x: tf.math.reduce_variance(x, [1, 2]), (None, 32, 32, 3)),
        (lambda x: tf.einsum("abcdef,ghcdef->abgh", x, x), (None, 3, 4, 2, 3, 2)),
        (lambda x: tf.one_hot(tf.cast(x, tf.int32), 50000), (None,)),
        (lambda x: tf.cumsum(x, 1, exclusive=True, reverse=True), (None, 300, None)),
        (lambda x: tf.math.top_k(x, 16)[0], (None, 1000)),
        (lambda x: tf.transpose(x, range(7, -1, -1)), (None, 2, 3, 2, 2, 3, 2, None)),
    ],
)
def test_an_op_is_converted_in_seconds(fn, shape, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    began = sum(os.times()[:4])  # with what the C compiler takes
    _, program = lowered(fn, (shape, tf.float32))
    link([compile_program(program)], tmp_path / "bundle.so", {})
    assert sum(os.times()[:4]) - began < MOST
