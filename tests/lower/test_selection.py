# SPDX-License-Identifier: Apache-2.0
"""Ops that select elements, and updates of few rows, against TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.errors import Unsupported
from tests.support.parity import check, evaluate

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("fn", [tf.argmax, tf.argmin])
@pytest.mark.parametrize("output", ["int32", "int64"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_position_of_an_extreme(fn, output, axis):
    check(lambda x: fn(x, axis, output), [None, 5])
    check(lambda x: fn(tf.round(x / 3.0), axis, output), [33, None], sizes=(0, 1, 7, 33))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float64", "bool"])
def test_position_in_other_types(dtype):
    numbers = lambda n: [np.random.default_rng(0).integers(0, 3, (n, 7)).astype(dtype)]
    for fn in (tf.argmax, tf.argmin):
        check(lambda x: fn(x, 1), [None, 7], dtypes=[dtype], arrays=numbers)  # noqa: B023


def test_position_in_several_dimensions():
    check(lambda x: tf.argmax(tf.reshape(x, [-1, 3, 4]), 1), [None, 12])
    check(lambda x: tf.argmin(tf.transpose(x, [2, 0, 1]), 1), [4, None, 3])


@pytest.mark.parametrize("fn", [tf.argmax, tf.argmin])
def test_position_beside_nan(fn):
    """TF's kernel skips a NaN, and answers 0 if nothing beats an infinity."""
    rows = [
        [NAN, 1, 2, 0],
        [2, NAN, 1, 2],
        [NAN, NAN, NAN, NAN],
        [NAN, -INF, -INF, NAN],
        [NAN, INF, NAN, INF],
        [-INF, -INF, NAN, -INF],
        [INF, INF, INF, INF],
    ]
    check(lambda x: fn(x, 1), [None, 4], arrays=lambda _: [np.array(rows, "f")], sizes=(7,))


X = np.arange(42, dtype="f").reshape(7, 3, 2)
SCATTERS = [
    tf.tensor_scatter_nd_update,
    tf.tensor_scatter_nd_add,
    tf.tensor_scatter_nd_sub,
    tf.tensor_scatter_nd_max,
    tf.tensor_scatter_nd_min,
]


@pytest.mark.parametrize("fn", SCATTERS)
@pytest.mark.parametrize("at", [[[3]], [[1], [0], [1]], [[0, 1], [2, 2]], [[1, 0, 1], [6, 2, 0]]])
def test_updates_at_constant_positions(fn, at):
    shape = [len(at), *[3, 2][len(at[0]) - 1 :]]
    rest = [None, 3, 2]
    check(lambda x, u: fn(x, at, u), rest, shape, sizes=(0, 1, 2, 7, 33))


@pytest.mark.parametrize("fn", SCATTERS)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_updates_at_positions_that_are_data(fn, depth, dtype):
    def arrays(n):
        at = np.array([[1, 2, 1], [0, 0, 0], [1, 2, n - 7]], dtype)[:, :depth]
        news = np.random.default_rng(0).standard_normal((3, *[3, 2][depth - 1 :])) * 50
        return [np.resize(X, (n, 3, 2)), at, news.astype("f")]

    specs = [None, 3, 2], [3, depth], [3, *[3, 2][depth - 1 :]]
    dtypes = ["float32", dtype, "float32"]
    check(lambda x, at, u: fn(x, at, u), *specs, dtypes=dtypes, arrays=arrays, sizes=(0, 1, 7, 8))


@pytest.mark.parametrize("at", [-1, 0, 6, 7, 2**31 - 1])
def test_an_update_out_of_range(at):
    fn = lambda x, at: tf.tensor_scatter_nd_update(x, at, tf.ones([1, 3, 2]))
    feeds = lambda _: [X, np.array([[at]], "int32")]
    check(fn, [None, 3, 2], [1, 1], dtypes=["float32", "int32"], arrays=feeds, sizes=(7,))
    check(lambda x: fn(x, [[at]]), [None, 3, 2], sizes=(7,))
    fn = lambda at: tf.scatter_nd(at, tf.ones([1, 2]), [7, 2])
    check(fn, [1, 1], dtypes=["int32"], arrays=lambda n: feeds(n)[1:], sizes=(7,))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float64", "bool"])
