# SPDX-License-Identifier: Apache-2.0
"""Loops, lists and assertions against TensorFlow: interpreted, and as generated code."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.errors import InvalidArgument, Unsupported
from sirius_tf.frontend.graph import Argument, Edge, Graph, Node
from sirius_tf.ir.expr import loads
from sirius_tf.ir.interp import run
from sirius_tf.ir.verify import verify
from sirius_tf.lower.graph import lower
from sirius_tf.transform.simplify import simplify
from tests.support.parity import agree, compiled, traced

SIZES = [(1, 1), (7, 33), (33, 7), (0, 5)]


def check(fn, features=3, sizes=SIZES):
    """`fn` of x [batch, time, features], at every pair of sizes."""
    concrete, program = traced(fn, ([None, None, features], tf.float32))
    rng, generated = np.random.default_rng(0), compiled(program)
    for batch, time in sizes:
        x = rng.standard_normal((batch, time, features)).astype("f")
        agree(concrete, program, x, generated=generated)
    return program


def built(*layers, features=3):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, features)), *layers])
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).standard_normal(weight.shape) / 2)
    return model


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("sequences", [True, False])
def test_recurrent_layer(kind, sequences):
    model = built(getattr(keras.layers, kind)(4, return_sequences=sequences))
    check(lambda x: model(x))


@pytest.mark.parametrize("time", [1, 4])
def test_constant_time(time):
    model = keras.Sequential([keras.Input((time, 3)), keras.layers.LSTM(4)])
    concrete, program = traced(lambda x: model(x), ([None, time, 3], tf.float32))
    assert [p.name for p in program.params] == ["x_0"]
    for batch in (0, 1, 7):
        agree(concrete, program, np.ones((batch, time, 3), "f"))


@pytest.mark.parametrize(("a", "b"), [(False, True), (True, False), (True, True)])
def test_flags_of_a_request(a, b):
    def fn(x, a, b):
        both = tf.logical_and(a, tf.logical_not(b))
        chosen = tf.cond(tf.logical_or(a, b), lambda: tf.exp(x), lambda: x)
        return tf.where(both, chosen, x * 2.0), tf.equal(a, b)

    concrete, program = traced(fn, ([None, 3], tf.float32), ([], tf.bool), ([], tf.bool))
    verify(program)
    feeds = (np.ones((2, 3), "f"), np.bool_(a), np.bool_(b))
    agree(concrete, program, *feeds, generated=compiled(program))


def test_a_limit_from_an_input():
    def fn(x, n):
        return tf.while_loop(lambda i, _: i < n, lambda i, s: (i + 1, s * 2.0), (0, x))[1]

    concrete, program = traced(fn, ([None, 3], tf.float32), ([], tf.int32))
    for n in (-3, 0, 1, 4):
        agree(concrete, program, np.ones((2, 3), "f"), np.int32(n))


def test_variables_that_trade_places():
    def fn(x):
        step = lambda i, a, b: (i + 1, b, a + b)
        return tf.while_loop(lambda i, *_: i < tf.shape(x)[1], step, (0, x, x * 2.0))[1:]

    check(fn, sizes=[(1, 1), (2, 7)])


def test_stacked_layers():
    layers = keras.layers
    model = built(
        layers.LSTM(4, return_sequences=True),
        layers.GRU(5, return_sequences=True, reset_after=False),
        layers.LSTM(2),
        layers.Dense(3),
    )
    check(lambda x: model(x))


def test_input_products_and_weights_leave_the_loop():
    model = built(keras.layers.LSTM(4))
    program = simplify(check(lambda x: model(x), sizes=[(2, 3)]))
    carried = {s.target for s in program.statements if s.iters and "+ 1" in str(s.index[0])}
    products = [s for s in program.statements if s.reduce]
    assert len(carried) == 2
    assert len(products) == 2
    assert [any(x.tensor in carried for x in loads(s.value)) for s in products].count(False) == 1


def scan(step, x, start=0, by=1):
    """A hand-written loop: reads x[:, i], writes s to a list, carries s."""
    n = tf.shape(x)[1]
    given = tf.TensorArray(tf.float32, n).unstack(tf.transpose(x, [1, 0, 2]))
    made = tf.TensorArray(tf.float32, n, element_shape=[None, 3])

    def body(i, s, made):
        s = step(i, s, given.read(i))
        return i + by, s, made.write(i, s)

    first = start, tf.zeros_like(x[:, 0]), made
    _, s, made = tf.while_loop(lambda i, *_: i < n, body, first)
    return s, made.stack()


def test_arrays_read_and_written():
    check(lambda x: scan(lambda i, s, x: tf.tanh(s + x), x))


@pytest.mark.parametrize(("start", "by"), [(0, 2), (1, 3), (3, 1)])
def test_steps_and_elements_that_nothing_writes(start, by):
    check(
        lambda x: scan(lambda i, s, x: s * 0.5 + x, x, start, by), sizes=[(2, 5), (3, 33), (7, 4)]
    )


def test_map_scan_and_fold():
    flip = lambda x: tf.transpose(x, [1, 0, 2])
    check(lambda x: tf.map_fn(lambda r: tf.nn.softmax(r @ tf.transpose(r)), x), sizes=[(3, 7)])
    check(lambda x: tf.scan(lambda a, r: tf.tanh(a + r), flip(x)), sizes=[(3, 7), (1, 33)])
    check(lambda x: tf.foldl(lambda a, r: a * 0.5 + r, flip(x)), sizes=[(3, 7), (7, 1)])


def test_masked_steps_keep_the_state():
    model = built(keras.layers.Masking(), keras.layers.LSTM(4, return_sequences=True))
    concrete, program = traced(lambda x: model(x), ([None, None, 3], tf.float32))
    x = np.random.default_rng(0).standard_normal((3, 7, 3)).astype("f")
    x[0, 5:], x[1, 2:4] = 0.0, 0.0
    agree(concrete, program, x, generated=compiled(program))


def test_a_counter_is_a_number():
    check(lambda x: scan(lambda i, s, x: s + x * tf.cast(i * 2 + 1, tf.float32), x))


def test_downward():
    def fn(x):
        n = tf.shape(x)[0]
        made = tf.TensorArray(tf.float32, n)

        def body(i, s, made):
            s = s + x[i]
            return i - 1, s, made.write(i, s)

        first = n - 1, tf.zeros_like(x[0]), made
        return tf.while_loop(lambda i, *_: i >= 0, body, first)[2].stack()

    check(fn, sizes=[(1, 1), (7, 33), (33, 7)])


def test_a_loop_that_is_not_entered():
    def fn(x):
        return tf.while_loop(lambda i, s: i < tf.shape(x)[0], lambda i, s: (i + 1, s + 1.0), (0, x))

    check(lambda x: fn(x)[1], sizes=[(0, 3), (1, 2)])


def test_growing_list_and_maximum():
    def fn(x):
        made = tf.TensorArray(tf.float32, 0, dynamic_size=True)
        body = lambda i, made: (i + 1, made.write(i, x[:, i] * 2.0))
        n = tf.shape(x)[1]
        _, made = tf.while_loop(lambda i, _: i < n, body, (0, made), maximum_iterations=5)
        return made.stack()

    check(fn, sizes=[(2, 3), (3, 5), (4, 9)])


def test_autograph_range():
    def fn(x):
        total = tf.zeros_like(x)
        for i in tf.range(0, tf.shape(x)[0], 2):
            total += x * x[i]
        return total

    check(tf.autograph.experimental.do_not_convert(lambda x: tf.autograph.to_graph(fn)(x)))


def test_list_outside_of_loops():
    def fn(x):
        made = tf.TensorArray(tf.float32, 4, clear_after_read=False)
        made = made.write(2, x[0]).write(1, x[0] * 2.0)
        return made.stack(), made.read(1), tf.TensorArray(tf.float32, 3).unstack(x[:3]).read(2)

    check(lambda x: fn(x), sizes=[(3, 2), (7, 5)])


def test_nested_loops():
    def fn(x):
        batch, time = tf.shape(x)[0], tf.shape(x)[1]
        rows = tf.TensorArray(tf.float32, batch)

        def outer(b, total, rows):
            made = tf.TensorArray(tf.float32, time)

            def inner(i, s, made):
                s = tf.tanh(s + x[b, i])
                return i + 1, s, made.write(i, s + total)

            first = 0, total * 0.5, made
            _, s, made = tf.while_loop(lambda i, *_: i < time, inner, first)
            return b + 1, total + s, rows.write(b, made.stack())

        _, total, rows = tf.while_loop(lambda b, *_: b < batch, outer, (0, tf.zeros([3]), rows))
        return total, rows.stack()

    program = check(fn, sizes=[(1, 1), (3, 7), (7, 2)])
    nests = {tuple(i.name for i in s.iters if i.loop) for s in program.statements}
    assert nests == {(), ("t0",), ("t0", "t1")}


def test_loop_invariant_work_stays_out_of_the_loop():
    w = np.eye(3, dtype="f") * 2

    def fn(x):
        y = x[:, 0]

        def body(i, s):
            return i + 1, s + tf.matmul(y, w)

        return tf.while_loop(lambda i, _: i < tf.shape(x)[1], body, (0, tf.zeros_like(y)))[1]

    program = check(fn)
    (product,) = [s for s in program.statements if s.reduce]
    assert not any(i.loop for i in product.iters)


def test_a_call():
    x, two = Edge("x"), Edge("two")
    const = Node("two", "Const", attrs={"value": np.array(2, "f")}, dtypes=("float32",))
    double = Node("double", "Mul", (x, two), dtypes=("float32",))
    argument = Argument("x", "float32", (None, 3))
    body = Graph("f", (argument,), (("y", Edge("double")),), (const, double))
    call = Node("call", "PartitionedCall", (x,), attrs={"f": "f"}, dtypes=("float32",))
    program = lower(Graph("g", (argument,), (("y", Edge("call")),), (call,), {"f": body}))
    np.testing.assert_array_equal(run(program, {"x": np.ones((2, 3), "f")})[0], np.full((2, 3), 2))


def test_what_a_body_lacks_is_an_error_of_the_loop():
    def fn(x):
        body = lambda i, s: (i + 1, tf.linalg.inv(s))
        return tf.while_loop(lambda i, _: i < 3, body, (0, x))[1]

    with pytest.raises(Unsupported, match=r"MatrixInverse\) inside: there is no rule") as error:
        traced(fn, ([2, 2], tf.float32))
    assert error.value.node == "while"


def table(step, first=2):
    """A table of nine rows, of which a loop fills those from `first` on."""

    def fn(x):
        made = tf.TensorArray(tf.float32, 9, element_shape=[2], clear_after_read=False)
        made = made.unstack(tf.range(9.0)[:, None] * x)
        body = lambda i, made: (i + 1, made.write(i, step(made, i) + x))
        return tf.while_loop(lambda i, _: i < 8, body, (first, made))[1].stack()

    return fn


@pytest.mark.parametrize(
    "step",
    [
        lambda made, i: made.read(i - 1) * 0.5 - made.read(i - 2),
        lambda made, i: made.read(i) * 2.0,
        lambda made, i: made.read(0) + made.read(i - 1),
        lambda made, i: made.read(1) - made.read(i - 2),
        lambda made, i: made.read(i + 1) - made.read(i - 1),
    ],
    ids=["earlier ones", "its own place", "the first one", "before all", "the next one"],
)
def test_a_list_that_is_read_and_written(step):
    concrete, program = traced(table(step), ([2], tf.float32))
    agree(concrete, program, np.array([1.5, -2.0], "f"), generated=compiled(program))


def test_a_list_that_is_read_where_it_may_be_written():
    with pytest.raises(Unsupported, match="may have written there, or not"):
        traced(table(lambda made, i: made.read(5)), ([2], tf.float32))


def asserting(*assertions):
    def fn(x, y):
        with tf.control_dependencies([a(x, y) for a in assertions]):
            return tf.identity(x)

    return traced(fn, ([None, None], tf.float32), ([None, 3], tf.float32))


def test_assertions_on_sizes():
    debug = tf.debugging
    concrete, program = asserting(
        lambda x, y: debug.assert_equal(tf.shape(x), tf.shape(y), message="alike"),
        lambda x, y: debug.assert_greater(tf.shape(x)[0], 1),
        lambda x, y: debug.assert_less(tf.shape(y)[1], 4),
        lambda x, y: debug.assert_rank(x, 2),
        lambda x, y: debug.Assert((tf.shape(x)[0] < 5) | (tf.shape(x)[0] > 6), ["size"]),
    )
    ones = lambda *shape: np.ones(shape, "f")
    agree(concrete, program, ones(2, 3), ones(2, 3))
    agree(concrete, program, ones(7, 3), ones(7, 3))
    for x, y in ((ones(3, 3), ones(2, 3)), (ones(1, 3), ones(1, 3)), (ones(5, 3), ones(5, 3))):
        with pytest.raises(InvalidArgument, match="Assert"):
            run(program, dict(zip(program.inputs, (x, y), strict=True)))
    assert any("alike" in c.message for c in program.checks)


def test_assertions_in_a_loop():
    def fn(x):
        def body(i, s):
            with tf.control_dependencies([tf.debugging.assert_less(i, tf.shape(x)[1])]):
                return i + 1, s + x[:, i]

        return tf.while_loop(lambda i, _: i < tf.shape(x)[1], body, (0, x[:, 0]))[1]

    check(fn)
