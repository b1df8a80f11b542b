# SPDX-License-Identifier: Apache-2.0
"""Loops whose blocks await words instead of a barrier: which they are, and what they compute."""

import re
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.codegen.cuda.kernel import print_kernel
from sirius_tf.compile import schedule_program
from sirius_tf.errors import InvalidArgument
from sirius_tf.mapping import exchange
from sirius_tf.mapping.exchange import EVERY
from sirius_tf.mapping.targets import machine_of
from tests.emulator.emulator import EmulationError
from tests.support import cells, programs
from tests.support.emulated import Emulated, fits
from tests.support.parity import lowered

pytestmark = pytest.mark.cuda_emu

RNG = np.random.default_rng(0)
UNITS = 40
W = {k: RNG.standard_normal((UNITS, k * UNITS)).astype("f") / 8 for k in (1, 3, 4)}
SMALL = {"worth_a_tile": 64, "worth_a_worker": 32}  # so that such states have several tiles
LAUNCHES = ((1, 32, "forward"), (3, 64, "reverse"), (11, 32, "random:1"))


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


def layers(cell, x):
    """Two layers of a cell (of x, c and h), of which the second runs a step behind the first."""
    for _ in range(2):
        hs = tf.TensorArray("float32", tf.shape(x)[1])
        zero = tf.zeros([tf.shape(x)[0], UNITS])

        def step(t, c, h, hs, x=x):
            c, h = cell(x[:, t], c, h)
            return t + 1, c, h, hs.write(t, h)

        end = tf.shape(x)[1]
        out = tf.while_loop(lambda t, *_: t < end, step, (0, zero, zero, hs))  # noqa: B023
        x = tf.ensure_shape(tf.transpose(out[3].stack(), [1, 0, 2]), [None, None, UNITS])
    return x


def lstm(x):
    def cell(y, c, h):
        return cells.lstm(tf.tile(y, [1, 4]) + tf.matmul(h, W[4]), c)

    return layers(cell, x)


def simple_layers(x):
    return layers(lambda y, c, h: (c, tf.tanh(y + tf.matmul(h, W[1]))), x)


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


def shuffled(x):
    """Data says which elements of others are read."""
    places = tf.constant(RNG.permutation(UNITS), "int32")

    def step(y, h):
        moved = tf.math.floormod(places + tf.cast(y[0, 0] * 8, "int32"), UNITS)
        return (tf.tanh(y + tf.matmul(h, W[1])) + 0.5 * tf.gather(h, moved, axis=1),)

    return unrolled_over_time(step, ["float32"], x)[0]


def agree(emulated, concrete, x, *launch, **more):
    """The emulated kernel computes what TensorFlow does."""
    (got,) = emulated([x], *launch, **more)
    np.testing.assert_allclose(got, concrete(tf.constant(x)).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fn", "batch"), [(simple, 1), (gru, 4), (lstm, 16), (counting, 1), (shuffled, 1)]
)
def test_results(fn, batch) -> None:
    """Whatever the order, the trips, the batch and the number of blocks; there is no race."""
    concrete, program = made(fn, (batch, 50))
    emulated = Emulated(program, **SMALL)
    assert "sirius_await(" in emulated.kernel.source
    assert "// No barrier of the grid" in emulated.kernel.source
    fits(emulated.kernel)
    sizes = ((1, 0), (1, 1), (1, 2 * EVERY + 3), (5, EVERY))
    for size in sizes[fn in (lstm, shuffled) :]:  # TensorFlow stacks no empty list, has no x[0, 0]
        for launch in LAUNCHES:
            agree(emulated, concrete, feed(*size), *launch)
    Emulated(program, "thread", **SMALL)([feed(2, EVERY + 3)], 5, 32, "random:3")


def test_layers_are_a_wavefront() -> None:
    """The layers that follow need not keep up with the first one, but for a barrier once in a
    while: without it, words are overwritten that nobody has read."""
    concrete, program = made(simple_layers)
    x = feed(1, 3 * EVERY + 1)
    emulated = Emulated(program, wavefronts=True)
    assert "sirius_await(" in emulated.kernel.source
    for order in ("forward", "reverse", "random:4"):
        agree(emulated, concrete, x, 2, 64, order)
    barrier = rf"if \(\(c0 \+ 1\) % {EVERY} == 0\) sirius_grid_barrier\(sync\);"

    def without(source):
        assert len(re.findall(barrier, source)) == 1
        return re.sub(barrier, "", source)

    careless = Emulated(program, edit=without, wavefronts=True)
    with pytest.raises(EmulationError, match="livelock"):
        careless([x], 2, 64)


