# SPDX-License-Identifier: Apache-2.0
"""Numbers of half precision against TensorFlow: stored so, computed in float32."""

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
import sirius_tf.runtime
from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.expr import Call, walk
from sirius_tf.rewrite import measure
from sirius_tf.rewrite.difference import relative_error
from tests.support import parity

EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}

pytestmark = pytest.mark.parametrize("dtype", EPSILON)


def check(fn, *shapes, dtype, ulps=2, **options):
    """Within some steps of the dtype: TensorFlow rounds at other places inside of an op."""
    tolerance = ulps * EPSILON[dtype]
    options = {"dtypes": [dtype] * len(shapes), "tolerance": tolerance} | options
    program = parity.check(fn, *shapes, **options)
    computed = (e for s in program.statements for e in walk(s.value) if isinstance(e, Call))
    assert {e.fn for e in computed if e.dtype in EPSILON} <= {"cast"}
    return program


def check_sums(fn, *shapes, dtype, **options):
    """Against float32: TensorFlow adds some numbers of half precision in half precision."""

    def oracle(*args):
        results = fn(*(tf.cast(x, tf.float32) for x in args))
        return [tf.cast(y, dtype) if y.dtype.is_floating else y for y in results]

    return check(fn, *shapes, dtype=dtype, oracle=oracle, ulps=1, **options)


def weights(*shape, dtype):
    return np.random.default_rng(1).standard_normal(shape).astype(numpy_dtype(dtype))


EXACT = ["abs", "floor", "ceil", "round", "negative", "sign", "square"]
FUNCTIONS = ["exp", "tanh", "sigmoid", "sin", "cos", "expm1"]
ACTIVATIONS = ["relu6", "elu", "selu", "softplus", "softsign", "leaky_relu", "silu", "gelu"]


def named(name):
    return getattr(tf, name, getattr(tf.math, name, getattr(tf.nn, name, None)))


def test_functions(dtype):
    def fn(x):
        y = tf.abs(x)
        found = [named(f)(x) for f in FUNCTIONS]
        return [*found, tf.sqrt(y), tf.math.log(y + 1.0), tf.math.rsqrt(y + 1.0), tf.pow(y, 1.5)]

    check(fn, [None, 5], dtype=dtype)


def test_activations(dtype):
    check(lambda x: [named(f)(x) for f in ACTIVATIONS], [None, 5], dtype=dtype, ulps=4)


def test_exact_functions(dtype):
    def fn(x, y):
        found = [named(f)(x) for f in EXACT]
        found += [f(x, y) for f in (tf.add, tf.subtract, tf.multiply, tf.divide, tf.maximum)]
        return [*found, x < y, tf.equal(x, y), tf.where(x < y, x, y), tf.nn.relu(x + y) * y]

    check(fn, [None, 5], [5], dtype=dtype, ulps=0)
    check(fn, [None, 17], [None, 1], dtype=dtype, ulps=0, sizes=(1, 33))


def test_casts(dtype):
    def fn(x):
        y = tf.cast(x, tf.float32) * 1.7
        kinds = ["float32", "float64", "int32", "int64", "bool", "float16", "bfloat16"]
        found = [tf.cast(x, k) for k in kinds] + [tf.cast(y, dtype)]
        return found + [tf.cast(tf.cast(y * 90.0, k), dtype) for k in ("int32", "int64", "float64")]

    check(fn, [None, 17], dtype=dtype, ulps=0)


def test_special_numbers(dtype):
    numbers = [0.0, -0.0, 1e-7, -6e-8, 3e-8, 65504.0, 65519.0, 65520.0, 3.3e38, 3.4e38, 1.0 + 2**-9]
    numbers = np.array([*numbers, np.inf, -np.inf, np.nan, 1.00390625, 1.01171875], "float32")
    # a NaN with bits in the lower half only, and one that the carry would turn into -0
    bits = np.concatenate([numbers.view("u4"), np.array([0x7F800001, 0x7FFFFFFF], "u4")])

    def fn(x):
        y = tf.cast(x, dtype)
        return [y, -y, tf.cast(y, tf.float32), tf.math.is_nan(y), tf.math.is_finite(y)]

    arrays = lambda _: [bits.view("float32")]
    check(fn, [None], dtype=dtype, ulps=0, dtypes=["float32"], arrays=arrays, sizes=(18,))


def test_movement(dtype):
    def fn(x):
        y = tf.transpose(tf.reshape(x, [-1, 3, 4]), [0, 2, 1])
        rows = tf.gather(y, [2, 0, 2], axis=1)
        found = [y, x[:, ::-2], tf.concat([x, x[:, :3]], 1), tf.pad(x, [[0, 0], [1, 2]]), rows]
        return [*found, tf.zeros_like(x), tf.tile(x, [1, 2]), tf.stack([x, x + 1.0], 1)]

    check(fn, [None, 12], dtype=dtype, ulps=0)


