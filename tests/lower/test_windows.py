# SPDX-License-Identifier: Apache-2.0
"""Convolutions, their transposes and pools, against TensorFlow."""

from math import ceil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sirius_tf.errors import Unsupported
from tests.support.parity import check, evaluate, lowered

UNEVEN = [[0, 0], [1, 2], [0, 1], [0, 0]]
PADDINGS = ["SAME", "VALID", UNEVEN]
IDS = ["SAME", "VALID", "EXPLICIT"]


def weights(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def spread(w, dilation):
    """With zeros between its elements, a filter does the same as dilated."""
    size = [(n - 1) * dilation + 1 for n in w.shape[:-2]]
    wide = np.zeros([*size, *w.shape[-2:]], "float32")
    wide[tuple([slice(None, None, dilation)] * len(size))] = w
    return wide


def options(rank, stride=1, dilation=1, padding="SAME", first=False):
    """Attributes of an op with windows over `rank` dimensions, channels first or last."""

    def along(n):
        return [1, 1, *[n] * rank] if first else [1, *[n] * rank, 1]

    found = {"strides": along(stride), "dilations": along(dilation), "padding": padding}
    if not isinstance(padding, str):
        flat = [width for pair in padding for width in pair]
        found |= {"padding": "EXPLICIT", "explicit_paddings": flat}
    letters = "DHW"[-rank:]
    return found | {"data_format": f"NC{letters}" if first else f"N{letters}C"}


def conv(x, w, **given):
    return tf.raw_ops.Conv2D(input=x, filter=w, **options(2, **given))


def depthwise(x, w, **given):
    return tf.raw_ops.DepthwiseConv2dNative(input=x, filter=w, **options(2, **given))


def conv3d(x, w, **given):
    return tf.raw_ops.Conv3D(input=x, filter=w, **options(3, **given))


def transposed(y, w, size, **given):
    shape = [tf.shape(y)[0], *size, w.shape[2]]
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=shape, filter=w, out_backprop=y, **options(2, **given)
    )


# Convolutions


@pytest.mark.parametrize("padding", PADDINGS, ids=IDS)
@pytest.mark.parametrize("channels", [1, 17])
def test_convolution(padding, channels):
    w = weights(3, 2, channels, 5)
    cases = [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)]
    fn = lambda x: [conv(x, w, stride=s, dilation=d, padding=padding) for s, d in cases]
    check(fn, [None, 7, 33, channels], sizes=(0, 1))


@pytest.mark.parametrize("padding", PADDINGS, ids=IDS)
def test_convolution_of_unknown_size(padding):
    w, k = weights(3, 2, 3, 5), weights(3, 2, 3, 1)
    for stride, dilation in [(1, 2), (2, 1)]:
        given = {"stride": stride, "padding": padding}
        fn = lambda x: [conv(x, w, dilation=dilation, **given), depthwise(x, k, **given)]  # noqa: B023
        check(fn, [1, None, None, 3], sizes=(1, 7, 33))


def test_a_kernel_of_one_element():
    w = weights(1, 1, 3, 5)
    program = check(lambda x: conv(x, w), [None, 7, 9, 3], sizes=(0, 2))
    assert [i.extent.const for s in program.statements if s.reduce for i in s.reduce.iters] == [3]
    check(lambda x: conv(x, w, stride=2), [2, None, None, 3], sizes=(1, 7))
    check(lambda x: depthwise(x, weights(1, 1, 3, 1)), [None, 7, 9, 3], sizes=(0, 2))
    check(lambda x: conv(x, weights(1, 1, 1, 1)), [None, 7, 9, 1], sizes=(0, 2))


