# SPDX-License-Identifier: Apache-2.0
"""Rewritten models on CuPy arrays: tests/support/fake_cupy.py, on devices of tests/emulator."""

import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf import runtime
from sirius_tf.bundle.cuda import compile_kernel
from sirius_tf.bundle.nvrtc import compile_cubin
from sirius_tf.compile import compile_cuda
from sirius_tf.errors import InvalidArgument, SiriusError
from sirius_tf.runtime.cuda import FAILURE, SYNC, _machine_code, counters
from sirius_tf.runtime.native import Bundle
from sirius_tf.runtime.plan import Planner
from tests.support import bundles, models
from tests.support.fake_cupy import CUDADriverError, FakeCupy, ndarray

pytestmark = pytest.mark.cuda_emu

OPTIONS = sirius_tf.Options(target="cuda", arch=("sm_80",), keep_slow=True)
RNG = np.random.default_rng(0)
WRONG = 99


class Several(tf.Module):
    """What is decided where: a row by an index, a size by data, a size by an input."""

    def __init__(self):
        super().__init__()
        self.table = tf.Variable(RNG.standard_normal((6, 2)).astype("f"))

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, name="ids")])
    def look_up(self, ids):
        return {"out": tf.gather(self.table, ids) * 2.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def until(self, x):
        n, total = tf.while_loop(
            lambda i, s: (i < tf.shape(x)[0]) & (s < 10.0),
            lambda i, s: (i + 1, s + x[i]),
            (0, 0.0),
        )
        return {"taken": x[:n] * 3.0, "total": total, "all": x + 1.0}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def few(self, x):
        tf.debugging.assert_less(tf.reduce_sum(x), 10.0, "too much, 100%")
        return {"out": x * 2.0}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32, name="x"),
            tf.TensorSpec([], tf.int32, name="n"),
        ]
    )
    def repeat(self, x, n):
        return {"out": tf.tile(x[None] * 2.0, [n, 1])}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """The original and the rewritten model."""
    folder = tmp_path_factory.mktemp("several")
    module = Several()
    signatures = {name: getattr(module, name) for name in ("look_up", "until", "few", "repeat")}
    tf.saved_model.save(module, str(folder / "model"), signatures=signatures)
    sirius_tf.optimize(folder / "model", folder / "out", options=OPTIONS)
    return folder / "model", folder / "out"


@pytest.fixture(scope="module")
def chained(tmp_path_factory):
    """A model whose phases are kernels of a graph, and the original."""
    folder = tmp_path_factory.mktemp("chained")
    module, steps = tf.Module(), [RNG.standard_normal((12, 12)).astype("f") / 4 for _ in range(2)]

    def fn(x):
        for step in steps:
            x = tf.matmul(x - tf.reduce_max(x, 0), step)
        return {"out": x}

    spec = tf.TensorSpec([None, 12], tf.float32, name="x")
    module.fn = tf.function(fn, input_signature=[spec])
    tf.saved_model.save(module, str(folder / "model"), signatures=module.fn)
    options = replace(OPTIONS, cuda_launch="graph")
    result = sirius_tf.optimize(folder / "model", folder / "out", options=options)
    (region,) = result.signatures[0].regions
    assert region.cuda_launch == "graph"
    return folder / "model", folder / "out"


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    """A model with a table, and a signature that takes a string."""
    kernel = compile_kernel(compile_cuda(bundles.scale()), ["sm_80"])
    content = bundles.manifest() | {"cuda": {"plan_reads": {"scale": []}}}
    return bundles.save(tmp_path_factory.mktemp("scaled") / "model", content, [kernel])


def sources(path):
    """The CUDA of a model by the cubins that it has."""
    (bundle,) = path.glob("assets/*.sirius.so")
    codes = [region.cuda for region in Bundle(bundle).regions.values() if region.cuda]
    return {cubin: code.source for code in codes for cubin, _ in code.cubins.values()}


def loaded(monkeypatch, path, **device):
    """A model on an emulated device, and the device."""
    cupy = FakeCupy(monkeypatch, sources(path), **device)
    return runtime.load(path, device="cuda"), cupy


def agree(paths, got, signature, **arrays):
    """Arrays of the device hold what TensorFlow and the CPU's code compute."""
    original = tf.saved_model.load(str(paths[0])).signatures[signature]
    wanted = original(**{k: tf.constant(v) for k, v in arrays.items()})
    on_cpu = runtime.load(paths[1]).signatures[signature](**arrays)
    assert got.keys() == on_cpu.keys() == wanted.keys()
    for key, result in got.items():
        assert isinstance(result, ndarray)
        for want in (wanted[key].numpy(), on_cpu[key]):
            assert (result.dtype, result.shape) == (want.dtype, want.shape)
            np.testing.assert_allclose(result.get(), want, rtol=1e-5, atol=1e-6)