def test_reductions(dtype):
    def fn(x):
        found = [f(x, 1) for f in (tf.reduce_sum, tf.reduce_mean, tf.reduce_max, tf.reduce_min)]
        return [*found, tf.reduce_sum(x, [0, 2]), tf.argmax(x, 1), tf.reduce_prod(x, 2)]

    check_sums(fn, [None, 33, 5], dtype=dtype, sizes=(1, 2, 7))


def test_a_mean_of_numbers_whose_sum_is_too_large(dtype):
    x = np.full((3, 500), 300.0, numpy_dtype(dtype))
    assert (parity.evaluate(lambda x: tf.reduce_mean(x, 1), x) == 300.0).all()


def test_softmax(dtype):
    check(lambda x: [tf.nn.softmax(x), tf.nn.log_softmax(x)], [None, 5, 7], dtype=dtype, ulps=4)


def test_matmul(dtype):
    w, b = weights(65, 33, dtype=dtype), weights(33, dtype=dtype)
    fn = lambda x: [x @ w, tf.nn.relu(x @ w + b), x @ tf.transpose(x)]
    program = check(fn, [None, 65], dtype=dtype)
    constants = {t.dtype for t in program.tensors if t.role == "constant"}
    assert constants == {dtype, "int32"}  # a permutation
    batched = lambda a, b: [tf.einsum("abc,adc->abd", a, b)]
    check_sums(batched, [None, 3, 17], [None, 5, 17], dtype=dtype)


def test_windows(dtype):
    filters = [weights(3, 3, *s, dtype=dtype) for s in ([3, 5], [3, 2], [4, 3])]

    def fn(x):
        w, k, v = (tf.cast(f, x.dtype) for f in filters)
        found = [tf.nn.conv2d(x, w, s, "SAME") for s in (1, 2)]
        found += [tf.nn.depthwise_conv2d(x, k, [1, 1, 1, 1], "VALID")]
        found += [tf.nn.conv2d_transpose(x, v, [tf.shape(x)[0], 14, 16, 4], 2)]
        return [*found, tf.nn.max_pool2d(x, 3, 2, "SAME"), tf.nn.avg_pool2d(x, 2, 2, "SAME")]

    check_sums(fn, [None, 7, 8, 3], dtype=dtype, sizes=(0, 2))


def test_batch_norm(dtype):
    c = [np.linspace(0.5, 2, 3).astype("float32")] * 4
    norm = tf.compat.v1.nn.fused_batch_norm
    check(lambda x: norm(x, *c, is_training=False)[0], [None, 4, 5, 3], dtype=dtype)


def test_a_loop(dtype):
    w = weights(5, 5, dtype=dtype)

    def fn(x):
        body = lambda i, h: (i + 1, tf.tanh(h @ w + x[:, i]))
        return tf.while_loop(lambda i, h: i < 7, body, (0, tf.zeros_like(x[:, 0])))[1]

    check(fn, [None, 7, 5], dtype=dtype, sizes=(1, 7), ulps=3)


class Looked(tf.Module):
    """A table of half precision that is looked up, and a layer that computes so."""

    def __init__(self, dtype):
        super().__init__()
        self.table = tf.Variable(weights(1 << 13, 8, dtype=dtype))
        self.kernel = tf.Variable(weights(8, 5, dtype=dtype))

    @tf.function(autograph=False)
    def __call__(self, ids, x):
        y = tf.nn.relu(tf.gather(self.table, ids) @ self.kernel + x)
        return {"half": y, "single": tf.reduce_sum(tf.cast(y, tf.float32), 1)}


def test_a_model(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.01)
    model = Looked(dtype)
    specs = [tf.TensorSpec([None], tf.int32, "ids"), tf.TensorSpec([None, 5], dtype, "x")]
    tf.saved_model.save(model, str(tmp_path / "m"), model.__call__.get_concrete_function(*specs))
    result = sirius_tf.optimize(tmp_path / "m", options=sirius_tf.Options(keep_slow=True))
    assert all(not s.left for s in result.signatures)
    ids, x = np.array([3, 8191, 0], "int32"), weights(3, 5, dtype=dtype)
    want = model(ids, x)
    loaded = tf.saved_model.load(str(result.output_dir)).signatures["serving_default"]
    got = loaded(ids=tf.constant(ids), x=tf.constant(x))
    plain = sirius_tf.runtime.load(result.output_dir).signatures["serving_default"](ids=ids, x=x)
    for key in want:
        for other in (got[key].numpy(), plain[key]):
            assert other.dtype == want[key].dtype.as_numpy_dtype
            assert relative_error(other, want[key].numpy()) < 2 * EPSILON[dtype]