@pytest.mark.parametrize("padding", PADDINGS, ids=IDS)
def test_groups(padding):
    for groups, channels, made in [(2, 6, 4), (5, 5, 15)]:
        w = weights(3, 2, channels // groups, made)
        fn = lambda x: [conv(x, w, stride=s, padding=padding) for s in (1, 2)]  # noqa: B023
        check(fn, [None, 7, 8, channels], sizes=(0, 2))


@pytest.mark.parametrize("padding", PADDINGS, ids=IDS)
@pytest.mark.parametrize(("channels", "multiplier"), [(1, 1), (3, 2), (17, 1)])
def test_depthwise(padding, channels, multiplier):
    w = weights(3, 3, channels, multiplier)
    fn = lambda x: [depthwise(x, w, stride=s, padding=padding) for s in (1, 2, 3)]
    check(fn, [None, 7, 9, channels], sizes=(0, 2))


def test_one_dimension():
    w = weights(5, 3, 7)
    cases = [(1, 1), (2, 1), (1, 2)]
    for padding in ("SAME", "VALID"):
        fn = lambda x: [tf.nn.conv1d(x, w, s, padding, dilations=d) for s, d in cases]  # noqa: B023
        check(fn, [None, 33, 3], sizes=(0, 2))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_three_dimensions(padding):
    w = weights(3, 2, 3, 3, 5)
    fn = lambda x: [conv3d(x, w, stride=s, padding=padding) for s in (1, 2, 3)]
    check(fn, [None, 7, 5, 6, 3], sizes=(0, 2))
    check(lambda x: conv3d(x, w, stride=2, padding=padding), [1, None, None, 5, 3], sizes=(1, 7))


def test_a_batch_that_is_a_product():
    w = weights(3, 3, 3, 5)

    def fn(x):
        batch, time = tf.shape(x)[0], tf.shape(x)[1]
        y = conv(tf.reshape(x, [-1, 5, 6, 3]), w)
        return tf.reshape(y, [batch, time, 5, 6, 5])

    check(fn, [None, None, 5, 6, 3], sizes=(0, 1, 3))


# Transposed convolutions


@pytest.mark.parametrize("padding", PADDINGS, ids=IDS)
@pytest.mark.parametrize("channels", [1, 17])
def test_transposed_convolution(padding, channels):
    """Sizes of the result between the least and the greatest."""
    w, reach = weights(3, 2, 5, channels), (3, 2)

    def sizes(extents, s, over):
        if padding == "SAME":
            return [s * n - over for n in extents]
        widths = padding[1:3] if padding == UNEVEN else [(0, 0)] * 2
        pairs = zip(extents, reach, widths, strict=True)
        return [s * (n - 1) + k - sum(width) + over for n, k, width in pairs]

    cases = [(1, 0), (2, 0), (2, 1), (3, 2)]
    fn = lambda y: [
        transposed(y, w, sizes((7, 5), s, over), stride=s, padding=padding) for s, over in cases
    ]
    check(fn, [None, 7, 5, channels], sizes=(0, 1))


@pytest.mark.parametrize("kernel", [1, 2, 4, 5])
def test_transposed_convolution_of_unknown_size(kernel):
    w = weights(kernel, kernel, 3, 4)
    for s in (2, 3):
        same = lambda y: transposed(y, w, [s * tf.shape(y)[1], s * 5], stride=s)  # noqa: B023
        check(same, [1, None, 5, 4], sizes=(0, 1, 7))
    size = lambda y: [2 * tf.shape(y)[1] + kernel - 1, 8 + kernel]
    valid = lambda y: transposed(y, w, size(y), stride=2, padding="VALID")
    check(valid, [1, None, 5, 4], sizes=(1, 7))


def test_a_size_that_is_an_input():
    w = weights(3, 3, 3, 4)
    fn = lambda y, n: transposed(y, w, [n, 9], stride=2, padding="VALID")
    for n in (14, 15, 16, 17):
        feeds = lambda _: [weights(1, 7, 4, 4), np.array(n, "int32")]  # noqa: B023
        check(fn, [1, None, 4, 4], [], dtypes=["float32", "int32"], arrays=feeds, sizes=(7,))
    with pytest.raises(Unsupported, match="the padding depends on the size"):
        evaluate(lambda y: transposed(y, w, [tf.shape(y)[0], 9], stride=2), weights(7, 7, 5, 4))


def test_a_transposed_kernel_of_less_than_the_stride():
    """Most results are zero."""
    w = weights(1, 2, 3, 4)
    check(lambda y: transposed(y, w, [15, 12], stride=3), [None, 5, 4, 4], sizes=(0, 2))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_phases_of_a_large_stride_are_computed_together(padding):
    w = weights(32, 27, 3, 4)
    size = [160, 160] if padding == "SAME" else [176, 171]
    fn = lambda y: transposed(y, w, size, stride=16, padding=padding)
    program = lowered(fn, ([None, 10, 10, 4], "float32"))[1]
    assert len(program.statements) <= 16  # and not 256
    small = weights(13, 11, 3, 4)
    check(lambda y: transposed(y, small, [16, 16], stride=8), [None, 2, 2, 4], sizes=(2,))


def test_transposed_groups():
    w = weights(3, 3, 4, 2)
    sizes = lambda y: [tf.shape(y)[0], 8, 10, 4]
    fn = lambda y: tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
        input_sizes=sizes(y), filter=w, out_backprop=y, **options(2, stride=2)
    )
    check(fn, [None, 4, 5, 8], sizes=(0, 2))


