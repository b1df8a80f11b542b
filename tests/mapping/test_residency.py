# SPDX-License-Identifier: Apache-2.0
"""What generated CUDA keeps in shared memory: what it says, that it fits, and what it computes."""

import re

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.bundle.cuda import compile_kernel
from sirius_tf.compile import compile_cuda, schedule_program
from sirius_tf.errors import SiriusError
from sirius_tf.frontend.graphdef import from_graph_def
from sirius_tf.ir import interp
from sirius_tf.lower.graph import lower
from sirius_tf.mapping.occupancy import ARCHITECTURES, shared_of_block
from sirius_tf.mapping.residency import place
from sirius_tf.mapping.targets import machine_of
from tests.emulator.emulator import EmulationError
from tests.support import programs
from tests.support.emulated import (
    Emulated,
    agree,
    fits,
)
from tests.support.programs import random_inputs

pytestmark = pytest.mark.cuda_emu

RNG = np.random.default_rng(0)


def recurrence(units, sizes, u=None):
    """An LSTM cell, whose samples have `sizes` (batch, steps), over sequences of any length."""
    if u is None:
        u = RNG.standard_normal((units, 4 * units)).astype("f") / np.float32(units**0.5)

    def fn(x):
        def step(t, c, h):
            i, f, o, g = tf.split(x[:, t] + tf.matmul(h, u), 4, 1)
            c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
            return t + 1, c, tf.sigmoid(o) * tf.tanh(c)

        zero = tf.zeros([tf.shape(x)[0], units])
        return tf.while_loop(lambda t, *_: t < tf.shape(x)[1], step, (0, zero, zero))[2]

    spec = tf.TensorSpec([None, None, 4 * units], "float32", name="x")
    concrete = tf.function(fn, input_signature=[spec]).get_concrete_function()
    graph = from_graph_def(concrete.graph.as_graph_def(), ["x:0"], [concrete.outputs[0].name])
    return concrete, lower(graph, {"x": (*sizes, 4 * units)})


def kept(kernel):
    """What the comments say."""
    return re.findall("// Each iteration reads the same: a block keeps (.*)", kernel.source)


def test_text(golden) -> None:
    _, program = recurrence(40, (1, 9))
    golden("recurrence.cuda", compile_cuda(program).source)


@pytest.mark.parametrize("room", [1 << 16, 1 << 12, 100])
@pytest.mark.parametrize("units", [40, 21])
def test_recurrence(units, room) -> None:
    """Whatever the batch, and whether slices fit or not: few blocks have more than they keep."""
    concrete, program = recurrence(units, (1, 9))
    emulated = Emulated(program, shared=room)
    assert emulated.kernel.shared_bytes <= room
    assert len(kept(emulated.kernel)) == (room > 100)
    for shape in ((1, 4), (3, 2), (9, 3), (2, 0)):
        x = RNG.standard_normal((*shape, 4 * units)).astype("f")
        agree(program, [concrete(tf.constant(x)).numpy()], [x], emulated, 2e-5)
    fits(emulated.kernel)
    x = RNG.standard_normal((3, 3, 4 * units)).astype("f")
    Emulated(program, "thread", shared=room)([x], 2, 64)  # which finds no race


def test_the_copy_is_waited_for() -> None:
    _, program = recurrence(40, (1, 9))

    def without(source):
        assert "__syncthreads(); // all threads have copied" in source
        return source.replace("__syncthreads(); // all threads have copied", "")

    x = RNG.standard_normal((1, 3, 160)).astype("f")
    with pytest.raises(EmulationError, match="data race"):
        Emulated(program, "thread", without, words=False)([x], 2, 64)


@pytest.mark.parametrize(
    ("units", "batch", "arch", "what"),
    [
        (512, 1, "sm_80", "5 slices of 8192 bytes"),
        (512, 16, "sm_90", "2 slices of 32768 bytes"),
        (1024, 1, "sm_86", "2 slices of 16384 bytes of {} (of 5, for want of room)"),
    ],
)
def test_large_weights(units, batch, arch, what) -> None:
    """All that a block needs, or as much as it has room for while two run on a multiprocessor."""
    _, program = recurrence(units, (batch, 100), np.zeros((units, 4 * units), "f"))
    kernel = compile_cuda(program, others=[arch])
    (weights,) = (t.name for t in kernel.program.tensors if t.role == "constant")
    found = [text if what.endswith(")") else text.partition(" of w")[0] for text in kept(kernel)]
    assert found == [what.format(weights)]
    compiled = compile_kernel(kernel, [arch])
    used = compiled.cubins[arch].kernels[kernel.name]
    assert (used.spill_stores, used.spill_loads, used.stack) == (0, 0, 0)
    assert used.static_shared + kernel.shared_bytes <= shared_of_block(arch, 2)
    assert compiled.blocks(arch) >= min(2 * ARCHITECTURES[arch].sms, kernel.blocks)


def test_a_kernel_fits_on_all_its_architectures() -> None:
    _, program = recurrence(1024, (1, 100), np.zeros((1024, 4096), "f"))
    kernel = compile_cuda(program, "sm_90", others=["sm_86", "sm_90"])
    assert kernel.shared_bytes <= shared_of_block("sm_86", 2) < shared_of_block("sm_90", 2)
    with pytest.raises(SiriusError, match="architecture sm_1 is none of"):
        machine_of("sm_90", others=["sm_1"])


def test_temporaries_of_a_tile() -> None:
    """In shared memory, if they fit; else, as what cp.async copies, in the workspace."""
    program = programs.softmax()
    scheduled = schedule_program(program, machine_of("sm_90"))
    assert place(scheduled, 1 << 10, ()).temporaries.keys() == {"m", "e", "s"}
    assert place(scheduled, 128, ()).temporaries.keys() == {"m", "s"}
    assert place(scheduled, 1 << 10, ["m"]).temporaries.keys() == {"e", "s"}
    inputs = random_inputs(program, {"B": 67})
    emulated = Emulated(program, shared=256)
    assert re.search(r"\*T_e = .*slot0", emulated.kernel.source)
    assert re.search(r"\*const T_m = .*resident", emulated.kernel.source)
    agree(program, interp.run(program, inputs), list(inputs.values()), emulated)
