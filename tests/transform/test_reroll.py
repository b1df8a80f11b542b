# SPDX-License-Identifier: Apache-2.0
"""Loops that Python unrolled: rolled programs against TensorFlow, and how small they are."""

import itertools
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.bundle.link import link
from sirius_tf.compile import compile_program
from sirius_tf.ir.interp import run
from sirius_tf.ir.verify import verify
from sirius_tf.runtime import native
from sirius_tf.transform.reroll import reroll
from sirius_tf.transform.simplify import simplify
from tests.support import cells
from tests.support.arrays import assert_close
from tests.support.parity import lowered

WIDTH = 5


def check(fn, *shapes, generated=False):
    """The Program of `fn` rolled, when it is known to compute the same at several batches."""
    concrete, program = lowered(fn, *((shape, "float32") for shape in shapes))
    rolled = reroll(program)
    verify(rolled)
    shuffled = list(program.statements)
    random.Random(1).shuffle(shuffled)
    again = reroll(replace(program, statements=tuple(shuffled)))
    assert len(again.statements) == len(rolled.statements)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bundle.so")
        if generated:
            link([compile_program(replace(program, name="region"))], path, {})
        for batch in (1, 3, 0):
            rng = np.random.default_rng(batch)
            feeds = [rng.standard_normal([batch, *s[1:]]).astype("f") for s in shapes]
            named = dict(zip(program.inputs, feeds, strict=True))
            expected = [e.numpy() for e in concrete(*map(tf.constant, feeds))]
            results = [run(p, named) for p in (rolled, simplify(rolled), again)]
            results += [native.Bundle(path).call("region", feeds)] if generated else []
            for actual in results:
                assert_close(actual, expected, 1e-4, 1e-5)
    return rolled


def loops(program):
    return {i.name for s in program.statements for i in s.iters if i.loop}


SEEDS = itertools.count()


def weights(*shape):
    return (np.random.default_rng(next(SEEDS)).standard_normal(shape) / 2).astype("f")


def simple():
    w, u, b = weights(WIDTH, WIDTH), weights(WIDTH, WIDTH), weights(WIDTH)

    def step(x, state):
        h = tf.tanh(x @ w + state[0] @ u + b)
        return h, (h,)

    return 1, step


def gru():
    w, u, b = weights(WIDTH, 3 * WIDTH), weights(WIDTH, 3 * WIDTH), weights(3 * WIDTH)

    def step(x, state):
        (h,) = state
        xz, xr, xh = tf.split(x @ w + b, 3, 1)
        hz, hr, hh = tf.split(h @ u, 3, 1)
        z = tf.sigmoid(xz + hz)
        h = z * h + (1.0 - z) * tf.tanh(xh + tf.sigmoid(xr + hr) * hh)
        return h, (h,)

    return 1, step


def lstm(together=False):
    w, u, b = weights(WIDTH, 4 * WIDTH), weights(WIDTH, 4 * WIDTH), weights(4 * WIDTH)
    both = np.concatenate([w, u])

    def step(x, state):
        h, c = state
        z = tf.concat([x, h], 1) @ both + b if together else x @ w + h @ u + b
        c, h = cells.lstm(z, c)
        return h, (h, c)

    return 2, step


def unrolled(cells, stacked=True, start=lambda x: tf.zeros([tf.shape(x)[0], WIDTH])):
    """Layers of cells over x [batch, time, WIDTH], all steps of a layer one after the other."""

    def fn(x):
        states = [(start(x),) * count for count, _ in cells]
        outputs = []
        for h in tf.unstack(x, axis=1):
            for number, (_, step) in enumerate(cells):
                h, states[number] = step(h, states[number])
            outputs.append(h)
        return (tf.stack(outputs, 1),) if stacked else (outputs[-1],)

    return fn


@pytest.mark.parametrize("cell", [simple, gru, lstm, lambda: lstm(together=True)])
@pytest.mark.parametrize("stacked", [True, False])
def test_layers(cell, stacked):
    fn = unrolled([cell(), cell()], stacked)
    long, longer = (check(fn, [None, time, WIDTH]) for time in (6, 9))
    assert len(long.statements) == len(longer.statements) < 45
    assert len(loops(long)) == 2


@pytest.mark.parametrize("cell", [simple, gru, lstm])
def test_generated_code(cell):
    check(unrolled([cell(), cell()]), [None, 6, WIDTH], generated=True)


@pytest.mark.parametrize("time", [1, 2, 3])
def test_few_steps_stay(time):
    assert not loops(check(unrolled([lstm(), lstm()]), [None, time, WIDTH]))


@pytest.mark.parametrize(
    "start",
    [
        lambda x: x[:, 0] * 2.0,
        lambda x: x[:, 1],
        lambda x: tf.ones([1, WIDTH]),
        lambda x: tf.ones([tf.shape(x)[0], WIDTH]) * 0.5,
    ],
)
def test_states_to_start_from(start):
    rolled = check(unrolled([lstm(), gru()], start=start), [None, 6, WIDTH])
    assert len(loops(rolled)) == 2


def test_a_first_step_without_state():
    w, u = weights(WIDTH, WIDTH), weights(WIDTH, WIDTH)

    def fn(x):
        h = None
        for v in tf.unstack(x, axis=1):
            h = tf.tanh(v @ w if h is None else v @ w + h @ u)
        return (h,)

    long, longer = (check(fn, [None, time, WIDTH]) for time in (6, 9))
    assert len(long.statements) == len(longer.statements)
    assert len(loops(long)) == 1


