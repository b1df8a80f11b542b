# SPDX-License-Identifier: Apache-2.0
"""Scans, subscripts that are data, and matrices by their diagonals, against TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.errors import Unsupported
from tests.support.parity import check, evaluate


@pytest.mark.parametrize("fn", [tf.cumsum, tf.math.cumprod])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_scans(fn, exclusive, reverse):
    scan = lambda x, axis: fn(x / 3.0, axis, exclusive, reverse)
    check(lambda x: scan(x, 1), [None, 7])
    check(lambda x: scan(x, 0), [None, 7])
    check(lambda x: scan(x, -2), [3, None, 2])


@pytest.mark.parametrize("dtype", ["int32", "int64", "float64"])
def test_positions_of_what_is_not_masked(dtype):
    mask = lambda n: [(np.arange(3 * n).reshape(3, n) % 4 > 0).astype(dtype)]
    check(lambda m: tf.cumsum(m, 1) * m, [3, None], dtypes=[dtype], arrays=mask)


def test_a_long_scan():
    with pytest.raises(Unsupported, match="more than"):
        evaluate(lambda x: tf.cumsum(x, 1), np.ones((2, 1025), "f"))


def positions(n, *shape, dtype="int32", last=None):
    """Positions in [n, 3, 2]; `last` replaces the last row."""
    rng, limits = np.random.default_rng(0), [max(n, 1), 3, 2][: shape[-1]]
    at = np.stack([rng.integers(0, limit, shape[:-1]) for limit in limits], -1)
    if last is not None and at.size:
        at.reshape(-1, shape[-1])[-1] = last
    return at.astype(dtype)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_gather_nd(depth, dtype):
    full = lambda n: np.arange(6 * n, dtype="f").reshape(n, 3, 2)
    feeds = lambda n: [full(n), positions(n, 4, depth, dtype=dtype)]
    dtypes = ["float32", dtype]
    check(tf.gather_nd, [None, 3, 2], [4, depth], dtypes=dtypes, arrays=feeds)
    feeds = lambda n: [full(7), positions(7, n, 2, depth, dtype=dtype)]
    check(tf.gather_nd, [7, 3, 2], [None, 2, depth], dtypes=dtypes, arrays=feeds)
    for last in ([7, 0, 0], [0, -1, 0], [0, 0, 2]):
        feeds = lambda n: [full(7), positions(7, n, depth, dtype=dtype, last=last[:depth])]  # noqa: B023
        check(tf.gather_nd, [7, 3, 2], [None, depth], dtypes=dtypes, arrays=feeds, sizes=(0, 1, 7))


def test_gather_nd_at_known_positions():
    check(lambda x: tf.gather_nd(x, [[1, 4]]), [None, 5], sizes=(0, 1, 2, 33))
    check(lambda x: tf.gather_nd(x, [[1, 4], [0, 0]]), [None, 5], sizes=(0, 1, 2, 33))
    check(lambda x: tf.gather_nd(x, [tf.shape(x)[0] - 1]), [None, 5])
    check(lambda x: tf.gather_nd(tf.reshape(x, [-1, 2, 3]), [[1], [0]]), [None, 6], sizes=(1, 7))
    rows = lambda x: tf.stack([tf.range(tf.shape(x)[0]), tf.argmax(x, 1, tf.int32)], 1)
    check(lambda x: tf.gather_nd(x, rows(x)), [None, 5], sizes=(1, 7, 33))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("lengths", [[3, 0, 7, 1], [4, 8, 2, 2], [1, 2, -1, 0]])
def test_reverse_sequence(dtype, lengths):
    def feeds(n):
        return [np.arange(4 * n, dtype="f").reshape(4, n), np.array(lengths, dtype)]

    def transposed(n):
        x, at = feeds(n)
        return [np.repeat(x.T[:, :, None], 3, 2), at]

    fn, dtypes = tf.reverse_sequence, ["float32", dtype]
    check(lambda x, n: fn(x, n, 1), [4, None], [4], dtypes=dtypes, arrays=feeds)
    three = [None, 4, 3], [None]
    check(lambda x, n: fn(x, n, 0, 1), *three, dtypes=dtypes, arrays=transposed, sizes=(1, 7, 33))


@pytest.mark.parametrize("bounds", [(-1, 0), (0, -1), (1, 2), (0, 0), (-1, -1), (4, 1)])
def test_band_part(bounds):
    check(lambda x: tf.linalg.band_part(x, *bounds), [None, 3, 5])
    check(lambda x: tf.linalg.band_part(x, *bounds), [2, None, None], sizes=(0, 1, 7, 33))
    causal = lambda x: tf.linalg.band_part(tf.ones([tf.shape(x)[0]] * 2), -1, 0)
    check(causal, [None], sizes=(0, 1, 7))


def test_diagonals():
    diagonal = tf.linalg.diag
    check(lambda x: diagonal(x), [None, 5])
    check(lambda x: diagonal(x, padding_value=2.0), [3, None], sizes=(1, 7, 33))
    check(lambda x: diagonal(tf.shape(x)), [None, 5])
    for shape in ([None, 3, 5], [None, 5, 3], [None, 1, 4], [3, None, None], [None, 3]):
        check(lambda x: tf.linalg.diag_part(x), shape)
    for shape in ([None, 3, 5], [None, 5, 3], [None, 4, 4]):
        check(lambda x: tf.linalg.set_diag(x, x[:, :3, 0] * 2.0), [None, 3, 5])
        narrow = lambda x: tf.linalg.set_diag(x, x[:, 0, : min(x.shape[1:])])
        check(narrow, shape if shape[1] >= shape[2] else [None, 5, 3])
    with pytest.raises(Unsupported, match="other diagonals"):
        evaluate(lambda x: diagonal(x, k=1), np.ones((2, 3), "f"))


def test_shapes_that_broadcast():
    shape = tf.broadcast_dynamic_shape
    check(lambda x: shape(tf.shape(x), tf.shape(x)[1:]), [None, 3])
    check(lambda x: shape(tf.shape(x), tf.constant([4, 1])), [None, 3], sizes=(4,))
    check(lambda x: tf.transpose(x, tf.math.invert_permutation([2, 0, 1])), [None, 3, 4])
    check(lambda x: tf.fill([tf.where(tf.rank(x) > 1, tf.shape(x)[0], 5), 2], 1.0), [None, 3])


def test_linspace():
    check(lambda x: tf.raw_ops.LinSpace(start=0.1, stop=2.0, num=7) * x, [None, 7])
    check(lambda x: tf.raw_ops.LinSpace(start=x[0], stop=x[1], num=tf.size(x)), [None])
    check(lambda x: tf.raw_ops.LinSpace(start=0.1, stop=x[0], num=1), [None])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_buckets(dtype):
    bucketize = lambda x: tf.raw_ops.Bucketize(input=x, boundaries=[-2.0, 0.0, 1.0])
    check(bucketize, [None, 5], dtypes=[dtype])
    check(lambda x: tf.raw_ops.Bucketize(input=x, boundaries=[]), [None], dtypes=[dtype])
    if dtype == "float32":
        nan = lambda _: [np.array([np.nan, np.inf, -np.inf, 1.0, -0.0], "f")]
        check(bucketize, [None], arrays=nan, sizes=(5,))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_search_sorted(side, dtype):
    def feeds(n):
        rng = np.random.default_rng(0)
        row = np.sort(rng.integers(0, 9, (3, n)), 1)
        return [row.astype(dtype), rng.integers(-1, 11, (3, 5)).astype(dtype)]

    for output in ("int32", "int64"):
        fn = lambda a, v: tf.searchsorted(a, v, side, output)  # noqa: B023
        check(fn, [3, None], [3, 5], dtypes=[dtype] * 2, arrays=feeds)
    nan = lambda _: [np.array([0, 1, 1], "f"), np.array([np.nan, 1, 2], "f")]
    check(lambda a, v: tf.searchsorted(a, v, side), [None], [None], arrays=nan, sizes=(3,))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_counts(binary, dtype):
    none = np.zeros(0, "f")

    def count(x, weights):
        return tf.raw_ops.DenseBincount(input=x, size=5, weights=weights, binary_output=binary)

    ids = lambda n: [(np.arange(3 * n).reshape(3, n) % 7).astype(dtype)]
    check(lambda x: count(x, none), [3, None], dtypes=[dtype], arrays=ids)
    check(lambda x: count(x[0], none), [3, None], dtypes=[dtype], arrays=ids)
    weighed = lambda n: [*ids(n), np.arange(3 * n, dtype="f").reshape(3, n)]
    check(count, [3, None], [3, None], dtypes=[dtype, "float32"], arrays=weighed)
    negative = lambda n: [np.array([[1] * n, [-1] * n], dtype)]
    check(lambda x: count(x, none), [2, None], dtypes=[dtype], arrays=negative)