@pytest.mark.parametrize("dilation", [2, 3])
def test_dilations_that_are_not_on_the_cpu(dilation):
    w, v, k = weights(3, 2, 3, 4), weights(2, 3, 2, 3, 4), weights(3, 2, 3, 1)
    x, y = weights(2, 9, 8, 3), weights(2, 7, 5, 4)
    layers = [(depthwise, k, x), (conv3d, v, weights(2, 6, 9, 8, 3))]
    cases = [(fn, w, x, {"stride": s}) for s in (1, 2, 3, 4) for fn, w, x in layers]
    for s in (1, 2, 3, 4):
        size = [7 * s, 5 * s]
        cases.append(
            (lambda y, w, size=size, **g: transposed(y, w, size, **g), w, y, {"stride": s})
        )
    size = [12 + 2 * dilation + 1 - 3, 8 + dilation]
    explicit = {"stride": 2, "padding": UNEVEN}
    cases.append((lambda y, w, **g: transposed(y, w, size, **g), w, y, explicit))
    for fn, w, x, kind in cases:
        expected = fn(x, spread(w, dilation), **kind)
        actual = evaluate(lambda x: fn(x, w, dilation=dilation, **kind), x)  # noqa: B023
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_three_dimensions_transposed(padding):
    w = weights(3, 2, 1, 3, 4)

    def fn(y):
        size = [6, 8, 10] if padding == "SAME" else [7, 8, 9]
        return tf.nn.conv3d_transpose(y, w, [tf.shape(y)[0], *size, 3], 2, padding)

    check(fn, [None, 3, 4, 5, 4], sizes=(0, 2))


# Pools


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "stride"), [(1, 2), (2, 2), (3, 1), (3, 2)])
def test_pools(padding, size, stride):
    fn = lambda x: [f(x, size, stride, padding) for f in (tf.nn.max_pool2d, tf.nn.avg_pool2d)]
    check(fn, [None, 9, 8, 3], sizes=(0, 2))
    check(fn, [1, None, None, 3], sizes=(1, 7, 33))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_pools_of_three_dimensions(padding):
    fn = lambda x: [f(x, 3, 2, padding) for f in (tf.nn.max_pool3d, tf.nn.avg_pool3d)]
    check(fn, [None, 5, 6, 7, 3], sizes=(0, 2))


def test_pools_with_explicit_padding():
    given = options(2, 2, padding=UNEVEN)
    del given["dilations"]
    fn = lambda x: tf.raw_ops.MaxPool(input=x, ksize=[1, 3, 3, 1], **given)
    check(fn, [None, 9, 8, 3], sizes=(0, 2))


def test_pools_of_integers():
    fn = lambda x: tf.nn.max_pool2d(tf.cast(x, tf.int32), 3, 2, "SAME")
    check(fn, [None, 5, 8, 3], sizes=(0, 2))


