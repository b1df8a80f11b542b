# SPDX-License-Identifier: Apache-2.0
"""Every rule against TensorFlow, with unknown sizes: interpreted, and as generated code."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.errors import InvalidArgument, Unsupported
from tests.support.parity import check, evaluate

UNARY = ["abs", "exp", "square", "tanh", "sigmoid", "floor", "sign", "neg", "cos", "sin"]
ACTIVATIONS = ["relu", "relu6", "elu", "selu", "softplus", "softsign", "leaky_relu", "silu", "gelu"]


@pytest.mark.parametrize("name", UNARY)
def test_unary(name):
    check(
        {"neg": tf.negative}.get(name) or getattr(tf, name, getattr(tf.math, name, None)), [None, 5]
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    check(getattr(tf.nn, name), [None, 5])


BINARY = ["add", "subtract", "multiply", "maximum", "minimum", "squared_difference"]


@pytest.mark.parametrize("name", BINARY)
def test_binary_broadcasts(name):
    fn = getattr(tf.math, name)
    check(fn, [None, 5], [5])
    check(fn, [None, 1, 3], [4, 1])
    check(fn, [None, 5], [None, 1], sizes=(0, 1, 7))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: tf.sqrt(tf.abs(x)) + tf.math.rsqrt(x * x + 1.0) - tf.math.log(tf.abs(x) + 1.0),
        lambda x: tf.math.erf(x) / 2.0 + tf.math.divide_no_nan(x, tf.nn.relu(x)),
        lambda x: tf.where(x > 0.0, x, x * 2.0),
        lambda x: tf.cast(tf.logical_and(x > 0.0, x < 1.0), tf.float32),
        lambda x: tf.cast(x, tf.int32) // 3 + tf.cast(x, tf.int32) % 2,
        lambda x: tf.pow(tf.abs(x), 2.5),
        lambda x: tf.nn.bias_add(x, tf.range(12.0)),
        lambda x: tf.nn.l2_loss(x),
        lambda x: tf.raw_ops.EuclideanNorm(input=x, axis=[1], keep_dims=True),
        lambda x: tf.raw_ops.ClipByValue(t=x, clip_value_min=-1.0, clip_value_max=tf.abs(x)),
        lambda x: tf.math.logical_xor(x > 0.0, x < 1.0),
        lambda x: tf.raw_ops.ApproximateEqual(x=x, y=x[:, ::-1], tolerance=0.5),
        lambda x: tf.raw_ops.ApproximateEqual(x=tf.round(x), y=tf.round(x[:, ::-1]), tolerance=1.0),
        lambda x: tf.truncatemod(tf.cast(x * 9.0, tf.int32), 4),
        lambda x: tf.sequence_mask(tf.cast(x, tf.int32), 5),
        lambda x: tf.clip_by_value(x, -1.0, 1.0) * tf.math.reciprocal(x * x + 1.0),
        lambda x: x + tf.math.floordiv(tf.range(12.0), 0.1),  # 10.0 of 1.0, as TensorFlow has it
    ],
)
def test_formulas(fn):
    check(fn, [None, 12])


RULED = [0.0, -0.0, 1.0, -2.5, float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize(
    "fn",
    [
        tf.math.divide_no_nan,
        tf.math.multiply_no_nan,
        tf.math.xdivy,
        tf.math.xlogy,
        tf.math.xlog1py,
        lambda x, y: tf.math.is_inf(x) & tf.math.is_finite(y) | tf.math.is_nan(x + y),
    ],
)
def test_numbers_that_are_none(fn):
    grid = lambda _: [a.astype("f").ravel() for a in np.meshgrid(RULED, RULED)]
    check(fn, [None], [None], arrays=grid, sizes=(49,))


INTEGERS = ["int8", "int16", "int32", "int64", "uint8"]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap(dtype):
    """Beside their ends, too."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    ends = np.array([low, low + 1, 0, 1, 2, 7, high - 1, high], dtype)
    grid = lambda _: [a.reshape(-1, 8) for a in np.meshgrid(ends, ends)]

    def fn(x, y):
        some = [x + y, x - y, x * y, tf.maximum(x, y), tf.minimum(x, y)]
        some += [] if dtype == "uint8" else [tf.abs(x), -y]
        sums = [tf.reduce_sum(x, 1), tf.reduce_max(y, 0), tf.reduce_min(x, 1), tf.reduce_prod(x, 1)]
        return some + sums

    check(fn, [None, 8], [None, 8], dtypes=[dtype] * 2, arrays=grid, sizes=(8,))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_quotients_of_integers(dtype):
    """Rounded down, and the least number divided by -1."""
    least = np.iinfo(dtype).min
    x = np.array([least, -7, -1, 0, 1, 7, np.iinfo(dtype).max]).astype(dtype)
    y = np.array([1, 2, 3, 5, np.iinfo(dtype).max, -1 if least else 9]).astype(dtype)
    grid = lambda _: [a.reshape(-1, 7) for a in np.meshgrid(x, y)]
    fn = lambda x, y: (tf.math.floordiv(x, y), tf.math.floormod(x, y))
    check(fn, [None, 7], [None, 7], dtypes=[dtype] * 2, arrays=grid, sizes=(6,))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_bits(dtype):
    rows = lambda n: [np.arange(n * 5).reshape(n, 5).astype(dtype), np.arange(5).astype(dtype)]
    for fn in (tf.bitwise.bitwise_and, tf.bitwise.bitwise_or, tf.bitwise.bitwise_xor):
        check(fn, [None, 5], [5], dtypes=[dtype] * 2, arrays=rows)
    check(tf.bitwise.invert, [None, 5], dtypes=[dtype], arrays=lambda n: rows(n)[:1])