def test_a_keras_model(monkeypatch, tmp_path):
    models.export_mmoe(tmp_path / "model")
    sirius_tf.optimize(tmp_path / "model", tmp_path / "out", options=OPTIONS)
    model, cupy = loaded(monkeypatch, tmp_path / "out")
    for batch in (1, 5):
        x = RNG.standard_normal((batch, 8)).astype("f")
        for given in (x, cupy.asarray(x)):
            agree((tmp_path / "model", tmp_path / "out"), model(x=given), "serving_default", x=x)


def test_a_graph(chained, monkeypatch):
    """The second launch of a kind is captured, and arrays at other addresses are another kind."""
    model, cupy = loaded(monkeypatch, chained[1])
    given = [cupy.asarray(RNG.standard_normal((20, 12)).astype("f")) for _ in range(2)]
    for x, replays in ((0, 0), (0, 1), (1, 1), (1, 2), (0, 3), (1, 4)):
        agree(chained, model(x=given[x]), "serving_default", x=given[x].get())
        assert cupy.replays == replays
    kept = model(x=given[0])  # so that the next output is elsewhere
    assert cupy.replays == 5
    agree(chained, model(x=given[0]), "serving_default", x=given[0].get())
    assert cupy.replays == 5
    agree(chained, kept, "serving_default", x=given[0].get())
    agree(chained, model(x=given[0].get()[:9]), "serving_default", x=given[0].get()[:9])
    assert cupy.grids[-3:] == [1, 1, 4]  # two phases of one tile, one of more than blocks


def test_bytes_that_are_copied_are_counted(chained, monkeypatch):
    before = counters()
    model, cupy = loaded(monkeypatch, chained[1])
    x = RNG.standard_normal((20, 12)).astype("f")
    weights, own = sum(cupy.uploads), SYNC.itemsize + FAILURE.itemsize + 8  # and one parameter
    assert counters() == replace(before, to_device=before.to_device + weights)
    for given in (x, cupy.asarray(x), cupy.asarray(x)):
        start = counters()
        model(x=given)
        change = [b - a for a, b in zip(astuple(start), astuple(counters()), strict=True)]
        copied = x.nbytes if given is x else 0
        assert change[:3] == [own + copied, own, 1]
    for _ in range(2):
        model(x=given)
    assert counters().replays == before.replays + cupy.replays > before.replays


def test_a_graph_that_is_forgotten(chained, monkeypatch):
    model, cupy = loaded(monkeypatch, chained[1])
    x = cupy.asarray(RNG.standard_normal((20, 12)).astype("f"))
    for rows in (*range(1, 18), 1, 17):  # 17 is the last that has not been forgotten
        agree(chained, model(x=x[:rows]), "serving_default", x=x[:rows].get())
    assert cupy.replays == 1


def test_graphs_of_calls_at_the_same_time(chained, monkeypatch):
    model, _ = loaded(monkeypatch, chained[1])
    x = RNG.standard_normal((20, 12)).astype("f")
    want = runtime.load(chained[1])(x=x)["out"]

    def many(_):
        for _ in range(3):
            np.testing.assert_allclose(model(x=x)["out"].get(), want, rtol=1e-5, atol=1e-6)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(4)))


def test_arrays_that_are_not_dense(several, monkeypatch):
    model, cupy = loaded(monkeypatch, several[1])
    ids = RNG.integers(0, 6, (4, 3)).astype(np.int32)
    for given in (cupy.asarray(ids)[::-1, ::2], ids[::-1, ::2]):
        got = model.signatures["look_up"](ids=given)
        agree(several, got, "look_up", ids=ids[::-1, ::2].copy())


@pytest.mark.parametrize("rows", [0, 3])
def test_no_elements(several, monkeypatch, rows):
    model, _ = loaded(monkeypatch, several[1])
    ids = np.zeros((rows, 0), np.int32)
    agree(several, model.signatures["look_up"](ids=ids), "look_up", ids=ids)