def test_a_step_that_differs():
    _, step = lstm()

    def fn(x):
        state = (tf.zeros([tf.shape(x)[0], WIDTH]),) * 2
        for t, v in enumerate(tf.unstack(x, axis=1)):
            h, state = step(v, state)
            if t == 6:
                state = (h * 2.0, state[1])
        return (h,)

    assert len(loops(check(fn, [None, 13, WIDTH]))) == 1


def test_backward_and_both_directions():
    (_, forth), (_, back), w = lstm(), lstm(), weights(WIDTH, WIDTH)

    def fn(x):
        ends = []
        xs = [tf.nn.relu(v @ w) for v in tf.unstack(x, axis=1)]
        for step, steps in ((forth, xs), (back, xs[::-1])):
            state = (tf.zeros([tf.shape(x)[0], WIDTH]),) * 2
            for v in steps:
                h, state = step(v, state)
            ends.append(h)
        return (tf.concat(ends, 1),)

    long, longer = (check(fn, [None, time, WIDTH]) for time in (6, 9))
    assert len(long.statements) == len(longer.statements)
    assert len(loops(long)) == 2


def test_two_steps_back():
    w = weights(WIDTH, WIDTH)

    def fn(x):
        a = b = tf.zeros([tf.shape(x)[0], WIDTH])
        for v in tf.unstack(x, axis=1):
            a, b = b, tf.tanh(a @ w + b * 0.5 + v)
        return a, b

    long, longer = (check(fn, [None, time, WIDTH]) for time in (7, 9))
    assert len(long.statements) == len(longer.statements)


def test_no_weights_at_all():
    def fn(x):
        y = x
        for _ in range(8):
            y = tf.tanh(y + 1.0)
        return (y,)

    assert len(loops(check(fn, [None, WIDTH]))) == 1


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_layers_of_keras(kind):
    layer = getattr(keras.layers, kind)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((7, 3)),
            keras.layers.Bidirectional(layer(4, unroll=True, return_sequences=True)),
            layer(5, unroll=True),
        ]
    )
    rolled = check(lambda x: (model(x),), [None, 7, 3])
    assert len(loops(rolled)) == 3


def test_the_same_for_every_step():
    w, v, b = weights(WIDTH, 3), weights(3, 2), weights(3)

    def fn(x):
        return (tf.stack([tf.nn.relu(s @ w + b) @ v for s in tf.unstack(x, axis=1)], 1),)

    long, longer = (check(fn, [None, time, WIDTH]) for time in (6, 9))
    assert len(long.statements) == len(longer.statements) < 8
    assert not loops(long)


def test_layers_with_weights_of_their_own_stay():
    layers = [(weights(WIDTH, 8), weights(8, WIDTH), weights(WIDTH)) for _ in range(8)]

    def fn(x):
        for w, v, b in layers:
            x = tf.nn.relu(x + tf.nn.relu(x @ w) @ v + b)
        return (x,)

    _, program = lowered(fn, ([None, WIDTH], "float32"))
    assert reroll(program) is program


def test_layers_that_share_their_weights():
    w, v = weights(WIDTH, 8), weights(8, WIDTH)

    def fn(x):
        for _ in range(8):
            x = tf.nn.relu(x + tf.nn.relu(x @ w) @ v)
        return (x,)

    rolled = check(fn, [None, WIDTH])
    assert len(loops(rolled)) == 1
    assert len(rolled.statements) < 12


def test_two_layers_with_the_weights_of_one():
    cell = lstm()
    long, longer = (check(unrolled([cell, cell]), [None, time, WIDTH]) for time in (5, 9))
    assert len(long.statements) == len(longer.statements)


def test_towers_of_different_experts_stay():
    experts = [weights(WIDTH, 3) for _ in range(6)]
    _, program = lowered(
        lambda x: (tf.stack([tf.nn.relu(x @ w) for w in experts]),), ([None, WIDTH], "float32")
    )
    assert len(reroll(program).statements) == len(program.statements)


def test_a_result_of_every_step():
    def fn(x):
        return tuple(tf.unstack(unrolled([simple()])(x)[0] * 2.0, axis=1))

    check(fn, [None, 6, WIDTH])


def test_beside_a_loop_of_the_graph():
    model = keras.Sequential([keras.Input((6, WIDTH)), keras.layers.LSTM(WIDTH)])
    _, step = simple()

    def fn(x):
        h = model(x)
        for v in tf.unstack(x, axis=1):
            h, _ = step(v, (h,))
        return (h,)

    assert len(loops(check(fn, [None, 6, WIDTH]))) == 2


def test_recurrences_that_start_from_different_states():
    """Both read what the step before has left, but for the first one: there is one element for
    it in front of the array, and two values."""

    def fn(x):
        h = None
        first, other = x[:, 0], x[:, 1]
        for v in tf.unstack(x, axis=1):
            a = tf.tanh(v + (first if h is None else h))
            b = tf.sigmoid((other if h is None else h) - v)
            h = a * b + v
        return (h,)

    assert len(loops(check(fn, [None, 7, WIDTH]))) == 1
