# SPDX-License-Identifier: Apache-2.0
"""TensorLists that grow, and that are read or written in many places, against TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.errors import Unsupported
from tests.support.arrays import assert_close
from tests.support.parity import check, compiled, evaluate, lowered, results_of

raw = tf.raw_ops


def empty(shape=(3,)):
    return raw.EmptyTensorList(element_shape=shape, max_num_elements=-1, element_dtype="float32")


def push(made, x):
    return raw.TensorListPushBack(input_handle=made, tensor=x)


def stack(made, shape=(3,)):
    return raw.TensorListStack(input_handle=made, element_shape=shape, element_dtype="float32")


def length(made):
    return raw.TensorListLength(input_handle=made)


def from_tensor(x, shape=(3,)):
    return raw.TensorListFromTensor(tensor=x, element_shape=shape)


def gather(made, at, shape=(3,)):
    return raw.TensorListGather(
        input_handle=made, indices=at, element_shape=shape, element_dtype="float32"
    )


def concat(made, shape=(-1, 3)):
    leading = tf.zeros([0], tf.int64)
    return raw.TensorListConcatV2(
        input_handle=made, element_shape=shape, leading_dims=leading, element_dtype="float32"
    )


def test_a_list_grows():
    def fn(x):
        made = push(push(empty(), x[0]), x[1] * 2.0)
        return (
            stack(made),
            length(made),
            stack(push(from_tensor(tf.stack([x[0], x[1]])), x[1])),
            length(empty()),
        )

    check(fn, [None, 3], sizes=(2, 7))
    check(lambda x: stack(empty()) * x[0], [None, 3], sizes=(1,))


@pytest.mark.parametrize("first", [0, 2])
def test_a_list_grows_in_a_loop(first):
    def fn(x):
        made = empty() if not first else from_tensor(x[:first] * 2.0)

        def body(i, s, made):
            s = tf.tanh(s + x[i])
            return i + 1, s, push(made, s)

        start = 0, tf.zeros([3]), made
        _, s, made = tf.while_loop(lambda i, *_: i < tf.shape(x)[0], body, start)
        return s, stack(made), length(made)

    check(fn, [None, 3], sizes=(2, 7, 33) if first else (0, 1, 7, 33))


def test_concatenated():
    check(lambda x: concat(from_tensor(x, [2, 3]), [2, 3]), [None, 2, 3])
    check(lambda x: concat(from_tensor(x, [-1, 3])), [None, None, 3], sizes=(1, 7))

    def fn(x):
        made = tf.TensorArray(tf.float32, 4, infer_shape=False)
        body = lambda i, made: (i + 1, made.write(i, x * tf.cast(i, tf.float32)))
        return tf.while_loop(lambda i, _: i < 4, body, (0, made))[1].concat()

    check(fn, [None, 3], sizes=(1, 7, 33))


@pytest.mark.parametrize("lengths", [[2, 2, 2], [6], [1] * 6])
def test_split(lengths):
    def fn(x):
        made = raw.TensorListSplit(
            tensor=x, element_shape=[-1, 3], lengths=np.array(lengths, "int64")
        )
        return stack(made, [lengths[0], 3]), length(made)

    check(fn, [None, 3], sizes=(5, 6, 7))
    check(lambda x: fn(x) if x.shape[0] else x, [6, 3], sizes=(6,))


def test_split_unequally():
    x = np.ones((3, 3), "f")
    with pytest.raises(Unsupported, match="different lengths"):
        evaluate(lambda x: tf.TensorArray(tf.float32, 2).split(x, [1, 2]).read(0), x)


def test_gathered():
    check(lambda x: gather(from_tensor(x), [1, 0, 1]), [None, 3], sizes=(0, 1, 2, 7))
    for last in (-1, 0, 6, 7):
        feeds = lambda n: [np.ones((7, 3), "f"), np.array([*range(n), last], "i")]  # noqa: B023
        fn = lambda x, at: gather(from_tensor(x), at)
        check(fn, [None, 3], [None], dtypes=["float32", "int32"], arrays=feeds, sizes=(0, 1, 7))
    check(lambda x: tf.TensorArray(tf.float32, 7).unstack(x).gather([2, 5]), [7, 3], sizes=(1,))


@pytest.mark.parametrize("count", [-1, 3, 5, 7])
def test_scattered(count):
    def fn(x):
        made = raw.TensorListScatterV2(
            tensor=x, indices=[4, 0, 2], element_shape=[3], num_elements=count
        )
        return stack(made), length(made)

    check(fn, [None, 3], sizes=(3,))


def test_scattered_into_a_list():
    scatter = raw.TensorListScatterIntoExistingList

    def fn(x, at):
        made = scatter(input_handle=from_tensor(x), tensor=x[:2] * 2.0, indices=at)
        return stack(made), length(made)

    check(lambda x: fn(x, [1, 0]), [None, 3], sizes=(2, 7))
    check(lambda x: fn(x, [2, 0]), [None, 3], sizes=(2, 3, 7))
    check(lambda x: tf.TensorArray(tf.float32, 5).scatter([3, 1], x).stack(), [2, 3], sizes=(1,))


def reserve(shape=(3,), count=2):
    return raw.TensorListReserve(element_shape=shape, num_elements=count, element_dtype="float32")


def put(made, at, x):
    return raw.TensorListSetItem(input_handle=made, index=at, item=x)


def looped(x):
    step = lambda i, made: (i + 1, put(made, i, x[i]))
    return tf.while_loop(lambda i, made: i < 2, step, (0, reserve()))[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: push(push(empty(), x[0]), x[1]),
        lambda x: put(put(reserve(), 0, x[0]), 1, x[1]),
        from_tensor,
        lambda x: raw.TensorListSplit(tensor=x, element_shape=(-1, 3), lengths=[1, 1]),
        lambda x: raw.TensorListScatterV2(
            tensor=x, indices=[0, 1], element_shape=(3,), num_elements=2
        ),
        looped,
    ],
    ids=["push", "put", "from_tensor", "split", "scatter", "loop"],
)
def test_elements_are_as_large_as_declared(make):
    check(lambda x: length(make(x)), [2, None], sizes=(3, 4), fails="not 3|3 must be equal")


def test_elements_that_are_read_are_as_large_as_declared():
    fn = lambda x: stack(from_tensor(x, -1))
    check(fn, [2, None], sizes=(3, 4), fails="not 3|3 must be equal")


def test_a_written_list_has_grown():
    def fn(x):
        made = tf.TensorArray(tf.float32, 0, dynamic_size=True, clear_after_read=False)
        made = made.write(2, x[0]).write(1, x[0])
        return made.size(), made.stack()

    check(fn, [None, 3], sizes=(1, 7))


def test_no_bound_is_too_high_for_a_list_of_large_rows():
    def doubled(x, most):
        rows = tf.TensorArray(tf.float32, 0, dynamic_size=True, element_shape=[16384])

        def step(t, y, rows):
            return t + 1, y * 2.0, rows.write(t, y)

        def small(t, y, rows):
            return tf.logical_and(t < most, tf.reduce_max(y) < 50.0)

        rows = tf.while_loop(small, step, (0, x, rows))[-1].stack()
        return tf.exp(-rows) / tf.reduce_sum(rows, 0)

    concrete, program = lowered(doubled, ([16384], "float32"), ([], "int32"))
    generated = compiled(program)
    for most in (3, 2**31 - 1):
        feeds = [np.ones(16384, "f"), np.int32(most)]
        assert_close(generated(feeds), results_of(concrete, feeds), 1e-5)


@pytest.mark.parametrize(
    ("made", "asked"), [((3,), -1), (-1, (3,)), ((-1,), (3,)), ((-1,), (-1,)), (-1, (-1,))]
)
def test_an_empty_list_is_stacked_where_its_elements_are_declared(made, asked):
    def fn(x):
        step = lambda i, rows: (i + 1, put(rows, i, x[i] * 2.0))
        rows = reserve(made, tf.shape(x)[0])
        return stack(tf.while_loop(lambda i, _: i < tf.shape(x)[0], step, (0, rows))[1], asked)

    check(fn, [None, 3], sizes=(0, 1, 4), fails="the list is empty")


@pytest.mark.parametrize("told", [True, False])
def test_the_original_ops_answer_where_a_request_declares_the_elements(told):
    def fn(x, shape):
        step = lambda i, rows: (i + 1, put(rows, i, x[i] * 2.0))
        rows = reserve(-1, tf.shape(x)[0])
        rows = tf.while_loop(lambda i, _: i < tf.shape(x)[0], step, (0, rows))[1]
        return stack(rows, -1 if told else shape)

    _, program = lowered(fn, ([None, 3], "float32"), ([1], "int32"))
    (check,) = (c for c in program.checks if "the list is empty" in c.message)
    assert check.narrow == (not told)