def test_an_index_that_fails(several, monkeypatch):
    model, _ = loaded(monkeypatch, several[1])
    look_up = model.signatures["look_up"]
    wrong, right = np.array([[1, WRONG]], np.int32), np.array([[1, 2]], np.int32)
    with pytest.raises(InvalidArgument) as on_cpu:
        runtime.load(several[1]).signatures["look_up"](ids=wrong)
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=re.escape(str(on_cpu.value))):
            look_up(ids=wrong)
        agree(several, look_up(ids=right), "look_up", ids=right)


def test_what_does_not_hold(several, monkeypatch):
    model, _ = loaded(monkeypatch, several[1])
    few, right = model.signatures["few"], np.array([1.0, 2.0], "f")
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=r"assertion failed: \[too much, 100%"):
            few(x=right * 9.0)
        agree(several, few(x=right), "few", x=right)


@pytest.mark.parametrize("x", [[20.0, 1.0], [1.0, 2.0], [4.0] * 5, []])
def test_shapes_that_data_decides(several, monkeypatch, x):
    model, _ = loaded(monkeypatch, several[1])
    x = np.array(x, "f")
    agree(several, model.signatures["until"](x=x), "until", x=x)


def test_sizes_that_an_input_holds(several, monkeypatch):
    model, cupy = loaded(monkeypatch, several[1])
    x = np.arange(3, dtype="f")
    for n in (2, 5, 2, 0):
        n = np.array(n, np.int32)
        for given in (n, cupy.asarray(n)):
            agree(several, model.signatures["repeat"](x=x, n=given), "repeat", x=x, n=n)
    minus = np.array(-1, np.int32)
    with pytest.raises(InvalidArgument) as on_cpu:
        runtime.load(several[1]).signatures["repeat"](x=x, n=minus)
    with pytest.raises(InvalidArgument, match=re.escape(str(on_cpu.value))):
        model.signatures["repeat"](x=x, n=minus)


def test_a_table_is_uploaded_once_and_a_shape_planned_once(scaled, monkeypatch):
    model, cupy = loaded(monkeypatch, scaled)
    assert sorted(cupy.uploads) == [1, bundles.TABLE.nbytes]  # the constants, of which none are
    scale = model.signatures["scale"]
    planned, call = [], Planner.__call__
    monkeypatch.setattr(Planner, "__call__", lambda *args: planned.append(args) or call(*args))
    for n in (5, 5, 7, 5):
        x = cupy.asarray(np.arange(n, dtype="f"))
        before = len(cupy.uploads)
        out = scale(x=x, unused="a")
        assert out["same"] is x
        np.testing.assert_array_equal(out["out"].get(), 3 * x.get())
        assert len(cupy.uploads) == before
    assert len(planned) == 2
    assert cupy.loads == 1


def test_calls_at_the_same_time(scaled, monkeypatch):
    model, _ = loaded(monkeypatch, scaled)

    def many(seed):
        for n in range(3):
            x = np.full(seed + n, seed, "f")
            out = model.signatures["scale"](x=x, unused=0)["out"]
            np.testing.assert_array_equal(out.get(), 3 * x)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, range(4)))