ENDS = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, np.inf, -np.inf, np.nan, 3e38, 1e-30, -1e-30]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_angles(dtype):
    """Of zeros and infinities of both signs, and what has none."""
    y, x = (grid.ravel().astype(dtype) for grid in np.meshgrid(ENDS, ENDS))
    check(tf.atan2, [None], [None], dtypes=[dtype] * 2, arrays=lambda _: [y, x])
    check(tf.atan2, [None, 5], [None, 1], dtypes=[dtype] * 2)


@pytest.mark.parametrize("fn", [tf.atan, tf.asin, tf.acos])
def test_angles_of_coordinates(fn):
    numbers = np.append(ENDS, np.linspace(-1, 1, 40)).astype(np.float32)
    check(fn, [None], arrays=lambda _: [numbers])


@pytest.mark.parametrize("fn", [tf.bitwise.left_shift, tf.bitwise.right_shift])
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8"])
def test_shifts(fn, dtype):
    """By less than nothing, and by more than all bits, too."""
    ends = [np.iinfo(dtype).min, np.iinfo(dtype).max, 1, -1, 85, -86]
    amounts = [-100, -1, 0, 1, 5, 7, 8, 15, 16, 31, 32, 63, 64, 100]
    grid = np.meshgrid(np.array(ends).astype(dtype), np.array(amounts).astype(dtype))
    check(fn, [None], [None], dtypes=[dtype] * 2, arrays=lambda _: [a.ravel() for a in grid])
    check(lambda x: fn(x, np.array(9, dtype)), [None], dtypes=[dtype])


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: tf.reshape(x, [-1, 3, 4]),
        lambda x: tf.reshape(x, [tf.shape(x)[0] * 12]),
        lambda x: tf.reshape(tf.transpose(tf.reshape(x, [-1, 3, 4]), [0, 2, 1]), [-1, 12]),
        lambda x: tf.reshape(tf.reshape(x, [-1, 4, 3]), [tf.shape(x)[0], 3, 4]) + 1.0,
        lambda x: tf.transpose(x),
        lambda x: x[:, 2:9:3],
        lambda x: x[:, ::-2],
        lambda x: x[..., -1],
        lambda x: x[:, tf.newaxis, 3],
        lambda x: x[0],
        lambda x: x[:-1],
        lambda x: x[::-1],
        lambda x: tf.reverse(x, [0, -1]),
        lambda x: tf.roll(tf.reshape(x, [-1, 3, 4]), [-1, 6], [1, 2]),
        lambda x: tf.slice(x, [0, 2], [-1, 5]),
        lambda x: tf.squeeze(tf.expand_dims(x, 1), [1]),
        lambda x: tf.stack([x, x + 1.0], 1),
        lambda x: tf.unstack(x, 12, axis=1)[3],
        lambda x: tf.split(x, 3, axis=1)[1],
        lambda x: tf.split(x, [2, -1, 3], axis=1)[1],
        lambda x: tf.concat([x, x[:, :3], x], 1),
        lambda x: tf.concat([x, x], 0),
        lambda x: tf.pad(x, [[1, 2], [0, 3]], constant_values=2.0),
        lambda x: tf.pad(x, [[0, 0], [2, 3]], mode="REFLECT"),
        lambda x: tf.pad(x, [[0, 0], [2, 3]], mode="SYMMETRIC"),
        lambda x: tf.tile(x, [2, 3]),
        lambda x: tf.fill([tf.shape(x)[0], 3], 1.5),
        lambda x: tf.zeros_like(x) + tf.ones_like(x),
        lambda x: tf.broadcast_to(x[:, :1], [tf.shape(x)[0], 4]),
        lambda x: tf.range(tf.shape(x)[0] * 2 + 1),
        lambda x: tf.shape(x)[0] * 3 + tf.size(x) + tf.rank(x),
        lambda x: tf.gather(x, [3, 1, 1], axis=1),
        lambda x: tf.gather(
            tf.constant(np.arange(24.0).reshape(8, 3)), tf.cast(tf.sign(x), tf.int32) + 1
        ),
        lambda x: tf.gather(x[:, 1:], tf.range(tf.shape(x)[0])),
    ],
)
def test_movement(fn):
    check(fn, [None, 12], fails=r": size x_0 \+ -1 is negative")


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min", "prod"])
@pytest.mark.parametrize(("axis", "keep"), [(None, False), (1, True), ([0, 2], False), (-1, False)])
def test_reductions(name, axis, keep):
    fn = getattr(tf, f"reduce_{name}")
    check(lambda x: fn(x / 4.0, axis, keepdims=keep), [None, 3, 4], sizes=(1, 2, 7))