def test_a_pool_over_channels():
    x = weights(1, 4, 4, 4)
    given = {"ksize": [1, 1, 1, 2], "strides": [1, 1, 1, 2], "padding": "VALID"}
    with pytest.raises(Unsupported, match="channel"):
        evaluate(lambda x: tf.raw_ops.MaxPool(input=x, **given), x)


# Channels first: TF's CPU kernels have channels last only


def last(x):
    return x.transpose(0, *range(2, x.ndim), 1)


@pytest.mark.parametrize("padding", ["SAME", "VALID", "EXPLICIT"])
def test_channels_first(padding):
    x, w, k = weights(2, 4, 7, 6), weights(3, 2, 4, 5), weights(3, 2, 4, 2)
    first = [UNEVEN[0], UNEVEN[3], *UNEVEN[1:3]] if padding == "EXPLICIT" else padding
    given = {"stride": 2, "padding": UNEVEN if padding == "EXPLICIT" else padding}
    for layer in (lambda x, **g: conv(x, w, **g), lambda x, **g: depthwise(x, k, **g)):
        actual = evaluate(lambda x: layer(x, **given | {"padding": first}, first=True), x)  # noqa: B023
        np.testing.assert_allclose(last(actual), layer(last(x), **given), rtol=1e-4, atol=1e-4)


def test_channels_first_of_other_ops():
    x, y = weights(2, 3, 5, 6, 7), weights(2, 4, 5, 6)
    w, v = weights(3, 2, 1, 3, 4), weights(3, 3, 3, 4)
    shape = lambda y, first: [tf.shape(y)[0], 3, 10, 12] if first else [tf.shape(y)[0], 10, 12, 3]
    pool = lambda f: lambda x, first: f(x, 3, 2, "SAME", "NCDHW" if first else "NDHWC")
    back = lambda y, first: tf.raw_ops.Conv2DBackpropInput(
        input_sizes=shape(y, first), filter=v, out_backprop=y, **options(2, 2, first=first)
    )
    cases = [(lambda x, first: conv3d(x, w, stride=2, first=first), x), (back, y)]
    cases += [(pool(tf.nn.max_pool3d), x), (pool(tf.nn.avg_pool3d), x)]
    for fn, x in cases:
        actual = evaluate(lambda x: fn(x, True), x)  # noqa: B023
        np.testing.assert_allclose(last(actual), fn(last(x), False), rtol=1e-4, atol=1e-4)


# Any shapes

small = st.integers(1, 4)


@st.composite
def layers(draw):
    """A layer as a function, and the shape of what it is applied to."""
    size = [draw(st.integers(1, 12)), draw(st.integers(1, 12))]
    kernel = [draw(st.integers(1, min(5, n))) for n in size]
    channels, groups, made = draw(small), draw(st.sampled_from([1, 1, 2, 3])), draw(small)
    given = {"stride": draw(st.integers(1, 3)), "padding": draw(st.sampled_from(["SAME", "VALID"]))}
    kind = draw(st.sampled_from(["conv", "depthwise", "transposed", "max", "avg"]))
    if kind == "conv":
        w = weights(*kernel, channels, made * groups)
        return lambda x: conv(x, w, **given), [None, *size, channels * groups]
    if kind == "depthwise":
        w = weights(*kernel, channels, made)
        return lambda x: depthwise(x, w, **given), [None, *size, channels]
    if kind == "transposed":
        w, s = weights(*kernel, made, channels), given["stride"]
        reach = kernel if given["padding"] == "VALID" else [1, 1]
        found = [ceil((n - k + 1) / s) for n, k in zip(size, reach, strict=True)]
        return lambda y: transposed(y, w, size, **given), [None, *found, channels]
    pool = tf.nn.max_pool2d if kind == "max" else tf.nn.avg_pool2d
    return lambda x: pool(x, kernel, given["stride"], given["padding"]), [None, *size, channels]


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(layers())
def test_layers_of_any_shape(layer):
    check(*layer, sizes=(0, 2))
