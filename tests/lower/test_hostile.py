# SPDX-License-Identifier: Apache-2.0
"""Extremes of numbers that a request may choose: TensorFlow's result, or an error of its kind.

Generated code runs in a forked child, so that a crash is a failure of one test.
"""

import ctypes
import mmap
import os
import pickle

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.errors import SiriusError, Unsupported
from tests.reliability.hostile_cases import GIVEN as CASES
from tests.support.parity import check, compiled, lowered

REFUSED = (tf.errors.InvalidArgumentError, tf.errors.ResourceExhaustedError)
X = np.arange(8, dtype=np.float32)
EXTREMES = (-(2**63), -1000, -2, -1, 0, 1, 3, 2**62 + 16, 2**63 - 20, 2**63 - 1)
NARROW = (-(2**31), -1000, -1, 0, 1, 3)  # 2^31 - 1 elements are only a question of memory


def in_child(fn, *args):
    """What a function returns in a child, or the SiriusError that it raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        with os.fdopen(writer, "wb") as pipe:
            try:
                result = fn(*args)
            except SiriusError as error:
                result = SiriusError(str(error))
            pickle.dump(result, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"ended by signal {os.WTERMSIG(status)}"
    return pickle.loads(data)


def region(fn, *specs):
    concrete, program = lowered(fn, *specs)
    return concrete, compiled(program)


def numbers(count, dtype):
    return [tf.TensorSpec([count], dtype)]


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("name", CASES)
def test_extremes(name, dtype):
    fn, count = CASES[name]
    if name == "one hot" and dtype == "int64":  # it takes no int64
        return
    concrete, generated = region(fn, tf.TensorSpec([8]), *numbers(count, dtype))
    rng = np.random.default_rng(0)
    extremes = EXTREMES if dtype == "int64" else NARROW
    tried = [rng.choice(extremes, count) for _ in range(24)] + [[v] * count for v in extremes]
    answers = in_child(lambda: [_answer(generated, np.array(n, dtype)) for n in tried])
    for n, answer in zip(tried, answers, strict=True):
        try:
            expected = concrete(tf.constant(X), tf.constant(n, dtype))
        except REFUSED:
            assert isinstance(answer, SiriusError), (n, answer)
            continue
        if isinstance(answer, SiriusError):  # TensorFlow's sums and products of sizes may wrap
            assert max(np.abs(n)) > 2**60, (n, answer)
            continue
        expected = expected if isinstance(expected, list) else [expected]
        for a, e in zip(answer, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5)


def _answer(generated, n):
    try:
        return generated([X, n])
    except SiriusError as error:
        return SiriusError(str(error))


def test_an_element_that_decides_a_size_is_not_read_where_there_is_none():
    """Elements are read before sizes are checked. Behind the four here no memory may be read."""
    fn = lambda x: tf.zeros([x[900]]) + 1.0
    _, generated = region(fn, tf.TensorSpec([None], tf.int32))
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 2 * page)
    x = np.frombuffer(memory, np.int32, 4, page - 16)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(x.ctypes.data + 16), ctypes.c_size_t(page), 0) == 0

    def answer():
        try:
            return generated([x])
        except SiriusError as error:
            return SiriusError(str(error))

    assert isinstance(in_child(answer), SiriusError)
    x = np.full(901, 3, np.int32)
    np.testing.assert_array_equal(generated([x])[0], np.ones(3, np.float32))


def test_sizes_that_overflow_are_an_error():
    _, generated = region(CASES["softmax of a range"][0], tf.TensorSpec([8]), *numbers(1, "int64"))
    for n in (2**62 + 16, 2**47, 2**63 - 1):
        answer = in_child(_answer, generated, np.array([n]))
        assert isinstance(answer, SiriusError), n


@pytest.mark.parametrize("shape", [[4, 2], [2, 2, 2]])
def test_a_reshape_has_as_many_elements_as_its_input(shape):
    """Behind a shorter input is memory of others."""
    check(lambda x: tf.reshape(x, shape) * 2.0, [None], sizes=(0, 1, 7, 8, 9, 16))


def test_a_slice_to_the_end_may_be_chosen_at_run_time():
    check(
        lambda x, n: tf.slice(x, [1, 0], n) * 2.0,
        [4, 3],
        [2],
        dtypes=["float32", "int32"],
        sizes=(-1, 1, 2, 3),
        arrays=lambda size: [np.ones((4, 3), np.float32), np.array([size, -1], np.int32)],
    )


@pytest.mark.parametrize("others", [[], [2], [5]])
def test_a_size_of_a_reshape_may_be_the_rest_at_run_time(others):
    """-1, or as many, or too many."""
    sizes = [(3, -1), (3, 12), (3, 6), (5, -1), (5, 4), (0, -1), (0, 0)]
    check(
        lambda x, n: tf.reshape(x, [n[0], *others]) * 2.0,
        [None, 4],
        [1],
        dtypes=["float32", "int32"],
        sizes=range(len(sizes)),
        arrays=lambda k: [np.ones((sizes[k][0], 4), "f"), np.array(sizes[k][1:], "int32")],
    )


@pytest.mark.parametrize("step", [2, -2])
def test_a_slice_with_steps_that_ends_before_it_starts_is_empty(step):
    bounds = [(1, 4), (4, 1), (5, 0), (3, 3)]
    check(
        lambda x, n: x[n[0] : n[1] : step] * 2.0,
        [6],
        [2],
        dtypes=["float32", "int32"],
        sizes=range(4),
        arrays=lambda k: [np.arange(6, dtype="f"), np.array(bounds[k], "int32")],
    )


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integers_wrap(dtype):
    """As vectors, as scalars, and where they decide sizes before the region runs."""
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max

    def fn(a, v):
        scalars = [(a * 1103515245 + 12345) % 1000, tf.cast(a + 1 > a, tf.int32), -a, a - 2, a * a]
        return [*scalars, v * 3 + v, -v, v - 2, v * v, tf.abs(v), tf.zeros([(a + 7) % 5])]

    for number in (most, least, most - 3, 5, -1, 0):
        if dtype == "int64" and abs(number) > 2**31:
            continue  # sizes that are computed with more than 64 bits are refused
        check(
            fn,
            [],
            [None],
            dtypes=[dtype, dtype],
            sizes=[0],
            arrays=lambda _, n=number: [
                np.array(n, dtype),
                np.array([least, -1, 0, 7, most] * 5, dtype),
            ],
        )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_one_hot_is_deeper_than_its_positions(dtype):
    check(
        lambda x: tf.one_hot(x, 300),
        [None],
        dtypes=[dtype],
        sizes=[4],
        arrays=lambda _: [np.array([3, 100, 0, 127], dtype)],
    )


def test_a_rank_above_eight_is_left_to_tensorflow():
    nine = [4, 2, 1, 2, 1, 2, 1, 2, 3]

    def sums(x):
        return [tf.reduce_sum(tf.exp(x) + 1.0, [1, 2, 3]), tf.exp(x)]

    with pytest.raises(Unsupported, match="rank"):
        region(sums, tf.TensorSpec(nine))
    inner = lambda x: tf.reduce_sum(tf.exp(tf.reshape(x, [-1, *nine[1:]])), [2, 3, 4])
    check(inner, [None, 48])
