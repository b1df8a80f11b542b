# SPDX-License-Identifier: Apache-2.0
"""Images that are rearranged or resized, against TensorFlow."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from tests.support.parity import check

SIZES = (0, 1, 3)


def test_depth_and_space():
    check(lambda x: tf.nn.depth_to_space(x, 2), [None, 3, 5, 12], sizes=SIZES)
    check(lambda x: tf.nn.depth_to_space(x, 3), [2, None, None, 9], sizes=(0, 1, 7))
    check(lambda x: tf.nn.space_to_depth(x, 2), [None, 4, 6, 3], sizes=SIZES)


@pytest.mark.parametrize("pads", [[[0, 0], [0, 0]], [[1, 1], [2, 1]], [[0, 2], [3, 0]]])
def test_batch_and_space(pads):
    fn = lambda x: tf.space_to_batch(x, [2, 3], pads)
    check(fn, [None, 4, 6 if pads[1] != [3, 0] else 9, 3], sizes=SIZES)
    check(lambda x: tf.batch_to_space(tf.tile(x, [6, 1, 1, 1]), [2, 3], pads), [None, 4, 6, 3])


def test_dilation_by_batches():
    w = np.random.default_rng(1).standard_normal((3, 3, 4, 5)).astype("f")

    def fn(x):
        x = tf.space_to_batch(x, [2, 2], [[2, 2], [2, 2]])
        return tf.batch_to_space(tf.nn.conv2d(x, w, 1, "VALID"), [2, 2], [[0, 0], [0, 0]])

    check(fn, [None, 8, 6, 4], sizes=SIZES)


MODES = [(False, False), (True, False), (False, True)]


@pytest.mark.parametrize(("corners", "centers"), MODES)
@pytest.mark.parametrize("size", [[10, 8], [15, 12], [7, 9], [3, 2], [1, 1], [5, 4], [35, 13]])
def test_resize(corners, centers, size):
    options = {"size": size, "align_corners": corners, "half_pixel_centers": centers}
    nearest = lambda x: tf.raw_ops.ResizeNearestNeighbor(images=x, **options)
    bilinear = lambda x: tf.raw_ops.ResizeBilinear(images=x, **options)
    check(nearest, [None, 5, 4, 3], sizes=(1, 3))
    check(bilinear, [None, 5, 4, 3], sizes=(1, 3))


def test_resize_by_a_factor():
    size = lambda x: tf.shape(x)[1:3] * [2, 4]
    check(lambda x: tf.image.resize(x, size(x), "nearest"), [2, None, None, 3], sizes=(1, 7))
    check(lambda x: tf.image.resize(tf.cast(x, tf.int32), [8, 6]), [None, 4, 4, 1], sizes=(1, 3))