def test_logical_reductions():
    check(lambda x: tf.reduce_all(x > -3.0, 1), [None, 5])
    check(lambda x: tf.reduce_any(x > 3.0, 1), [None, 5])


def test_softmax():
    check(lambda x: tf.nn.softmax(x), [None, 5, 7])
    check(lambda x: tf.nn.log_softmax(x), [None, 7])


@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
def test_matmul(ta, tb):
    fn = lambda a, b: tf.matmul(a, b, ta, tb)
    check(fn, [5, None] if ta else [None, 5], [7, 5] if tb else [5, 7], sizes=(0, 1, 33))
    check(fn, [None, 2, 5, 3] if ta else [None, 2, 3, 5], [2, 7, 5] if tb else [2, 5, 7])


def test_matmul_checks_the_common_size():
    check(lambda a, b: tf.matmul(a, b), [3, None], [None, 4], sizes=(1, 7))


@pytest.mark.parametrize("padding", ["SAME", "VALID", [[0, 0], [1, 2], [0, 1], [0, 0]]])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_convolutions(padding, stride, dilation):
    w = np.random.default_rng(1).standard_normal((3, 2, 4, 6)).astype("float32")
    fn = lambda x: tf.nn.conv2d(x, w, stride, padding, dilations=dilation)
    check(fn, [None, 9, 8, 4], sizes=(1, 3))
    if dilation == 1:
        fn = lambda x: tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], padding)
        check(fn, [None, 9, 8, 4], sizes=(1, 3))


