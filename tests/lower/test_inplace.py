# SPDX-License-Identifier: Apache-2.0
"""What a While carries is updated where it lies, unless somebody still reads what was there."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.compile import schedule_program
from sirius_tf.schedule.inplace import in_place, pins
from tests.support.parity import check

STEPS, WIDTH = 5, 12


def slots(program):
    """Of all tensors of the carried one's shape with a place for each step: places in memory."""
    scheduled = schedule_program(program)
    shape = scheduled.program.tensor[program.outputs[0].tensor].shape
    temps = [t for t in scheduled.program.tensors if t.role == "temp" and t.shape[1:] == shape]
    return {scheduled.storage.window(t)[0] for t in temps}


def loop(step, rows=None, width=(WIDTH,), positions=(STEPS, 1), go=None):
    """`step` of t, x, positions and updates; checked against TensorFlow for few and many rows."""

    def fn(x, where, updates):
        def body(t, x):
            x = tf.ensure_shape(step(t, x, where, updates), [rows, *width])
            return t + 1, x

        def condition(t, x):
            return tf.logical_and(t < STEPS, go(t, x)) if go else t < STEPS

        return tf.while_loop(condition, body, [0, x])[1]

    def arrays(size):
        rng = np.random.default_rng(size)
        n = rows or size
        return [
            rng.standard_normal((n, *width)).astype("float32"),
            rng.integers(0, max(n, 1), positions).astype("int32"),
            rng.standard_normal((*positions[:-1], *width)).astype("float32"),
        ]

    shapes = [[rows, *width], positions, [*positions[:-1], *width]]
    return check(fn, *shapes, dtypes=["float32", "int32", "float32"], arrays=arrays)


def update(x, where, new):
    return tf.tensor_scatter_nd_update(x, where[None], new[None])


def computed_in_parts(program):
    """How many statements store some points only, and pass the others on where they are."""
    scheduled = schedule_program(program)
    found = 0
    for s in scheduled.program.statements:
        old = in_place(scheduled.program, s, scheduled.storage)
        names = [i.name for i in s.iters if not i.loop]
        found += old is not None and pins(s, old, names, None) is not None
    return found


@pytest.mark.parametrize("width", [(12,), (64,), (3,), ()])
def test_one_row_a_step(width):
    program = loop(lambda t, x, p, u: update(x, p[t], u[t]), width=width)
    assert slots(program) == {1}


def test_a_position_that_the_iteration_tells():
    """It is compared with the iterator, and is no table of where they meet."""
    program = loop(
        lambda t, x, p, u: tf.tensor_scatter_nd_update(x, [[t * 2 + 3]], u[t][None]), rows=20
    )
    assert slots(program) == {1}
    assert computed_in_parts(program) == 1


def test_the_update_is_computed_from_what_was_there():
    program = loop(lambda t, x, p, u: update(x, p[t], tf.reduce_max(x, 0) + u[t]))
    assert slots(program) == {1}


