# SPDX-License-Identifier: Apache-2.0
"""Recurrences that follow each other step by step: when they are one loop, and what it computes."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.bundle.link import link
from sirius_tf.codegen.cpu.kernel import print_kernel
from sirius_tf.compile import allocate, laid_out, realize, schedule_program
from sirius_tf.errors import VerifyError
from sirius_tf.mapping.targets import machine_of
from sirius_tf.nest.nodes import Loop, Phase, walk
from sirius_tf.poly.scop import extract
from sirius_tf.runtime import native
from sirius_tf.schedule.fuse import fuse
from sirius_tf.schedule.machine import cpu
from sirius_tf.schedule.storage import storage_maps, windows
from sirius_tf.schedule.verify import check_cells
from tests.support import cells, workers
from tests.support.emulated import (
    Emulated,
    fits,
)
from tests.support.parity import lowered

pytestmark = pytest.mark.cuda_emu

ON_CPU = replace(cpu(2), wavefronts=True)
SHAPES = ((4, 1), (7, 3), (1, 2), (2, 1))  # steps, rows
IN = 5  # columns of the input


def matrix(*shape):
    generator = np.random.default_rng(shape)
    return (generator.standard_normal(shape) / shape[0] ** 0.5).astype("f")


def lstm(x, state, units):
    c, h = state
    return cells.lstm(x @ matrix(x.shape[-1], 4 * units) + h @ matrix(units, 4 * units), c)


def gru(x, state, units):
    """The product with what is left of h is a second one, in a phase of its own."""
    (h,) = state
    z, r = tf.split(
        tf.sigmoid(x @ matrix(x.shape[-1], 2 * units) + h @ matrix(units, 2 * units)), 2, 1
    )
    new = tf.tanh(x @ matrix(x.shape[-1], units) + (r * h) @ matrix(units, units))
    return (z * h + (1 - z) * new,)


def layer(cell, units, x):
    """The last element of the state after each step; x is [steps, rows, columns]."""
    steps = tf.shape(x)[0]
    zero = tf.zeros([tf.shape(x)[1], units])
    states = (zero,) * (2 if cell is lstm else 1)

    def step(t, out, *state):
        state = cell(x[t], state, units)
        return t + 1, out.write(t, state[-1]), *state

    out = tf.TensorArray("float32", steps, element_shape=[None, units])
    _, out, *_ = tf.while_loop(lambda t, *_: t < steps, step, (0, out, *states))
    return tf.ensure_shape(out.stack(), [None, None, units])


def stack(cell, *units, between=lambda h: h):
    def model(x):
        for number, n in enumerate(units):
            x = layer(cell, n, between(x) if number else x)
        return x

    return model


def bidirectional(x):
    """The second layer needs, in its first step, what the first has read last."""
    h = tf.concat([layer(lstm, 6, x), layer(lstm, 6, x[::-1])[::-1]], 2)
    return layer(lstm, 4, h)


def from_the_end(x):
    return layer(lstm, 4, layer(lstm, 6, x)[::-1])


def seeded(x):
    """What the second loop begins with needs all steps of the first."""
    first = tf.reduce_mean(layer(lstm, 6, x), 0)

    def step(t, s):
        return t + 1, tf.tanh(s @ matrix(6, 6) + x[t] @ matrix(IN, 6))

    return tf.while_loop(lambda t, _: t < tf.shape(x)[0], step, (0, first))[1]


def windowed(h):
    """Each step, and the one before the last one."""
    return h + tf.pad(h, [[2, 0], [0, 0], [0, 0]])[: tf.shape(h)[0]]


def normalized(h):
    centered = h - tf.reduce_mean(h, 2, keepdims=True)
    return centered * tf.math.rsqrt(tf.reduce_mean(centered * centered, 2, keepdims=True) + 1e-3)


def sampled(fn, steps=9, rows=1, fixed=False):
    """A model and its program; the samples have `steps` and `rows`."""
    shape = [steps, rows, IN] if fixed else [None, None, IN]
    spec = tf.TensorSpec(shape, "float32", name="x")
    return lowered(fn, spec, hints={"x": (steps, rows, IN)})


def loops(nest):
    """Of each sequential loop its trip count on 9 steps, and the phases of an iteration."""
    found = []
    for loop in walk(nest):
        if isinstance(loop, Loop) and any(isinstance(n, Phase) for n in walk(loop.body)):
            (steps,) = loop.upper.terms
            phases = sum(isinstance(n, Phase) for n in walk(loop.body))
            found.append((steps.evaluate(dict.fromkeys(steps.names(), 9)), phases))
    return found


def feed(*shape):
    return np.random.default_rng(1).standard_normal((*shape, IN)).astype("f")


def check(concrete, program, shapes=SHAPES, machine=ON_CPU):
    """Forced on the CPU, and as the emulated GPU chooses."""
    emulated = Emulated(program, shared=1 << 16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bundle.so")
        link([print_kernel(schedule_program(program, machine))], path, {})
        bundle = native.Bundle(path)
        for shape in shapes:
            x = feed(*shape)
            want = concrete(tf.constant(x)).numpy()
            results = [
                workers.call(bundle, program.name, [x])[0],
                *(
                    emulated([x], blocks, 64, order)[0]
                    for blocks, order in ((3, "forward"), (1, "reverse"), (7, "random:1"))
                ),
            ]
            for result in results:
                np.testing.assert_allclose(result, want, rtol=2e-5, atol=2e-5)
    return emulated


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (stack(lstm, 6, 6), [(10, 1)]),
        (stack(lstm, 6, 4, 9), [(11, 1)]),
        (stack(gru, 6, 6), [(11, 1)]),
        (stack(gru, 8, 3, between=tf.nn.relu), [(11, 1)]),
        (stack(lstm, 6, 6, between=windowed), [(10, 1)]),
        (stack(lstm, 6, 6, between=normalized), [(14, 1)]),
        (bidirectional, [(9, 1), (9, 1)]),
        (from_the_end, [(9, 1), (9, 1)]),
        (seeded, [(9, 1), (9, 1)]),
    ],
)
def test_stacks(model, wanted) -> None:
    concrete, program = sampled(model)
    assert loops(schedule_program(program, machine_of("sm_90")).nest) == wanted
    check(concrete, program)


def test_known_sizes() -> None:
    concrete, program = sampled(stack(lstm, 6, 6), 9, 2, fixed=True)
    assert loops(schedule_program(program, machine_of("sm_90")).nest) == [(10, 1)]
    check(concrete, program, [(9, 2)])


def realized(program, flows, machine):
    scop = extract(program)
    schedule = allocate(program, scop, fuse(program, flows, machine), machine)
    return realize(program, scop, flows, schedule, machine)


@pytest.mark.parametrize("units", [(6, 6), (6, 5, 4)])
def test_a_broken_shift_is_found(units) -> None:
    """isl has the last word on the shifts that were chosen."""
    _, program = sampled(stack(lstm, *units))
    machine = machine_of("sm_90")
    program, flows = laid_out(program, machine)
    realized(program, flows, machine)
    last = max(i.shift or 0 for s in program.statements for i in s.iters)
    statements = tuple(
        replace(
            s, iters=tuple(replace(i, shift=last - 2) if i.shift == last else i for i in s.iters)
        )
        for s in program.statements
    )
    broken = replace(program, statements=statements)
    with pytest.raises(VerifyError):
        realized(broken, flows, machine)


def test_a_slot_too_few_is_found() -> None:
    """In the step that makes h[t + 1], the next layer reads h[t]: both have a place."""
    _, program = sampled(stack(lstm, 6, 6))
    machine = machine_of("sm_90")
    program, flows = laid_out(program, machine)
    root, scop = fuse(program, flows, machine), extract(program)
    late = {s.name for s in program.statements if any(i.shift for i in s.iters)}
    (name,) = {f.tensor for f in flows if f.sink in late and f.source not in late} & {
        s.target for s in program.statements if any(i.shift == 0 for i in s.iters)
    }
    assert windows(program, scop, root)[name] == (2, None, None)
    check_cells(scop, root, storage_maps(scop, {name: (2, None, None)}), ())
    with pytest.raises(VerifyError, match=f"a cell of {name} is that of two elements"):
        check_cells(scop, root, storage_maps(scop, {name: (1, None, None)}), ())


def test_where_it_pays() -> None:
    """A barrier of all blocks is dear, one of two threads is not; nor are rows to be given up, or
    weights to be read from afar in every step."""

    def waits(units, rows, machine):
        _, program = sampled(stack(lstm, units, units), 100, rows)
        return len(loops(schedule_program(program, machine).nest)) == 2

    assert waits(64, 1, cpu(2))
    assert not waits(64, 1, machine_of("sm_90"))
    assert not waits(64, 1, ON_CPU)
    assert waits(64, 1, replace(machine_of("sm_90"), wavefronts=False))
    assert waits(256, 128, machine_of("sm_90"))
    assert waits(256, 1, replace(machine_of("sm_90"), shared=1 << 12))


def test_weights_share_room() -> None:
    """Whatever a block has of two clusters, and whether all of it fits or not."""
    concrete, program = sampled(stack(lstm, 24, 24))
    for room in (1 << 16, 1200):
        emulated = Emulated(program, shared=room)
        assert emulated.kernel.shared_bytes <= room
        assert ("held[1]" in emulated.kernel.source) == (room == 1200)
        for shape in ((4, 1), (3, 3)):
            x = feed(*shape)
            want = concrete(tf.constant(x)).numpy()
            for blocks, order in ((1, "forward"), (3, "reverse"), (40, "random:1")):
                (result,) = emulated([x], blocks, 64, order)
                np.testing.assert_allclose(result, want, rtol=2e-5, atol=2e-5)
        if room == 1200:
            fits(emulated.kernel)
            Emulated(program, "thread", shared=room)([feed(3, 3)], 2, 64)  # finds no race