def test_words_of_an_earlier_call() -> None:
    """They are forgotten, or else a block would take them for those of this call."""
    concrete, program = made(simple)
    emulated, clears = Emulated(program, **SMALL), r"T_\w+_words\[e\] = 0;"
    assert len(re.findall(clears, emulated.kernel.source)) == 1
    careless = Emulated(program, edit=lambda source: re.sub(clears, ";", source), **SMALL)
    for x in (feed(2, 9), feed(2, 9), feed(2, 7)):
        agree(emulated, concrete, x, 5, 32, workspace=getattr(emulated, "workspace", None))
    agree(careless, concrete, feed(2, 9), 5, 32)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        agree(careless, concrete, feed(2, 9), 5, 32, workspace=careless.workspace)


def test_a_tag_says_which_element_it_is() -> None:
    _, program = made(simple)
    sent = "sirius_store_relaxed(word, (uint64_t)(uint32_t)(time + 1) << 32 | __float_as_uint(x))"

    def late(source):
        assert sent in source
        return source.replace(sent, sent.replace("time + 1", "time + 2"))

    with pytest.raises(EmulationError, match="livelock"):
        Emulated(program, edit=late, **SMALL)([feed(1, 3)], 5, 32)


def test_others_read_behind_a_barrier() -> None:
    _, program = made(simple)
    barrier = "// others read what blocks have made\n  sirius_grid_barrier(sync);"

    def without(source):
        assert source.count(barrier) == 1
        return source.replace(barrier, "")

    with pytest.raises(EmulationError, match="data race"):
        Emulated(program, "thread", without, **SMALL)([feed(2, 3)], 5, 32)


def test_what_others_own_is_not_read(monkeypatch) -> None:
    """Were all tiles taken for the owner, there would be a race."""
    _, program = made(simple)
    monkeypatch.setattr(exchange._Access, "is_of", lambda self, other: True)
    careless = Emulated(program, "thread", **SMALL)
    assert "sirius_await(" not in careless.kernel.source
    with pytest.raises(EmulationError, match="data race"):
        careless([feed(2, 3)], 5, 32)


def test_what_a_block_owns_needs_no_words() -> None:
    """Rows of a batch are tiles: a block reads what it has made itself."""
    emulated = Emulated(programs.lstm())
    source = emulated.kernel.source
    assert "sirius_await(" not in source
    assert source.count("sirius_grid_barrier(sync)") == 2  # before the loop, and behind it
    inputs = [RNG.standard_normal(s).astype("f") for s in ((5, 9, 12), (3, 12))]
    Emulated(programs.lstm(), "thread")(inputs, 3, 32, "random:1")


def test_a_failure_leaves_nobody_waiting() -> None:
    table = RNG.standard_normal(UNITS).astype("f")

    def fn(x):
        def step(y, h):
            found = tf.gather(table, tf.cast(tf.reduce_sum(h, 1), "int32"))
            return (tf.tanh(tf.matmul(h, W[1])) + y + found[:, None],)

        return unrolled_over_time(step, ["float32"], x)[0]

    _, program = made(fn)
    emulated = Emulated(program, words=True, **SMALL)
    assert "sirius_await(" in emulated.kernel.source
    with pytest.raises(InvalidArgument, match=r"index \d+ is not in \[0, 40\)"):
        emulated([np.full((2, 5, UNITS), 9, "f")], 5, 32)


def doubles(x):
    w = tf.cast(W[1], "float64")

    def step(y, h):
        return (tf.tanh(tf.cast(y, "float64") + tf.matmul(h, w)),)

    return unrolled_over_time(step, ["float64"], x)[0]


def until_data_ends_it(x):
    going = tf.while_loop(
        lambda t, h: tf.logical_and(t < 9, tf.reduce_sum(h) < 5.0),
        lambda t, h: (t + 1, tf.tanh(x[:, 0] + tf.matmul(h, W[1]))),
        (0, tf.zeros_like(x[:, 0])),
    )
    return going[1]


def halves(x):
    """Two statements define a state."""

    def step(y, h):
        new = tf.tanh(y + tf.matmul(h, W[1]))
        return (tf.concat([new[:, :20], tf.sigmoid(new[:, 20:])], 1),)

    return unrolled_over_time(step, ["float32"], x)[0]


@pytest.mark.parametrize("fn", [doubles, until_data_ends_it, halves])
def test_where_barriers_stay(fn) -> None:
    """No room for a tag; trips that blocks read of memory; a state that is defined in parts."""
    concrete, program = made(fn)
    emulated = Emulated(program, words=True, **SMALL)
    assert "// No barrier" not in emulated.kernel.source
    agree(emulated, concrete, feed(2, 5), 5, 32)


def test_what_it_is_worth() -> None:
    """A single step saves no barrier; what is awaited must have room; and the machine decides."""
    machine = replace(machine_of("sm_90"), **SMALL)

    def words(hints, **fields):
        scheduled = schedule_program(made(simple, hints)[1], replace(machine, **fields))
        return "sirius_await(" in print_kernel(scheduled).source

    assert words((1, 50))
    assert not words((1, 50), words=False)
    assert not words((1, 1))
    assert words((1, 1), words=True)
    assert not words((1, 50), shared=64, words=True)
