# SPDX-License-Identifier: Apache-2.0
"""Sums that blocks divide among each other: which ones, into what, and what they compute."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.compile import schedule_program
from sirius_tf.frontend import savedmodel
from sirius_tf.ir import interp
from sirius_tf.ir.verify import verify
from sirius_tf.lower.graph import lower
from sirius_tf.mapping.targets import machine_of
from sirius_tf.nest.nodes import Phase, walk
from sirius_tf.pipeline import PIPELINE
from sirius_tf.schedule.split_k import divided, in_pieces
from tests.emulator.emulator import EmulationError
from tests.support.emulated import DEFAULT, Emulated, agree, fits, many
from tests.support.models import export_lstm
from tests.support.parity import lowered
from tests.support.programs import simplified

pytestmark = pytest.mark.cuda_emu

RNG = np.random.default_rng(0)
MACHINE = machine_of("sm_90")


def product(rows, depth, width):
    """A function max(x w + 1, 0), and its program."""
    w = np.random.default_rng(1).standard_normal((depth, width)).astype("f") / np.sqrt(depth)

    def fn(x):
        return tf.nn.relu(tf.matmul(x, w.astype("f")) + 1.0)

    return lowered(fn, tf.TensorSpec([rows, depth], "float32"))


def pieces(program):
    """The names and the sizes of the sums of a program that were divided."""
    program = in_pieces(simplified(program), MACHINE)
    return {t.name: t.shape[0].const for t in program.tensors if t.name.endswith("_parts")}


def in_two(program, count):
    """The program with its longest sum in some pieces."""
    program = simplified(program)
    sums = [s for s in program.statements if s.reduce]
    return divided(program, max(sums, key=lambda s: s.reduce.iters[-1].extent.const), count)


@pytest.mark.parametrize(("depth", "count", "rest"), [(33, 3, 1), (1000, 2, 488), (1000, 21, 40)])
def test_pieces_are_the_sum(depth, count, rest) -> None:
    concrete, program = product(None, depth, 5)
    program = in_two(program, count)
    verify(program)
    by_name = {s.name: s for s in program.statements}
    (last,) = (s for name, s in by_name.items() if name.endswith("_rest"))
    assert last.reduce.iters[-1].extent.const == rest
    assert by_name[last.name.replace("_rest", "")].finish is not None
    for rows in (0, 1, 3):
        x = RNG.standard_normal((rows, depth)).astype("f")
        want = concrete(tf.constant(x)).numpy()
        (result,) = interp.run(program, {program.inputs[0]: x})
        np.testing.assert_allclose(result, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("depth", "width", "count"), [(33, 7, 3), (1000, 40, 8), (1024, 3, 4)])
@pytest.mark.parametrize("launch", ["persistent", "graph"])
def test_kernels_agree_with_tensorflow(depth, width, count, launch) -> None:
    concrete, program = product(None, depth, width)
    emulated = Emulated(in_two(program, count), "address", launch=launch)
    for rows in (0, 1, 7, 33):
        x = RNG.standard_normal((rows, depth)).astype("f")
        agree(program, [concrete(tf.constant(x)).numpy()], [x], emulated, 2e-5)
    fits(emulated.kernel)


def test_other_reductions_are_divided_too() -> None:
    def fn(x):
        return tf.reduce_max(x, 1), tf.reduce_sum(x, 1)

    concrete, program = lowered(fn, tf.TensorSpec([None, 700], "float32"))
    program = simplified(program)
    for s in [s for s in program.statements if s.reduce]:
        program = divided(program, s, 9)
    emulated = Emulated(program)
    x = RNG.standard_normal((5, 700)).astype("f") - 9
    agree(program, [w.numpy() for w in concrete(tf.constant(x))], [x], emulated, 2e-5)


@pytest.mark.parametrize("precision", ["half", "tf32x3"])
def test_matrix_units_have_pieces(precision) -> None:
    concrete, program = product(None, 1000, 32)
    emulated = Emulated(many(in_two(program, 4)), precision=precision)
    assert "sirius_mma_" in emulated.kernel.source
    x = RNG.standard_normal((65, 1000)).astype("f")
    tolerance = 1e-2 if precision == "half" else 2e-5
    agree(program, [concrete(tf.constant(x)).numpy()], [x], emulated, tolerance)
    fits(emulated.kernel)


def test_pieces_and_their_sum_are_two_phases() -> None:
    _, program = product(64, 3072, 768)
    assert list(pieces(program).values()) == [32]
    phases = [n for n in walk(schedule_program(program, MACHINE).nest) if isinstance(n, Phase)]
    assert len(phases) == 2
    whole = schedule_program(program, MACHINE, passes=PIPELINE.without(["split_k"])).nest
    assert sum(isinstance(n, Phase) for n in walk(whole)) == 1


def test_kernels_of_the_model_agree_with_tensorflow() -> None:
    concrete, program = product(1, 1 << 17, 4)
    assert pieces(program)
    x = RNG.standard_normal((1, 1 << 17)).astype("f")
    agree(program, [concrete(tf.constant(x)).numpy()], [x], tolerance=2e-5)


def test_no_races_and_the_barrier_is_needed() -> None:
    _, program = product(None, 100, 9)
    program = in_two(program, 3)
    x = RNG.standard_normal((5, 100)).astype("f")
    Emulated(program, "thread", launch="persistent")([x], 3, 64)

    def without(source):
        kernel = source.index("__global__")
        assert source.count("sirius_grid_barrier(sync);", kernel) == 1
        return source[:kernel] + source[kernel:].replace("sirius_grid_barrier(sync);", "")

    with pytest.raises(EmulationError, match="data race"):
        Emulated(program, "thread", without, launch="persistent")([x], 3, 64)


@pytest.mark.parametrize("sizes", [(1, 768, 768), (4096, 768, 768), (64, 7, 768), (1, 499, 64)])
def test_what_has_tiles_or_few_terms_stays_whole(sizes) -> None:
    assert not pieces(product(*sizes)[1])


def test_parts_of_rows_that_nobody_knows_are_no_more_than_is_read() -> None:
    assert not pieces(product(None, 768, 3072)[1])
    found = pieces(product(None, 1 << 17, 2)[1])
    assert 0 < 2 * next(iter(found.values())) <= 4 << 17


def test_steps_of_a_recurrence_stay_whole(tmp_path) -> None:
    export_lstm(tmp_path, 128)
    program = lower(savedmodel.read(tmp_path).signatures[DEFAULT].graph)
    scheduled = schedule_program(program, MACHINE)
    assert not [t.name for t in scheduled.program.tensors if t.name.endswith("_parts")]