def test_updates_of_other_types(dtype):
    x, at = (np.arange(33) % 5 * 3).astype(dtype), [[7], [32], [7]]
    for fn in SCATTERS[: 1 if dtype == "bool" else 5]:
        new = np.array([1, 7, 4], dtype)
        check(lambda x: fn(x, at, new), [None], dtypes=[dtype], arrays=lambda n: [x[:n]])  # noqa: B023


@pytest.mark.parametrize("fn", SCATTERS)
def test_updates_with_nan(fn):
    x, new = np.array([0, NAN, 1, -0.0, INF], "f"), np.array([NAN, 2, 3, NAN, -0.0, 1], "f")
    at = [[0], [0], [1], [2], [3], [4]]
    check(lambda x: fn(x, at, new), [None], arrays=lambda _: [x], sizes=(5,))


def test_updates_of_more_dimensions():
    new = np.arange(4, dtype="f").reshape(2, 1, 2)
    at = [[[1, 1]], [[0, 2]]]
    check(lambda x: tf.tensor_scatter_nd_update(x, at, new), [None, 3, 2], sizes=(1, 2, 7))
    check(lambda x: tf.tensor_scatter_nd_add(x, tf.zeros([0, 1], "int32"), x[:0]), [None, 3])


def test_scatter_into_zeros():
    check(lambda u: tf.scatter_nd([[2], [0], [2]], u, [5, tf.shape(u)[1]]), [3, None])
    check(lambda u: tf.scatter_nd([[2, 0], [0, 1], [2, 0]], u[0], [5, 2]), [None, 3], sizes=(1, 7))


def loop(fn):
    """y after rows 0, 1, ... of it were updated, each with the sum of what was there before."""

    def run(x):
        body = lambda i, y: (i + 1, fn(y, i, tf.reduce_sum(y, 0) + x[i]))
        return tf.while_loop(lambda i, _: i < tf.shape(x)[0], body, (0, x))[1]

    return run


@pytest.mark.parametrize("fn", [tf.tensor_scatter_nd_update, tf.tensor_scatter_nd_max])
def test_updates_in_a_loop(fn):
    check(loop(lambda y, i, new: fn(y, [[i]], new[None] / 8.0)), [None, 3], sizes=(1, 2, 7))
    check(loop(lambda y, i, new: fn(y, [[i, 2]], [new[0] / 8.0])), [None, 3], sizes=(1, 2, 7))
    best = lambda new: tf.argmax(new, 0, "int32")
    check(loop(lambda y, i, new: fn(y, [[i, best(new)]], [new[0]])), [None, 3], sizes=(1, 2, 7))


def test_a_greedy_decoder():
    table = np.random.default_rng(1).standard_normal((11, 8)).astype("f")

    def decode(x):
        out = tf.zeros([6, tf.shape(x)[0]], tf.int32)

        def body(i, state, token, out):
            state = tf.tanh(state + tf.gather(table, token))
            token = tf.argmax(tf.matmul(state, table, transpose_b=True), 1, tf.int32)
            return i + 1, state, token, tf.tensor_scatter_nd_update(out, [[i]], [token])

        start = 0, x, tf.argmax(x, 1, tf.int32), out
        return tf.while_loop(lambda i, *_: i < 6, body, start)[1:]

    check(decode, [None, 8], sizes=(1, 7, 33))