def test_what_is_left_is_read_within_the_step():
    def step(t, x, p, u):
        x = update(x, p[t], u[t])
        return update(x, p[t] // 2, tf.reduce_sum(x, 0))

    program = loop(step)
    assert slots(program) == {1}


def test_what_was_there_is_read_after_the_update():
    def step(t, x, p, u):
        new = update(x, p[t], u[t])
        return update(new, p[t] // 2, tf.reduce_max(new, 0) - tf.reduce_max(x * new, 0))

    program = loop(step)
    assert slots(program) == {2}


def test_rows_that_meet():
    """The last one wins, as in TensorFlow."""

    def step(t, x, p, u):
        x = tf.tensor_scatter_nd_update(
            x, tf.stack([p[t], p[0], p[t]]), tf.stack([u[t], u[0], u[1]])
        )
        return update(x, p[1], u[2])

    assert slots(loop(step)) == {1}


def test_an_element():
    def step(t, x, p, u):
        return tf.tensor_scatter_nd_update(x, [[p[t, 0], t]], [u[t, 0]])

    assert slots(loop(step)) == {1}


SCATTERS = {
    "add": tf.tensor_scatter_nd_add,
    "sub": tf.tensor_scatter_nd_sub,
    "min": tf.tensor_scatter_nd_min,
    "max": tf.tensor_scatter_nd_max,
}


@pytest.mark.parametrize("op", SCATTERS)
@pytest.mark.parametrize("width", [(12,), (64,), (3,), ()])
def test_a_row_computed_from_what_it_was(op, width):
    """Rows of 12 and of 3 end in a part of a vector; some rows are met in several steps."""
    program = loop(lambda t, x, p, u: SCATTERS[op](x, p[t][None] // 3, u[t][None]), width=width)
    assert slots(program) == {1}
    assert computed_in_parts(program) == 1


def test_nan_among_what_is_updated():
    def step(t, x, p, u):
        x = tf.where(x > 1.0, np.nan, x)
        return tf.tensor_scatter_nd_max(x, p[t][None], tf.where(u[t] > 0.5, np.nan, u[t])[None])

    loop(step)
    program = loop(
        lambda t, x, p, u: tf.tensor_scatter_nd_add(
            x, p[t][None], tf.where(u[t] > 0.5, np.nan, u[t])[None]
        )
    )
    assert slots(program) == {1}


def test_one_sum_after_another():
    def step(t, x, p, u):
        x = tf.tensor_scatter_nd_add(x, p[t][None], u[t][None])
        return tf.tensor_scatter_nd_sub(x, p[0][None], tf.reduce_max(x, 0)[None])

    assert slots(loop(step)) == {1}


def test_sums_that_meet_are_copied():
    def step(t, x, p, u):
        return tf.tensor_scatter_nd_add(x, tf.stack([p[0], p[0]]), u[:2])

    assert slots(loop(step)) == {2}


def test_a_state_computed_from_what_it_was_is_copied():
    """All of it: as vectors, of which the last one computes some elements twice."""
    program = loop(lambda t, x, p, u: tf.cond(u[t, 0] > 0, lambda: tf.tanh(x), lambda: x), rows=20)
    assert slots(program) == {2}


def test_a_branch_around_the_update():
    def step(t, x, p, u):
        return tf.cond(u[t, 0] > 0, lambda: update(x, p[t], u[t] * 2), lambda: x)

    program = loop(step, rows=20)
    assert slots(program) == {1}
    assert computed_in_parts(program) == 1


def test_updates_on_both_branches():
    def step(t, x, p, u):
        here, there = (lambda: update(x, p[t], u[t])), (lambda: update(x, p[t] // 2, u[t] * 2))
        return tf.cond(u[t, 0] > 0, here, there)

    program = loop(step, rows=20)
    assert slots(program) == {1}
    assert computed_in_parts(program) == 1


def test_sums_on_a_branch():
    def step(t, x, p, u):
        more = lambda: tf.tensor_scatter_nd_add(x, p[t][None] // 5, u[t][None])
        return tf.cond(u[t, 0] > 0, more, lambda: x)

    program = loop(step, rows=20)
    assert slots(program) == {1}
    assert computed_in_parts(program) == 1


def test_sums_on_both_branches_are_copied():
    """The rows may be one: then it would be added to twice."""

    def step(t, x, p, u):
        def at(row, new):
            return lambda: tf.tensor_scatter_nd_add(x, row[None], new[None])

        return tf.cond(u[t, 0] > 0, at(p[t], u[t]), at(p[t] * 1, u[t] * 2))

    assert slots(loop(step, rows=20)) == {2}


def test_a_position_that_is_out_of_range_on_a_branch_that_is_not_taken():
    def step(t, x, p, u):
        far = tf.where(u[t, 0] > 0, p[t], 1000)
        return tf.cond(u[t, 0] > 0, lambda: update(x, far, u[t] * 2), lambda: x)

    assert slots(loop(step, rows=20)) == {1}


def test_an_inner_loop_that_data_ends_updates():
    def step(t, x, p, u):
        def body(k, x):
            return k + 1, tf.ensure_shape(update(x, p[k], u[t] + tf.cast(k, tf.float32)), [20, 12])

        going = lambda k, x: (k < STEPS) & (tf.reduce_max(x) < 3.0)
        return tf.while_loop(going, body, (0, x))[1]

    loop(step, rows=20)


@pytest.mark.parametrize("most", [2.0, 1.5, -100.0])
def test_an_exit_on_data(most):
    """After some steps, and before the first one."""
    step = lambda t, x, p, u: update(x, p[t], u[t])
    program = loop(step, rows=20, go=lambda t, x: tf.reduce_max(x) < most)
    assert slots(program) == {1}


def test_rows_of_a_batch():
    def step(t, x, p, u):
        rows = tf.stack([tf.range(tf.shape(x)[0]), tf.fill([tf.shape(x)[0]], t)], 1)
        return tf.tensor_scatter_nd_update(x, rows, tf.broadcast_to(u[t, 0], [tf.shape(x)[0]]))

    assert slots(loop(step)) == {1}