def test_convolution_of_unknown_size_and_groups():
    w = np.random.default_rng(1).standard_normal((3, 3, 2, 6)).astype("float32")
    for stride in (1, 2):
        fn = lambda x: tf.nn.conv2d(x, w, stride, "SAME")  # noqa: B023
        check(fn, [2, None, None, 2], sizes=(1, 7, 8))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("kind", [tf.nn.max_pool2d, tf.nn.avg_pool2d])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1)])
def test_pooling(kind, padding, size, stride):
    check(lambda x: kind(x, size, stride, padding), [None, 9, 8, 3], sizes=(1, 3))


def test_batch_norm():
    c = [np.linspace(0.5, 2, 3).astype("float32")] * 4
    norm = tf.compat.v1.nn.fused_batch_norm
    check(lambda x: norm(x, *c, is_training=False)[0], [None, 4, 5, 3])


def test_grouped_convolution():
    w = np.random.default_rng(1).standard_normal((3, 2, 2, 6)).astype("float32")
    x = np.random.default_rng(2).standard_normal((2, 5, 6, 4)).astype("float32")
    actual = evaluate(lambda x: tf.nn.conv2d(x, w, 1, "SAME"), x)
    halves = [
        tf.nn.conv2d(x[..., 2 * g : 2 * g + 2], w[..., 3 * g : 3 * g + 3], 1, "SAME")
        for g in range(2)
    ]
    np.testing.assert_allclose(actual, tf.concat(halves, -1), rtol=1e-4, atol=1e-4)


def test_sizes_that_must_agree():
    x, y = np.ones((3, 2), "float32"), np.ones((4, 2), "float32")
    assert evaluate(tf.add, x, x).shape == (3, 2)
    with pytest.raises(InvalidArgument, match="must be equal"):
        evaluate(tf.add, x, y)


def test_a_shape_is_ensured():
    flat = lambda x: tf.ensure_shape(tf.reshape(x, [-1]), [12])
    check(lambda x: tf.ensure_shape(x, [None, 3]), [2, None], sizes=(3, 4), fails="3")
    check(lambda x: flat(x) * 2.0, [None, None], sizes=(3, 4), arrays=_of_twelve, fails="12")


def _of_twelve(rows):
    return [np.ones((rows, 4), "f")]


def test_indices_out_of_range():
    table = np.arange(6.0).reshape(3, 2)
    indices = np.array([0, 3], "int32")
    with pytest.raises(InvalidArgument):
        evaluate(lambda i: tf.gather(table, i), indices)


def test_sizes_from_an_input():
    n = np.array(3, "int32")
    np.testing.assert_array_equal(evaluate(lambda n: tf.fill([n, 2], 1.0), n), np.ones((3, 2)))
    np.testing.assert_array_equal(evaluate(lambda n: tf.range(n * 2), n), np.arange(6))
    with pytest.raises(InvalidArgument):
        evaluate(lambda n: tf.fill([n, 2], 1.0), np.array(-1, "int32"))


def test_an_op_without_a_rule():
    with pytest.raises(Unsupported, match="no rule"):
        evaluate(tf.linalg.inv, np.ones((2, 3, 3), "float32"))