class OfTensorFlow:
    """A tensor on a GPU as TensorFlow's are: it exports itself without a stream only."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, stream=None):
        assert stream is None
        return self.array.__dlpack__()

    def __array__(self, *_, **__):
        raise AssertionError("it is copied to the CPU")


def test_tensors_of_tensorflow(scaled, monkeypatch):
    scale = loaded(monkeypatch, scaled)[0].signatures["scale"]
    x = np.arange(4, dtype="f")
    for given in (tf.constant(x), OfTensorFlow(x)):
        np.testing.assert_array_equal(scale(x=given, unused=0)["out"].get(), 3 * x)


@pytest.mark.parametrize(
    ("limits", "blocks"),
    [({}, 4), ({"multiprocessors": 1, "occupancy": 3}, 3), ({"capability": "86"}, 4)],
)
def test_no_more_blocks_than_run_at_the_same_time(scaled, monkeypatch, limits, blocks):
    model, cupy = loaded(monkeypatch, scaled, **limits)
    model.signatures["scale"](x=np.ones(2000, "f"), unused=0)
    assert cupy.grids == [blocks]


def test_no_more_blocks_than_the_bundle_says(scaled, monkeypatch):
    model, cupy = loaded(monkeypatch, scaled, multiprocessors=10**6)
    _, blocks = model.bundle.regions["scale"].cuda.cubins["sm_80"]
    model.signatures["scale"](x=np.ones(2000, "f"), unused=0)
    assert cupy.grids == [blocks]


def test_a_smaller_grid_is_an_error(scaled, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, cupy = loaded(monkeypatch, scaled)
        cupy.most_blocks = 1
        with pytest.raises(SiriusError, match="region scale: The grid size will be reduced from 4"):
            model.signatures["scale"](x=np.ones(2000, "f"), unused=0)


def test_another_architecture_is_compiled_for(scaled, monkeypatch):
    (source,) = sources(scaled).values()
    compiled = {compile_cubin(source, "sm_90").data: source}
    FakeCupy(monkeypatch, compiled, capability="90")
    out = runtime.load(scaled, device="cuda").signatures["scale"](x=np.ones(3, "f"), unused=0)[
        "out"
    ]
    np.testing.assert_array_equal(out.get(), [3, 3, 3])


@pytest.mark.parametrize(
    ("archs", "capability", "compiled"),
    [
        (("sm_90a",), "90", False),
        (("sm_80", "sm_90a"), "90", False),
        (("sm_80", "sm_86"), "89", False),
        (("sm_86", "sm_90"), "80", True),
        (("sm_90a",), "100", True),
    ],
)
def test_which_machine_code_a_device_runs(archs, capability, compiled, monkeypatch):
    last = archs[-1].encode()
    code = SimpleNamespace(
        name="k", source="", cubins={arch: (arch.encode(), n) for n, arch in enumerate(archs)}
    )
    made = SimpleNamespace(data=b"made")
    monkeypatch.setattr("sirius_tf.runtime.cuda.compile_cubin", lambda source, arch: made)
    wanted = b"made" if compiled else last
    assert _machine_code(code, capability) == (wanted, len(archs) - 1)


def test_another_device(scaled, monkeypatch):
    model, cupy = loaded(monkeypatch, scaled, devices=2)
    scale, x = model.signatures["scale"], np.ones(3, "f")
    with cupy.cuda.Device(1):
        np.testing.assert_array_equal(scale(x=x, unused=0)["out"].get(), [3, 3, 3])
        there = cupy.asarray(x)
    with pytest.raises(InvalidArgument, match="is on device 1, and the model on 0"):
        scale(x=there, unused=0)


def load_error(monkeypatch, path, **device):
    with pytest.raises(SiriusError) as error:
        loaded(monkeypatch, path, **device)
    return str(error.value)


def test_what_is_missing(scaled, tmp_path, monkeypatch):
    error = load_error(monkeypatch, scaled, devices=None)
    assert error == "device='cuda' needs a GPU and its driver: cudaErrorInsufficientDriver"
    error = load_error(monkeypatch, scaled, devices=0)
    assert error == "device='cuda' needs a GPU, and the driver knows of none"
    error = load_error(monkeypatch, scaled, occupancy=0)
    assert error.startswith("a multiprocessor of the GPU has no room for a block of scale_cuda")
    error = load_error(monkeypatch, scaled, capability="10")
    assert error.startswith("scale_cuda has machine code for sm_80, which sm_10 does not run, and ")
    plain = bundles.save(tmp_path / "model", bundles.manifest())
    error = load_error(monkeypatch, plain)
    assert error == (
        "region scale has no code for GPUs: convert the model with Options(target='cuda')"
    )
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(SiriusError, match=r"needs CuPy: pip install 'sirius_tf\[cuda\]'"):
        runtime.load(scaled, device="cuda")
    with pytest.raises(SiriusError, match="device must be 'cpu' or 'cuda', got 'gpu'"):
        runtime.load(scaled, device="gpu")
    out = runtime.load(scaled).signatures["scale"](x=np.ones(3, "f"), unused=0)
    np.testing.assert_array_equal(out["out"], [3, 3, 3])


def test_errors_of_the_device(scaled, monkeypatch):
    model, cupy = loaded(monkeypatch, scaled)
    scale = model.signatures["scale"]
    x = cupy.asarray(np.ones(1000, "f"))
    cupy.memory = 1000
    with pytest.raises(SiriusError, match=r"region scale: the GPU is out of memory: .* 4000 bytes"):
        scale(x=x, unused=0)
    with pytest.raises(SiriusError, match="upload of 4000 bytes: the GPU is out of memory"):
        scale(x=np.ones(1000, "f"), unused=0)
    cupy.memory = 1 << 40

    def fail(self):
        raise CUDADriverError("CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(ndarray, "get", fail)
    with pytest.raises(SiriusError, match="region scale: CUDA_ERROR_ILLEGAL_ADDRESS"):
        scale(x=x, unused=0)
