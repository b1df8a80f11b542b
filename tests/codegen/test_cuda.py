# SPDX-License-Identifier: Apache-2.0
"""Generated CUDA: its text, its machine code, and what it computes where there is no GPU.

Kernels run in tests/emulator, in several orders of threads and blocks, against TensorFlow or the
interpreter.
"""

import itertools
import re
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf.bundle import nvrtc
from sirius_tf.bundle.cuda import LARGE, compile_kernel, complete_source
from sirius_tf.bundle.link import link, repack, weights
from sirius_tf.codegen.cuda.kernel import print_kernel
from sirius_tf.codegen.cuda.source import Entry, alone
from sirius_tf.codegen.names import renamed
from sirius_tf.compile import compile_cuda, compile_program, schedule_program
from sirius_tf.config import Options
from sirius_tf.errors import InvalidArgument, SiriusError
from sirius_tf.frontend import savedmodel
from sirius_tf.ir import interp
from sirius_tf.lower.graph import lower
from sirius_tf.mapping.launch import kernels
from sirius_tf.mapping.targets import machine_of
from sirius_tf.nest.nodes import Block, Guard, Phase, Run, Tile
from sirius_tf.runtime import native
from sirius_tf.tools.models import dense, recurrent
from tests.emulator.emulator import EmulationError
from tests.support import programs
from tests.support.arrays import assert_close
from tests.support.emulated import ARCHITECTURES, DEFAULT, LAUNCHES, Emulated, agree, fits
from tests.support.functions import chain, newton, pieces
from tests.support.models import export_lstm, export_mmoe
from tests.support.parity import lowered, results_of
from tests.support.programs import (
    random_inputs,
    scaled,
)

pytestmark = pytest.mark.cuda_emu

RNG = np.random.default_rng(0)
W = {n: RNG.standard_normal((n, n)).astype("f") / 4 for n in (12, 24, 40)}


def check(fn, shape, sizes=(0, 1, 7), dtype="float32", tolerance=1e-5):
    """A function of one array with sizes that are unknown, against TensorFlow."""
    concrete, program = lowered(fn, tf.TensorSpec(shape, dtype))
    emulated = Emulated(program)
    for size in sizes:
        full = [size if n is None else n for n in shape]
        x = tf.cast(tf.constant(RNG.standard_normal(full)), dtype)
        expected = concrete(x)
        expected = expected if isinstance(expected, list | tuple) else [expected]
        agree(program, [e.numpy() for e in expected], [x.numpy()], emulated, tolerance)
    fits(emulated.kernel)
    return emulated


def product():
    """A matrix of many rows, times one: operands are staged in shared memory."""
    program = programs.dense(70, 96)
    return replace(program, name="product", params=(replace(program.params[0], hint=2048),))


@pytest.mark.parametrize("make", [programs.dense, programs.softmax, programs.lstm, product])
def test_text(golden, make) -> None:
    kernel = print_kernel(schedule_program(make(), machine_of("sm_90")))
    golden(f"{make.__name__}.cuda", kernel.source)
    golden(f"{make.__name__}.plan", kernel.plan)


def test_text_of_a_graph(golden) -> None:
    kernel = print_kernel(schedule_program(chain(2), machine_of("sm_90")), "graph")
    golden("graph.cuda", kernel.source)
    golden("graph.plan", kernel.plan)


@pytest.mark.parametrize("sizes", [{"B": 1, "T": 1}, {"B": 7, "T": 9}, {"B": 33, "T": 2}])
@pytest.mark.parametrize("make", [programs.dense, programs.softmax, programs.lstm, product])
def test_programs(make, sizes) -> None:
    program = make()
    inputs = random_inputs(program, sizes)
    agree(program, interp.run(program, inputs), list(inputs.values()), tolerance=2e-5)


@pytest.mark.parametrize("launch", ["persistent", "graph"])
def test_phases(launch) -> None:
    program = chain(3)
    emulated = Emulated(program, launch=launch)
    assert len(emulated.kernel.kernels) == {"persistent": 1, "graph": 4}[launch]
    assert ("sirius_grid_barrier(sync)" in emulated.kernel.source) == (launch == "persistent")
    for rows in (1, 7, 33):
        inputs = random_inputs(program, {"x_0": rows})
        expected = interp.run(program, inputs)
        agree(program, expected, list(inputs.values()), emulated, 2e-5)
        Emulated(program, "thread", launch=launch)(list(inputs.values()))  # which finds no race
    fits(emulated.kernel)