def test_attention_block():
    w = np.random.default_rng(1).standard_normal((12, 36)).astype("float32")

    def fn(x):
        batch, length = tf.shape(x)[0], tf.shape(x)[1]
        flat = tf.matmul(tf.reshape(x, [-1, 12]), w)
        qkv = tf.reshape(flat, [batch, length, 3, 4, 3])
        q, k, v = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]), 3)
        p = tf.nn.softmax(tf.matmul(q, k, transpose_b=True))
        return tf.reshape(tf.transpose(tf.matmul(p, v), [0, 2, 1, 3]), [batch, length, 12]) + x

    check(fn, [None, None, 12], sizes=(1, 5))


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("abc,cde->abde", [None, 3, 4], [4, 2, 5]),
        ("aecd,abcd->acbe", [None, 3, 2, 5], [None, 4, 2, 5]),
        ("acbe,aecd->abcd", [None, 2, 4, 3], [None, 3, 2, 5]),
        ("...x,xy->...y", [None, 3, 4], [4, 2]),
        ("ab,b->", [None, 3], [3]),
    ],
)
def test_einsum(equation, left, right):
    check(lambda a, b: tf.einsum(equation, a, b), left, right)


def test_one_hot_and_batched_gather():
    check(lambda x: tf.one_hot(tf.cast(x, tf.int32), 4, 2.0, 0.5), [None, 3])
    check(lambda x: tf.one_hot(tf.cast(x, tf.int32), 4, axis=1), [None, 3])
    at = lambda x: tf.cast(x > 0.0, tf.int32)
    check(lambda x: tf.gather(x, at(x), axis=1, batch_dims=1), [None, 3])
    check(lambda x: tf.gather(tf.reshape(x, [-1, 2, 3]), at(x), axis=2, batch_dims=1), [None, 6])


def test_channels_first():
    w = np.random.default_rng(1).standard_normal((3, 3, 4, 6)).astype("float32")
    x = np.random.default_rng(2).standard_normal((2, 5, 6, 4)).astype("float32")
    first = x.transpose(0, 3, 1, 2)
    for layers in (
        lambda x, f: tf.nn.conv2d(x, w, 2, "SAME", f),
        lambda x, f: tf.nn.bias_add(x, np.arange(4, dtype="float32"), f),
        lambda x, f: tf.nn.max_pool2d(x, 3, 2, "SAME", f),
        lambda x, f: tf.nn.avg_pool2d(x, 2, 2, "VALID", f),
    ):
        actual = evaluate(lambda x: layers(x, "NCHW"), first)  # noqa: B023
        expected = layers(x, "NHWC").numpy().transpose(0, 3, 1, 2)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x[: tf.shape(x)[0] // 2],
        lambda x: x[tf.shape(x)[0] - 3 : tf.shape(x)[0] - 1],
        lambda x: x[1 : tf.shape(x)[1] - 1 :, 2:][:, ::3],
        lambda x: tf.reshape(x, [-1])[: tf.size(x[:, 0])],
        lambda x: tf.reshape(x, [tf.shape(x)[0], 3, -1]) * tf.reshape(x[0], [3, 4]),
        lambda x: tf.reshape(x, [-1, 3, 4]) + tf.reshape(x[:, :4], [-1, 1, 4]),
        lambda x: tf.concat([tf.reshape(x, [-1, 4]), x[:, :4]], 0),
        lambda x: tf.pad(tf.reshape(x, [-1, 4]), [[2, 1], [0, 0]]),
        lambda x: tf.reduce_sum(tf.reshape(x, [-1, 4]), 0),
        lambda x: tf.tile(x, [1, 3]) + tf.concat([x, x, x], 1),
        lambda x: tf.tile(tf.reshape(x, [-1, 1, 12]), [1, tf.shape(x)[0], 1]) - x,
        lambda x: tf.matmul(x, x, transpose_b=True) @ x,
        lambda x: tf.cast(tf.range(tf.shape(x)[0])[:, None] < tf.range(12), tf.float32) * x,
        lambda x: tf.reshape(x, [-1, 6, 2])[:, :, 0],
        lambda x: tf.nn.depthwise_conv2d(
            tf.reshape(x, [-1, 2, 3, 2]), tf.ones([2, 2, 2, 1]), [1] * 4, "SAME"
        ),
    ],
)
def test_compositions(fn):
    check(fn, [None, 12], sizes=(1, 2, 7))
