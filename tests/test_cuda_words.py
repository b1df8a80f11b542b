# SPDX-License-Identifier: Apache-2.0
"""Loops whose blocks await words instead of a barrier: which they are, and what they compute."""

import re
from dataclasses import replace

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from sirius_tf.codegen import cuda_exchange  # noqa: E402
from sirius_tf.codegen.cuda import machine_of, print_kernel  # noqa: E402
from sirius_tf.codegen.cuda_exchange import EVERY, exchanges  # noqa: E402
from sirius_tf.compile import schedule_program  # noqa: E402
from sirius_tf.errors import InvalidArgument  # noqa: E402
from tests import programs  # noqa: E402
from tests.cuda import Emulated  # noqa: E402
from tests.emulator.emulator import EmulationError  # noqa: E402
from tests.test_cuda import fits, lowered  # noqa: E402

pytestmark = pytest.mark.cuda_emu

RNG = np.random.default_rng(0)
UNITS = 40
W = {k: RNG.standard_normal((UNITS, k * UNITS)).astype("f") / 8 for k in (1, 3, 4)}
SMALL = {"worth_a_tile": 64, "worth_a_worker": 32}  # so that such states have several tiles
LAUNCHES = ((1, 32, "forward"), (3, 64, "reverse"), (11, 32, "random:1"), (7, 96, "random:2"))


def unrolled_over_time(step, state, x):
    """What a While makes of a step, a state of zeros, and x[batch, time, units]."""
    zeros = [tf.zeros([tf.shape(x)[0], UNITS], dtype) for dtype in state]
    going = tf.while_loop(
        lambda t, *_: t < tf.shape(x)[1], lambda t, *s: (t + 1, *step(x[:, t], *s)), (0, *zeros)
    )
    return going[1:]


def simple(x):
    """One statement that reads what others have made of its own tensor."""
    (h,) = unrolled_over_time(lambda y, h: (tf.tanh(y + tf.matmul(h, W[1])),), ["float32"], x)
    return h


def gru(x):
    """A tile reads what it has made itself, and what others have."""

    def step(y, h):
        z, r, n = tf.split(tf.matmul(h, W[3]), 3, 1)
        z = tf.sigmoid(z + y)
        return (z * h + (1.0 - z) * tf.tanh(y + tf.sigmoid(r) * n),)

    return unrolled_over_time(step, ["float32"], x)[0]


def lstm(x):
    """Two layers, of which the second runs a step behind the first."""
    for _ in range(2):
        hs = tf.TensorArray("float32", tf.shape(x)[1])
        zero = tf.zeros([tf.shape(x)[0], UNITS])

        def step(t, c, h, hs, x=x):
            i, f, o, g = tf.split(tf.tile(x[:, t], [1, 4]) + tf.matmul(h, W[4]), 4, 1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            h = tf.sigmoid(o) * tf.tanh(c)
            return t + 1, c, h, hs.write(t, h)

        end = tf.shape(x)[1]
        out = tf.while_loop(lambda t, *_: t < end, step, (0, zero, zero, hs))  # noqa: B023
        x = tf.transpose(out[3].stack(), [1, 0, 2])
        x = tf.ensure_shape(x, [None, None, UNITS])
    return x


def counting(x):
    """A state of integers."""
    n = tf.cast(tf.abs(W[1]) * 40, "int32")

    def step(y, h):
        return (tf.math.floormod(tf.matmul(h, n) + tf.cast(y * 3, "int32"), 1009),)

    return unrolled_over_time(step, ["int32"], x)[0]


def made(fn, hints=(1, 50)):
    """A function of x[batch, time, units], and its program for samples of that size."""
    concrete, program = lowered(fn, tf.TensorSpec([None, None, UNITS], "float32"))
    params = [replace(p, hint=hint) for p, hint in zip(program.params, hints, strict=False)]
    return concrete, replace(program, params=(*params, *program.params[len(params) :]))


def feed(batch, steps):
    return RNG.standard_normal((batch, steps, UNITS)).astype("f")


@pytest.mark.parametrize("fn", [simple, gru, lstm, counting])
def test_results(fn) -> None:
    """Whatever the order, the trips, the batch and the number of blocks."""
    concrete, program = made(fn)
    emulated = Emulated(program, **SMALL)
    assert "sirius_await(" in emulated.kernel.source
    assert "// No barrier of the grid" in emulated.kernel.source
    fits(emulated.kernel)
    sizes = ((1, 0), (1, 1), (2, 3), (1, 2 * EVERY + 3), (5, EVERY))
    for size in sizes[fn is lstm :]:  # TensorFlow stacks no empty list
        x = feed(*size)
        want = concrete(tf.constant(x)).numpy()
        for launch in LAUNCHES:
            (got,) = emulated([x], *launch)
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    Emulated(program, "thread", **SMALL)([feed(2, EVERY + 3)], 5, 32, "random:3")