@pytest.mark.parametrize(("steps", "launch"), [(6, "persistent"), (7, "graph")])
def test_a_graph_is_for_many_phases(steps, launch) -> None:
    """Of which each costs less there, but there is one more than there are barriers."""
    scheduled = schedule_program(chain(steps), machine_of("sm_90"))
    assert print_kernel(scheduled).launch == launch


@pytest.mark.parametrize("make", [programs.lstm, lambda: lowered(newton, tf.TensorSpec([None]))[1]])
def test_loops_around_phases_are_in_one_kernel(make) -> None:
    assert print_kernel(schedule_program(make(), machine_of("sm_90")), "graph").cooperative


def test_a_guard_around_phases_is_around_each() -> None:
    phases = [Phase(Tile(Run(name, ()))) for name in "abcd"]
    positive = (programs.T - 1,)
    nest = Block((phases[0], Guard(positive, Block(tuple(phases[1:3])), phases[3])))
    assert kernels(nest, "k", persistent=False) == {
        "k_phase1": phases[0],
        "k_phase2": Guard(positive, phases[1]),
        "k_phase3": Guard(positive, phases[2]),
        "k_phase4": Guard(positive, Block(()), phases[3]),
    }
    assert kernels(nest, "k", persistent=True) == {"k": nest}


def test_no_more_blocks_than_tiles() -> None:
    """Phases of a tile, and one with a tile for 8 rows; a barrier has to be for all of them."""
    feeds = [np.zeros((33, 12), "f")]
    for launch, grids in (("graph", (1, 1, 5)), ("persistent", (5,))):
        plan = Emulated(chain(2), launch=launch).plan
        assert plan([(feeds[0].shape, feeds[0])], 100).grids == grids
        assert plan([(feeds[0].shape, feeds[0])], 3).grids == tuple(min(g, 3) for g in grids)
        assert plan([((0, 12), feeds[0])], 100).grids == (1,) * len(grids)


@pytest.mark.parametrize("width", [8, 13, 64])
@pytest.mark.parametrize("depth", [32, 45, 64])
def test_staged_operands(depth, width) -> None:
    program = programs.dense(depth, width)
    many = replace(program, params=(replace(program.params[0], hint=1 << 14),))
    inputs = random_inputs(many, {"B": 75})
    emulated = Emulated(many)
    copies = set(re.findall(r"sirius_cp_async\w*<(\d+)>\(", emulated.kernel.source)) - {"0"}
    assert copies == ({"4"} if width == 13 else {"4", "16"})  # an input's rows need not be aligned
    agree(many, interp.run(many, inputs), list(inputs.values()), emulated, 2e-5)


def gelu(x):
    return tf.nn.gelu(tf.matmul(x, W[40]) + W[40][0])


def layer_norm(x):
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    return centred * tf.math.rsqrt(tf.reduce_mean(centred**2, -1, keepdims=True) + 1e-6)


def attention(x):
    q, k, v = (
        tf.transpose(tf.reshape(tf.matmul(x, W[24] * s), [-1, 9, 2, 12]), [0, 2, 1, 3])
        for s in (1.0, 2.0, 3.0)
    )
    weights = tf.nn.softmax(tf.matmul(q, k, transpose_b=True))
    return tf.reshape(tf.transpose(tf.matmul(weights, v), [0, 2, 1, 3]), [-1, 9, 24])


def convolutions(x):
    filters = tf.constant(W[24][:9].reshape(3, 3, 6, 4))
    y = tf.nn.relu(tf.nn.conv2d(x, filters, 2, "SAME"))
    each = tf.constant(W[12][:3, :12].reshape(3, 3, 4, 1))
    return tf.nn.depthwise_conv2d(y, each, [1] * 4, "SAME")