@pytest.mark.parametrize("fn", SCATTERS)
def test_one_update_in_each_row(fn):
    rows = lambda x: tf.range(tf.shape(x)[0])
    best = lambda x: tf.argmax(x, 1, tf.int32)
    check(lambda x: fn(x, tf.stack([rows(x), best(x)], 1), x[:, 0]), [None, 5])
    wide = lambda x: tf.reshape(x, [-1, 3, 2])
    at = lambda x: tf.concat([rows(x)[:, None], best(x[:, :3])[:, None]], 1)
    check(lambda x: fn(wide(x), tf.cast(at(x), tf.int64), x[:, 1:3] * 2.0), [None, 6])
    pairs = lambda x: tf.stack([rows(x), best(x[:, :3]), best(x[:, 4:])], 1)
    check(lambda x: fn(wide(x), pairs(x), x[:, 1] * 2.0), [None, 6])


@pytest.mark.parametrize("last", [-1, 0, 4, 5])
def test_one_update_in_each_row_out_of_range(last):
    def fn(x, at):
        rows = tf.stack([tf.range(tf.shape(x)[0]), at], 1)
        return tf.tensor_scatter_nd_update(x, rows, x[:, 0])

    feeds = lambda _: [np.ones((7, 5), "f"), np.array([0, 1, 2, 3, 4, 0, last], "int32")]
    check(fn, [7, 5], [7], dtypes=["float32", "int32"], arrays=feeds, sizes=(7,))


def test_one_update_in_each_row_in_a_loop():
    def fn(x):
        def body(i, y):
            at = tf.stack([tf.range(tf.shape(x)[0]), tf.argmin(y, 1, tf.int32)], 1)
            return i + 1, tf.tensor_scatter_nd_add(y, at, tf.reduce_max(y, 1))

        return tf.while_loop(lambda i, _: i < 6, body, (0, x))[1]

    check(fn, [None, 5], sizes=(1, 7, 33))


def test_too_many_updates():
    with pytest.raises(Unsupported, match="17 updates"):
        evaluate(lambda x: tf.tensor_scatter_nd_add(x, [[0]] * 17, x[:17]), np.ones((33, 2), "f"))
    with pytest.raises(Unsupported, match="must be constant"):
        evaluate(
            lambda x: tf.tensor_scatter_nd_add(x, tf.range(tf.shape(x)[0])[:, None], x[::-1]),
            np.ones((33, 2), "f"),
        )


@pytest.mark.parametrize("k", [0, 1, 2, 5, 7])
def test_top_k(k):
    check(lambda x: tf.math.top_k(x, k), [None, 7])
    check(lambda x: tf.math.top_k(tf.round(x / 3.0), k), [3, None], sizes=(0, 1, 7, 33))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float64"])
def test_top_k_of_other_types(dtype):
    numbers = lambda n: [np.random.default_rng(0).integers(0, 4, (n, 9)).astype(dtype)]
    check(lambda x: tf.math.top_k(x, 4), [None, 9], dtypes=[dtype], arrays=numbers)


def test_top_k_of_infinities():
    rows = np.array([[-INF, 1, -INF, -INF], [INF, INF, -INF, 0], [-INF] * 4], "f")
    check(lambda x: tf.math.top_k(x, 3), [None, 4], arrays=lambda _: [rows], sizes=(3,))


def test_top_k_beside_nan():
    """In TF what NaN does depends on k and on where it stands; here its place is that of -inf."""
    x = np.array([[NAN, 1, 2], [1, 2, NAN], [2, NAN, 1]], "f")
    where = evaluate(lambda x: tf.math.top_k(x, 3)[1], x)
    np.testing.assert_array_equal(where, [[2, 1, 0], [1, 0, 2], [0, 2, 1]])


def test_too_many_of_top_k():
    with pytest.raises(Unsupported, match="first 17"):
        evaluate(lambda x: tf.math.top_k(x, 17), np.ones((2, 33), "f"))
    with pytest.raises(Unsupported, match="not sorted"):
        evaluate(lambda x: tf.math.top_k(x, 2, sorted=False), np.ones((2, 33), "f"))
