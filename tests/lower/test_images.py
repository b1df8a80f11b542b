# SPDX-License-Identifier: Apache-2.0
"""Images that are rearranged or resized, against TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.parity import check, lowered

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


def test_an_image_of_the_right_size_is_copied():
    x = np.array([np.inf, -np.inf, 3e38, -3e38, 1, np.nan], np.float32).reshape(1, 3, 2, 1)
    for options in ({}, {"half_pixel_centers": True}, {"align_corners": True}):
        same = lambda x, o=options: tf.raw_ops.ResizeBilinear(images=x, size=[3, 2], **o)
        rows = lambda x, o=options: tf.raw_ops.ResizeBilinear(images=x, size=[6, 2], **o)
        for fn in (same, rows):
            check(fn, [None, 3, 2, 1], sizes=(1,), arrays=lambda _: [x])


def test_resize_by_a_factor():
    size = lambda x: tf.shape(x)[1:3] * [2, 4]
    check(lambda x: tf.image.resize(x, size(x), "nearest"), [2, None, None, 3], sizes=(1, 7))
    check(lambda x: tf.image.resize(tf.cast(x, tf.int32), [8, 6]), [None, 4, 4, 1], sizes=(1, 3))


COLORS = np.random.default_rng(3).integers(0, 5, (7, 5, 4, 3)) / 4  # with greys, black and ties


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", [tf.raw_ops.RGBToHSV, tf.raw_ops.HSVToRGB])
def test_colors(op, dtype):
    rows = lambda n: [COLORS[:n].astype(dtype)]
    check(lambda x: op(images=x), [None, 5, 4, 3], dtypes=[dtype], sizes=(0, 1, 7), arrays=rows)
    _, program = lowered(lambda x: op(images=x), ([2, None], dtype))
    assert [check.narrow for check in program.checks] == [True]


def test_contrast():
    check(lambda x: tf.image.adjust_contrast(x, 1.7), [None, 5, 4, 3], sizes=(0, 1, 7))
    check(lambda x: tf.image.adjust_contrast(x, 0.3), [5, None, 2], sizes=(1, 7))


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("ends", [(-6.0, 6.0), (0.0, 3.0), (0.1, 5.0), (-4.0, -1.0), (-0.5, 9.0)])
def test_fake_quantization(ends, narrow):
    low, high = ends
    more = {"num_bits": 4, "narrow_range": narrow}
    fixed = tf.quantization.fake_quant_with_min_max_args
    check(lambda x: fixed(x, low, high, **more), [None, 9], sizes=(0, 1, 7))
    given = tf.quantization.fake_quant_with_min_max_vars
    arrays = lambda n: [np.linspace(-9, 9, n * 9, dtype="f").reshape(n, 9), *map(np.float32, ends)]
    check(lambda x, a, b: given(x, a, b, **more), [None, 9], [], [], sizes=(1, 7), arrays=arrays)
    channels = tf.quantization.fake_quant_with_min_max_vars_per_channel
    a, b = tf.constant([low, -1.0, 0.0]), tf.constant([high, 1.0, 0.0])
    check(lambda x: channels(x, a, b, **more), [None, 3], sizes=(0, 1, 7))
    a, b = tf.constant([low]), tf.constant([high])
    check(
        lambda x: channels(x, a, b, **more), [2, None], sizes=(1, 3), fails="not 1|1 must be equal"
    )