def gates(x):
    """A GRU over the first axis, whose length is unknown."""

    def step(t, h):
        z, r = (tf.sigmoid(tf.matmul(x[t], W[12] * s) + tf.matmul(h, W[12])) for s in (1.0, 2.0))
        new = tf.tanh(tf.matmul(x[t], W[12]) + tf.matmul(r * h, W[12] * 3.0))
        return t + 1, z * h + (1.0 - z) * new

    return tf.while_loop(lambda t, h: t < tf.shape(x)[0], step, (0, tf.zeros_like(x[0])))[1]


def branch(x):
    big = tf.reduce_sum(x) > 0.0
    return tf.cond(big, lambda: tf.matmul(x, W[12]), lambda: tf.nn.softmax(x))


@pytest.mark.parametrize(
    ("fn", "shape"),
    [
        (gelu, [None, 40]),
        (lambda x: tf.nn.softmax(x), [None, 45]),
        (layer_norm, [None, 5, 24]),
        (attention, [None, 9, 24]),
        (convolutions, [None, 11, 10, 6]),
        (pieces, [None, 6]),
        (lambda x: (tf.reduce_sum(x), tf.reduce_max(x, 0), tf.argmax(x, 1)), [None, 70]),
    ],
    ids=["gelu", "softmax", "layer_norm", "attention", "convolutions", "pieces", "reductions"],
)
def test_ops(fn, shape) -> None:
    sizes = (1, 7) if shape == [None, 70] else (0, 1, 7)  # nothing has no greatest element
    check(fn, shape, sizes, tolerance=2e-5)


def test_loop() -> None:
    check(gates, [None, 5, 12], sizes=(1, 4), tolerance=2e-5)


def test_data_ends_a_loop() -> None:
    concrete, program = lowered(newton, tf.TensorSpec([None], "float32"))
    emulated = Emulated(program)
    for x in ([4.0], [2.0, 9.0, 1e4]):
        x = np.array(x, np.float32)
        agree(program, [e.numpy() for e in concrete(tf.constant(x))], [x], emulated)
    fits(emulated.kernel)


def test_branch() -> None:
    concrete, program = lowered(branch, tf.TensorSpec([None, 12], "float32"))
    emulated = Emulated(program)
    for shift in (-3.0, 3.0):
        x = RNG.standard_normal((5, 12)).astype("f") + np.float32(shift)
        agree(program, [concrete(tf.constant(x)).numpy()], [x], emulated)
    fits(emulated.kernel)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_types(dtype) -> None:
    def fn(x):
        return tf.nn.softmax(tf.matmul(x, tf.cast(W[24], dtype)) + 1.0)

    check(fn, [None, 24], (1, 7), dtype, 1e-2 if dtype == "bfloat16" else 2e-3)


def test_integers() -> None:
    def fn(x):
        n = tf.cast(x * 9.0, tf.int32)
        return n // 4, tf.math.floormod(n, 5), tf.truncatemod(n, 3), tf.abs(n) > 3, tf.sign(n)

    check(fn, [None, 5])


def test_an_index_out_of_range_is_an_error() -> None:
    program = programs.gather()
    emulated = Emulated(program)
    table = RNG.standard_normal((4, 2)).astype("f")
    ids = np.array([3, 0, 3], np.int32)
    agree(program, [table[ids]], [ids, table], emulated)
    for blocks, threads, order in LAUNCHES:
        with pytest.raises(InvalidArgument, match=r"index -7 is not in \[0, 4\)"):
            emulated([np.array([1, -7, 2], np.int32), table], blocks, threads, order)


def test_nothing_is_read_of_a_table_without_rows() -> None:
    specs = tf.TensorSpec([None, 70], "float32"), tf.TensorSpec([None], "int32")
    concrete, program = lowered(lambda x, at: tf.gather(x, at) * 2.0, *specs)
    emulated = Emulated(program, "address")
    x = RNG.standard_normal((3, 70)).astype("f")
    for rows, at in ((x, [2, 0]), (x[:0], [])):
        at = np.array(at, np.int32)
        expected = concrete(tf.constant(rows), tf.constant(at)).numpy()
        agree(program, [expected], [rows, at], emulated)
    with pytest.raises(InvalidArgument, match=r"index 0 is not in \[0, 0\)"):
        emulated([x[:0], np.zeros(1, np.int32)])


