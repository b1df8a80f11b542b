# SPDX-License-Identifier: Apache-2.0
"""Contractions by mma.sync: what the emulator computes is TensorFlow's but for what rounding of the
factors explains; it compiles without spills, and there are no races.
"""

import re

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.codegen.cuda.kernel import print_kernel
from sirius_tf.compile import schedule_program
from sirius_tf.frontend import savedmodel
from sirius_tf.lower.graph import lower
from sirius_tf.mapping import choose
from sirius_tf.mapping.operand import pitch_of
from sirius_tf.mapping.targets import machine_of
from sirius_tf.tools.models import dense
from tests.emulator.emulator import EmulationError
from tests.support.emulated import DEFAULT, LAUNCHES, Emulated, agree, fits, many
from tests.support.parity import lowered

pytestmark = pytest.mark.cuda_emu

RNG = np.random.default_rng(0)
ROWS = (0, 1, 7, 33, 65)
#: Relative error of a factor: half a unit of 11 bits; what two of these leave (Ootomo and Yokota).
ERRORS = {"tf32": 2.0**-11, "half": 2.0**-11, "tf32x3": 2.0**-22}
MMA = {"tf32": "tf32", "tf32x3": "tf32", "half": "f16", "float16": "f16", "bfloat16": "bf16"}
#: Of float32 sums, relative to the sum of absolute values: they are added in steps, as trees.
SUMMED = 2.0**-22


def product(depth, width, rows=1 << 14, dtype="float32"):
    """A function x w, its program for some number of rows, and w."""
    w = np.random.default_rng(1).standard_normal((depth, width)).astype("f")

    def fn(x):
        return tf.matmul(x, tf.cast(w, dtype))

    concrete, program = lowered(fn, tf.TensorSpec([None, depth], dtype))
    return concrete, many(program, rows), w