@pytest.mark.parametrize("name", ["block", "blocks", "sync", "failure", "weights", "at", "T_x"])
def test_names_of_users_are_no_variables_of_a_kernel(name) -> None:
    """T_x: its size is T_x_0, and T_x_0 was where the array x_0 begins."""

    def fn(x, y):
        return tf.nn.softmax(tf.matmul(x, y) + 1.0)

    specs = tf.TensorSpec([None, None], "float32", name), tf.TensorSpec([None, 5], name="x_0")
    concrete, program = lowered(fn, *specs)
    arrays = [RNG.standard_normal(s).astype("f") for s in ((3, 7), (7, 5))]
    agree(program, [concrete(*map(tf.constant, arrays)).numpy()], arrays)
    inputs = random_inputs(programs.softmax(), {"B": 5})
    expected = interp.run(programs.softmax(), inputs)
    agree(renamed(programs.softmax(), {"B": name}), expected, list(inputs.values()))


def test_a_check_on_entry_is_an_error() -> None:
    _, program = lowered(
        lambda x, y: x + y, tf.TensorSpec([None], "float32"), tf.TensorSpec([None], "float32")
    )
    with pytest.raises(InvalidArgument):
        Emulated(program)([np.zeros(2, "f"), np.zeros(3, "f")])


def lstm(path):
    export_lstm(path, units=20)
    return {"x": RNG.standard_normal((2, 6, 3)).astype("f")}


def mmoe(path):
    export_mmoe(path)
    return {"x": RNG.standard_normal((5, 8)).astype("f")}


def bert(path):
    return dense.bert(str(path), RNG, depth=1, width=24, heads=2, length=10)[DEFAULT]


def translator(path):
    sizes = {"width": 16, "words": 30, "most": 6, "gates": 3}
    return recurrent._translator(str(path), RNG, **sizes)[DEFAULT]


def inverted_residual(path):
    """A block of MobileNetV2 with its batch normalizations, on a small image."""
    x = keras.Input((9, 9, 8), name="x")
    y = keras.layers.Conv2D(24, 1, use_bias=False)(x)
    y = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(y))
    y = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
    y = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(y))
    y = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 1, use_bias=False)(y))
    y = keras.layers.Conv2D(16, 3, padding="same")(keras.layers.Add()([x, y]))  # Winograd's
    keras.Model(x, keras.layers.GlobalAveragePooling2D()(y)).export(path, verbose=False)
    return {"x": RNG.standard_normal((2, 9, 9, 8)).astype("f")}


@pytest.mark.parametrize(
    ("build", "launch"),
    [
        *itertools.product((mmoe, bert, inverted_residual), ("persistent", "graph")),
        (lstm, "persistent"),
        (translator, "persistent"),
    ],
)
def test_models(tmp_path, build, launch) -> None:
    feeds = build(tmp_path / "model")
    signature = savedmodel.read(tmp_path / "model", [DEFAULT]).signatures[DEFAULT]
    if len(signature.inputs) == 1:  # Keras has names of its own
        feeds = dict(zip(signature.inputs, feeds.values(), strict=True))
    names = {signature.inputs[k].name.split(":")[0]: k for k in feeds}
    program = lower(signature.graph, {n: feeds[k].shape for n, k in names.items()})
    model = tf.saved_model.load(str(tmp_path / "model"))
    found = model.signatures[DEFAULT](**{k: tf.constant(v) for k, v in feeds.items()})
    expected = [found[name].numpy() for name, _ in signature.graph.outputs]
    emulated = Emulated(program, launch=launch)
    arrays = [feeds[names[n]] for n in program.inputs]
    agree(program, expected, arrays, emulated, 2e-5)
    Emulated(program, "thread", launch=launch)(arrays)  # which finds no race
    assert emulated.kernel.launch == launch
    fits(emulated.kernel)


@pytest.mark.parametrize("make", [programs.softmax, programs.lstm, product])
def test_no_races(make) -> None:
    program = make()
    inputs = random_inputs(program, {"B": 67, "T": 3})
    emulated = Emulated(program, "thread")
    (result,) = emulated(list(inputs.values()), 2, 64)
    np.testing.assert_allclose(result, *interp.run(program, inputs), rtol=2e-5, atol=2e-5)


def test_no_access_out_of_bounds() -> None:
    concrete, program = lowered(attention, tf.TensorSpec([None, 9, 24], "float32"))
    x = RNG.standard_normal((2, 9, 24)).astype("f")
    got = Emulated(program, "address")([x], 3, 64)
    assert_close(got, results_of(concrete, [x]), 1e-5)


def barriers(make):
    """The source of a program's kernel, cut at its barriers between blocks or threads."""
    kernel = print_kernel(schedule_program(make(), machine_of("sm_90")))
    return re.split(r"(sirius_grid_barrier\(sync\);|__syncthreads\(\); // .*)", kernel.source)


@pytest.mark.parametrize("number", [0, 2, 3])
def test_every_barrier_is_needed(number) -> None:
    """Without one of them there is a race.

    But after u is copied threads wait for z, too; h happens to be made by the threads that made c,
    and rows stay with their block in a loop.
    """
    program = programs.lstm()
    missing = barriers(programs.lstm)
    assert len(missing) == 2 * 6 + 1
    missing[2 * number + 1] = ""

    def without(source):
        header = source[: source.index("static __device__ void lstm")]
        return header + "".join(missing).partition("\n\n")[2]

    inputs = random_inputs(program, {"B": 67, "T": 3})
    with pytest.raises(EmulationError, match="data race"):
        Emulated(program, "thread", without)(list(inputs.values()), 2, 64)


def greedy(name, values=150):
    """A kernel that has some values in registers at once."""
    names = [f"v{k}" for k in range(values)]
    loads = "".join(f"volatile float &{n} = p[{k}]; float s{n} = {n};" for k, n in enumerate(names))
    stores = "".join(f"p[{k}] = s{n} * s{n};" for k, n in enumerate(names))
    return Entry(name, "", f"(float *p) {{{loads} __syncthreads(); {stores}}}\n")


def test_a_kernel_that_spills_has_a_multiprocessor_to_itself() -> None:
    kernel = print_kernel(schedule_program(programs.dense(), machine_of("sm_90")))
    kernel = replace(kernel, functions="", entries=(greedy(kernel.name),))
    compiled = compile_kernel(kernel, ["sm_90"])
    assert compiled.kernel == alone(kernel, kernel.kernels)
    assert "(256, 1)" in complete_source(compiled.kernel)
    assert compiled.kernel.blocks == compiled.blocks("sm_90") == kernel.blocks // 2


def test_of_a_graph_only_a_kernel_that_spills_has_a_multiprocessor_to_itself() -> None:
    kernel = print_kernel(schedule_program(chain(2), machine_of("sm_90")), "graph")
    entries = tuple(map(greedy, kernel.kernels, (10, 150, 10)))
    compiled = compile_kernel(replace(kernel, functions="", entries=entries), ["sm_90"])
    bounds = re.findall(r"__launch_bounds__\(256, (\d)\)", compiled.kernel.source)
    assert bounds == ["2", "1", "2"]
    assert compiled.blocks("sm_90") == kernel.blocks