def rounded(x, precision):
    """What mma.sync multiplies."""
    if precision == "half":
        return x.astype(np.float16).astype(np.float64)
    bits = (x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return bits.view(np.float32).astype(np.float64)


@pytest.mark.parametrize("precision", ["tf32", "tf32x3", "half"])
@pytest.mark.parametrize(
    ("depth", "width", "rows"),
    [(100, 64, 1 << 14), (45, 70, 1 << 14), (64, 64, 2048), (16, 9, 1 << 14)],
)
def test_rounded_factors(precision, depth, width, rows) -> None:
    concrete, program, w = product(depth, width, rows)
    emulated = Emulated(program, precision=precision)
    assert f"sirius_mma_{MMA[precision]}(" in emulated.kernel.source
    for size in ROWS:
        x = RNG.standard_normal((size, depth)).astype("f")
        size_of_terms = np.abs(x).astype(np.float64) @ np.abs(w)
        bound = (2 * ERRORS[precision] + ERRORS[precision] ** 2 + SUMMED) * size_of_terms
        for launch in LAUNCHES:
            (y,) = emulated([x], *launch)
            assert (np.abs(y - concrete(tf.constant(x)).numpy()) <= bound).all()
            if precision != "tf32x3":
                exact = rounded(x, precision) @ rounded(w, precision)
                assert (np.abs(y - exact) <= SUMMED * size_of_terms).all()
    fits(emulated.kernel)


@pytest.mark.parametrize(("dtype", "unit"), [("float16", 2.0**-10), ("bfloat16", 2.0**-7)])
@pytest.mark.parametrize(("depth", "width"), [(100, 64), (45, 70), (16, 9)])
def test_half_precision_as_it_is_stored(dtype, unit, depth, width) -> None:
    concrete, program, _ = product(depth, width, dtype=dtype)
    emulated = Emulated(program)
    assert f"sirius_mma_{MMA[dtype]}(" in emulated.kernel.source
    for size in ROWS:
        x = tf.cast(RNG.standard_normal((size, depth)), dtype)
        want = concrete(x).numpy()
        agree(program, [want], [x.numpy()], emulated, unit)
    fits(emulated.kernel)


def test_float32_is_float32_unless_somebody_says_otherwise() -> None:
    _, program, _ = product(100, 64)
    kernel = print_kernel(schedule_program(program, machine_of("sm_90")))
    assert "mma" not in kernel.source


def random(*shape):
    return np.random.default_rng(2).standard_normal(shape).astype("f") / 8


def gelu(x):
    return tf.nn.gelu(tf.matmul(x, random(40, 40)) + random(40))


def mixed(x):
    """A factor is stored in another precision than the other one."""
    return tf.nn.relu(tf.matmul(x, tf.cast(tf.cast(random(40, 32), tf.float16), tf.float32)))


def gathered(x):
    """The rows of a factor depend on data."""
    rows = tf.cast(tf.abs(x[:, 0]), tf.int32)
    return tf.matmul(tf.gather(random(9, 40), rows) * x[:, 2:3], random(40, 24)) + x[:, 1:2]


def attention(x):
    q, k, v = (
        tf.transpose(tf.reshape(tf.matmul(x, random(64, 64) * s), [-1, 33, 2, 32]), [0, 2, 1, 3])
        for s in (1.0, 2.0, 3.0)
    )
    scores = tf.nn.softmax(tf.matmul(q, k, transpose_b=True))
    return tf.reshape(tf.transpose(tf.matmul(scores, v), [0, 2, 1, 3]), [-1, 33, 64])


def sequence(x):
    """Attention in a sequence whose length is unknown."""
    q, k, v = (
        tf.transpose(tf.reshape(tf.matmul(x, random(64, 64) * s), [-1, 2, 32]), [1, 0, 2])
        for s in (1.0, 2.0, 3.0)
    )
    scores = tf.nn.softmax(tf.matmul(q, k, transpose_b=True))
    return tf.transpose(tf.matmul(scores, v), [1, 0, 2])


def convolution(x):
    return tf.nn.relu(tf.nn.conv2d(x, random(5, 5, 32, 24), 1, "SAME") + random(24))


def gram(x):
    """Both factors along columns, in rows that are not aligned."""
    return tf.matmul(x, x, transpose_a=True)


CASES = [
    (gelu, [None, 40], 1 << 14),
    (mixed, [None, 40], 1 << 14),
    (gathered, [None, 40], 1 << 14),
    (attention, [None, 33, 64], 64),
    (sequence, [None, 64], 1024),
    (convolution, [None, 9, 7, 32], 64),
    (gram, [None, 50, 33], 64),
]


@pytest.mark.parametrize(("fn", "shape", "rows"), CASES)
@pytest.mark.parametrize(("precision", "tolerance"), [("tf32x3", 2e-5), ("half", 2e-2)])
def test_ops(fn, shape, rows, precision, tolerance) -> None:
    concrete, program = lowered(fn, tf.TensorSpec(shape, "float32"))
    emulated = Emulated(many(program, rows), precision=precision)
    assert f"sirius_mma_{MMA[precision]}(" in emulated.kernel.source
    for size in (0, 1, 7) if len(shape) > 2 else ROWS:
        x = RNG.standard_normal([size, *shape[1:]]).astype("f")
        agree(program, [concrete(tf.constant(x)).numpy()], [x], emulated, tolerance)
    fits(emulated.kernel)


def test_what_has_no_known_size_is_staged_in_panels() -> None:
    _, program = lowered(sequence, tf.TensorSpec([None, 64], "float32"))
    scheduled = schedule_program(many(program, 1024), machine_of("sm_90", "tf32"))
    source = print_kernel(scheduled).source
    (panel,) = re.findall(r"const int64_t (\w+)_left = sirius_min_i64\(64, ", source)
    assert f"({panel}_left - 1)" in source


def test_a_model(tmp_path) -> None:
    """Products whose operands are other blocks' and the block's own, beside all else of BERT."""
    sizes = {"depth": 1, "width": 64, "heads": 2, "length": 33}
    feeds = dense.bert(str(tmp_path), RNG, **sizes)[DEFAULT]
    signature = savedmodel.read(tmp_path, [DEFAULT]).signatures[DEFAULT]
    names = {signature.inputs[k].name.split(":")[0]: k for k in feeds}
    program = many(lower(signature.graph), 128)
    model = tf.saved_model.load(str(tmp_path))
    found = model.signatures[DEFAULT](**{k: tf.constant(v) for k, v in feeds.items()})
    expected = [found[name].numpy() for name, _ in signature.graph.outputs]
    arrays = [feeds[names[n]] for n in program.inputs]
    for precision, tolerance in (("tf32x3", 2e-5), ("tf32", 5e-3), ("half", 5e-3)):
        emulated = Emulated(program, precision=precision)
        assert "mma" in emulated.kernel.source
        agree(program, expected, arrays, emulated, tolerance)
        fits(emulated.kernel)
    Emulated(program, "thread", precision="half")(arrays)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_no_races(number) -> None:
    fn, shape, rows = CASES[number]
    concrete, program = lowered(fn, tf.TensorSpec(shape, "float32"))
    x = RNG.standard_normal([67 if len(shape) == 2 else 2, *shape[1:]]).astype("f")
    for precision, tolerance in (("tf32x3", 2e-5), ("half", 2e-2)):
        (y,) = Emulated(many(program, rows), "thread", precision=precision)([x], 2, 256)
        np.testing.assert_allclose(y, concrete(tf.constant(x)), rtol=tolerance, atol=tolerance)


def test_no_access_out_of_bounds() -> None:
    for fn, shape, rows in CASES:
        _, program = lowered(fn, tf.TensorSpec(shape, "float32"))
        emulated = Emulated(many(program, rows), "address", precision="tf32")
        emulated([RNG.standard_normal([3, *shape[1:]]).astype("f")], 2, 64)


@pytest.mark.parametrize("number", range(4))
def test_every_barrier_is_needed(number) -> None:
    """Without one of them there is a race, where warps share tiles and a block has several."""
    _, program, _ = product(70, 64, rows=2048)

    def without(source):
        pieces = re.split(r"(__syncthreads\(\); // .*)", source)
        assert len(pieces) == 2 * 4 + 1
        pieces[2 * number + 1] = ""
        return "".join(pieces)

    x = RNG.standard_normal((67, 70)).astype("f")
    with pytest.raises(EmulationError, match="data race"):
        Emulated(program, "thread", without, precision="tf32")([x], 1, 256)


@pytest.mark.parametrize(
    ("depth", "width", "copies"), [(64, 64, {"16", "4"}), (64, 70, {"4"}), (63, 64, {"16", "4"})]
)
def test_what_is_aligned_is_copied_16_bytes_at_a_time(depth, width, copies) -> None:
    """Weights are; the rows of an input need not be."""
    _, program, _ = product(depth, width)
    kernel = print_kernel(schedule_program(program, machine_of("sm_90", "tf32")))
    assert set(re.findall(r"sirius_cp_async\w*<(\d+)>\(", kernel.source)) - {"0"} == copies


@pytest.mark.parametrize("row", [8, 16, 24, 32, 64, 96])
def test_lanes_want_different_banks(row) -> None:
    """Of 32 banks of a word each: where ldmatrix reads 8 rows, and where lanes read floats."""
    for bytes_, by_depth in ((2, True), (2, False), (4, True)):
        pitch = pitch_of(row, bytes_, by_depth) * bytes_ // 4
        assert len({(r * pitch + word) % 32 for r in range(8) for word in range(4)}) == 32
    pitch = pitch_of(row, 4, False)
    assert len({(lane % 4 * pitch + lane // 4) % 32 for lane in range(32)}) == 32


def test_text(golden) -> None:
    _, program, _ = product(100, 64, rows=2048)
    kernel = print_kernel(schedule_program(program, machine_of("sm_90", "tf32")))
    golden("product", kernel.source)


def test_weights_that_are_rounded_are_stored_so(monkeypatch) -> None:
    _, program, w = product(100, 64)
    emulated = Emulated(program, precision="half")
    (kept,) = [t for t in emulated.program.tensors if t.role == "constant"]
    assert kept.dtype == "float16"
    np.testing.assert_array_equal(kept.value, w.astype(np.float16))
    x = RNG.standard_normal((33, 100)).astype("f")
    (result,) = emulated([x], 2, 96)
    monkeypatch.setattr(choose, "rounded", lambda *_: ())
    (wanted,) = Emulated(program, precision="half")([x], 2, 96)
    np.testing.assert_array_equal(result, wanted)
    fits(emulated.kernel)


def test_weights_that_others_read_stay_as_they_are() -> None:
    def fn(x):
        w = tf.constant(random(40, 40))
        return tf.matmul(x, w), tf.reduce_max(x[:, :, None] + w, 1)

    concrete, program = lowered(fn, tf.TensorSpec([None, 40], "float32"))
    emulated = Emulated(many(program), precision="half")
    assert "sirius_mma_f16(" in emulated.kernel.source
    (kept,) = [t for t in emulated.program.tensors if t.role == "constant"]
    assert kept.dtype == "float32"
    x = RNG.standard_normal((7, 40)).astype("f")
    want, result = concrete(tf.constant(x))[1].numpy(), emulated([x], 2, 96)[1]
    np.testing.assert_array_equal(result, want)