def test_a_process_for_each_architecture_compiles_a_large_kernel(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel = print_kernel(schedule_program(programs.dense(), machine_of("sm_90")))
    large = replace(kernel, functions=kernel.functions + "\n" * LARGE)
    monkeypatch.setattr(nvrtc, "_compile", None)  # this process does not
    assert set(compile_kernel(large, ARCHITECTURES).cubins) == set(ARCHITECTURES)
    with pytest.raises(TypeError):
        compile_kernel(kernel, ARCHITECTURES)


def test_a_bundle_has_code_for_gpus_beside_that_for_cpus(tmp_path) -> None:
    programs_ = [programs.dense(), programs.softmax()]
    compiled = [compile_kernel(compile_cuda(p), ARCHITECTURES) for p in programs_]
    names = [c.kernel.program.name for c in compiled]
    kernels = [compile_program(p) for p in (*programs_, programs.lstm())]
    link(kernels, tmp_path / "bundle.so", {}, cuda=compiled)
    bundle = native.Bundle(tmp_path / "bundle.so")
    assert bundle.regions["lstm"].cuda is None
    for name, program, made in zip(names, programs_, compiled, strict=True):
        inputs = list(random_inputs(program, {"B": 5}).values())
        wanted = interp.run(program, dict(zip(program.inputs, inputs, strict=True)))
        for result, want in zip(bundle.call(name, inputs), wanted, strict=True):
            np.testing.assert_allclose(result, want, rtol=2e-5, atol=2e-5)
        code = bundle.regions[name].cuda
        assert (code.name, code.kernels) == (f"{name}_cuda", (f"{name}_cuda",))
        assert code.cooperative
        assert code.source == complete_source(made.kernel)
        assert code.weights == b"".join(weights(made.kernel.program))
        assert (code.threads_per_block, code.shared_bytes) == (256, made.kernel.shared_bytes)
        for arch in ARCHITECTURES:
            assert code.cubins[arch] == (made.cubins[arch].data, made.blocks(arch))


def test_new_weights_for_gpus(tmp_path) -> None:
    old, new = programs.dense(), scaled(programs.dense(), 2.0)
    kernels = [(compile_program(p), compile_kernel(compile_cuda(p), ["sm_90"])) for p in (old, new)]
    link([kernels[0][0]], tmp_path / "old.so", {}, cuda=[kernels[0][1]])
    repack(tmp_path / "old.so", tmp_path / "new.so", [kernels[1][0]], {}, "", [kernels[1][1]])
    code = native.Bundle(tmp_path / "new.so").regions["dense"].cuda
    assert code.weights == b"".join(weights(kernels[1][1].kernel.program))
    assert code.weights != b"".join(weights(old))


def test_a_model_is_converted_for_gpus(tmp_path) -> None:
    export_mmoe(tmp_path / "model")
    kind = {"target": "cuda", "arch": ("sm_90",), "cuda_launch": "graph", "precision": "tf32"}
    options = Options(**kind, keep_slow=True, dump=tmp_path / "dump")
    result = sirius_tf.optimize(tmp_path / "model", tmp_path / "out", options=options)
    bundle = native.Bundle(result.bundle)
    (region,) = bundle.regions.values()
    assert result.cuda_state == "emulated, untimed"
    reads = {region.name: []}
    notes = {"state": "emulated, untimed", "arch": ["sm_90"], "precision": "tf32"}
    notes |= {"plan_reads": reads, "launch": {region.name: "graph"}}
    assert bundle.manifest["cuda"] == notes
    assert region.cuda.kernels == tuple(f"{region.name}_cuda_phase{k}" for k in (1, 2))
    (dumped,) = (tmp_path / "dump").glob("*.cuda.txt")
    assert dumped.read_text().partition("\n\n")[2].strip() in region.cuda.source
    assert len(list((tmp_path / "dump").glob("*.cuda_schedule.txt"))) == 1
    refreshed = sirius_tf.refresh(tmp_path / "out", tmp_path / "model")
    assert native.Bundle(refreshed.bundle).manifest["cuda"] == bundle.manifest["cuda"]


def test_a_region_without_code_for_gpus_keeps_that_for_cpus(tmp_path, monkeypatch) -> None:
    def compile_nothing(*_):
        raise SiriusError("too much shared memory")

    export_mmoe(tmp_path / "model")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sirius_tf.driver.kernels.compile_cuda", compile_nothing)
    options = Options(target="cuda", arch=("sm_90",), keep_slow=True)
    result = sirius_tf.optimize(tmp_path / "model", tmp_path / "out", options=options)
    (region,) = result.signatures[0].regions
    assert region.kept and region.cuda_launch == "none: too much shared memory"
    assert "cuda" not in native.Bundle(result.bundle).manifest


@pytest.mark.parametrize(
    ("arch", "why"),
    [
        (("sm_90", "sm_1"), "architecture sm_1 is none of sm_80, sm_86, sm_89, sm_90, sm_90a"),
        ((), "name an architecture of GPUs: sm_80, sm_86, sm_89, sm_90, sm_90a"),
    ],
)
def test_architectures_that_are_not_known_are_an_error(tmp_path, arch, why) -> None:
    export_mmoe(tmp_path / "model")
    with pytest.raises(SiriusError, match=f"^{why}$"):
        sirius_tf.optimize(tmp_path / "model", options=Options(target="cuda", arch=arch))
    with pytest.raises(SiriusError, match="architecture sm_1 is none of sm_80"):
        compile_cuda(programs.dense(), "sm_1")
