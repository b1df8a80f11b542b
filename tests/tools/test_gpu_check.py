# SPDX-License-Identifier: Apache-2.0
"""Stamps of CUDA code, and tools/gpu_check.py on a device that tests/emulator stands in for."""

import itertools
import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags

from sirius_tf import runtime
from sirius_tf.bundle.cuda import compile_kernel
from sirius_tf.bundle.link import link, repack
from sirius_tf.bundle.nvrtc import compile_cubin
from sirius_tf.bundle.stamp import Stamp, read_stamps, write_stamps
from sirius_tf.compile import compile_cuda, compile_program
from sirius_tf.config import Options
from sirius_tf.errors import SiriusError
from sirius_tf.tools.gpu import check as gpu_check
from sirius_tf.tools.gpu import limits as gpu_limits
from sirius_tf.tools.gpu import peers as gpu_peers
from tests.support import bundles, programs
from tests.support.device import add_kernels, child
from tests.support.fake_cupy import FakeCupy, ndarray
from tests.support.models import export_mmoe

pytestmark = pytest.mark.cuda_emu


@pytest.fixture
def scaled(tmp_path):
    """A model with a region for GPUs, and a signature that needs TensorFlow."""
    kernel = compile_kernel(compile_cuda(bundles.scale()), ["sm_80"])
    content = bundles.manifest() | {"cuda": {"plan_reads": {"scale": []}}}
    return bundles.save(tmp_path / "model", content, [kernel])


def bundle_of(model):
    (bundle,) = model.glob("assets/*.sirius.so")
    return bundle


def sources(bundle):
    """The CUDA of a bundle by the cubins that it has."""
    codes = [region.cuda for region in runtime.load(bundle).bundle.regions.values()]
    return {cubin: code.source for code in codes for cubin, _ in code.cubins.values()}


def test_regions_are_stamped_one_by_one(tmp_path):
    made = [programs.dense(), programs.softmax()]
    kernels = [compile_program(p) for p in made]
    compiled = [compile_kernel(compile_cuda(p), ["sm_80"]) for p in made]
    bundle, notes = tmp_path / "bundle.so", {"cuda": {"arch": ["sm_80"]}}
    link(kernels, bundle, notes, cuda=compiled)
    assert set(read_stamps(bundle).values()) == {Stamp.EMULATED}
    write_stamps(bundle, {"softmax": Stamp.OFF}, "seen")
    write_stamps(bundle, {"dense": Stamp.CONFIRMED}, "seen again")
    stamps = {"dense": Stamp.CONFIRMED, "softmax": Stamp.OFF}
    assert read_stamps(bundle) == stamps
    repack(bundle, tmp_path / "other.so", kernels, notes, "", compiled)  # with other weights
    for path in (bundle, tmp_path / "other.so"):
        loaded = runtime.native.Bundle(path)
        assert {name: region.cuda.stamp for name, region in loaded.regions.items()} == stamps
        noted = loaded.manifest["cuda"]
        assert (noted["state"], noted["arch"]) == ("seen again", ["sm_80"])
        assert noted["stamps"] == {"dense": "confirmed", "softmax": "off"}
    with pytest.raises(SiriusError, match="no CUDA code for lstm: convert with --target=cuda"):
        write_stamps(bundle, {"lstm": Stamp.OFF}, "seen")
    assert read_stamps(bundle) == stamps


def test_a_region_that_is_off_leaves_cupy_for_the_cpu(scaled, monkeypatch):
    bundle, x = bundle_of(scaled), np.arange(5, dtype="f")
    cupy = FakeCupy(monkeypatch, sources(bundle))
    for stamp, launches in ((Stamp.CONFIRMED, 1), (Stamp.EMULATED, 2)):
        write_stamps(bundle, {"scale": stamp}, "seen")
        model = runtime.load(scaled, device="cuda")
        np.testing.assert_array_equal(
            model.signatures["scale"](x=x, unused=None)["out"].get(), 3 * x
        )
        assert len(cupy.grids) == launches
    write_stamps(bundle, {"scale": Stamp.OFF}, "seen")
    with pytest.warns(RuntimeWarning, match="region scale runs on the CPU"):
        model = runtime.load(scaled, device="cuda")
    out = model.signatures["scale"](x=cupy.asarray(x), unused=None)["out"]
    assert isinstance(out, ndarray)
    np.testing.assert_array_equal(out.get(), 3 * x)
    assert len(cupy.grids) == 2


def test_a_region_that_is_off_leaves_the_driver_for_the_cpu(tmp_path):
    bundle, program = tmp_path / "bundle.so", programs.dense()
    compiled = [compile_kernel(compile_cuda(program), ["sm_80"])]
    link([compile_program(program)], bundle, {"cuda": {}}, cuda=compiled)
    add_kernels(bundle, tmp_path)
    call = """
import sys
import numpy as np
from sirius_tf.config import Options
from sirius_tf.errors import SiriusError
from sirius_tf.runtime import native
region = native.Bundle(sys.argv[1] + "/bundle.so").regions["dense"]
inputs = [np.ones((2, 499), "f")]
"""
    used = "region(inputs); assert native.cuda_counters().launches == {}"
    assert not child(tmp_path, used.format(1), call, SIRIUS_DEVICE="")
    write_stamps(bundle, {"dense": Stamp.OFF}, "seen")
    told = child(tmp_path, used.format(0), call, SIRIUS_DEVICE="")
    why = "a check on a GPU found its CUDA code wrong or slower"
    assert told == f"sirius_tf: region dense runs on the CPU: {why}\n"
    insists = """
try: region(inputs)
except SiriusError as error: print(error, file=sys.stderr)
"""
    assert why in child(tmp_path, insists, call)


class Event:
    """A cupy.cuda.Event, on a device that has done everything at once."""

    def __init__(self, clock):
        self.clock = clock

    def record(self):
        self.time = self.clock()

    def synchronize(self):
        assert self.time


def timed(monkeypatch, codes, launch_ms=4):
    """A device with events and a name; its limits are measured with little work. Clocks move by a
    millisecond when they are read, and by some more with each launch."""
    limits = {compile_cubin(gpu_limits.SOURCE, "sm_80").data: gpu_limits.SOURCE}
    cupy, reads = FakeCupy(monkeypatch, codes | limits), itertools.count(1)

    def clock():
        return 1e-3 * (next(reads) + launch_ms * len(cupy.grids))

    monkeypatch.setattr(gpu_check, "time", SimpleNamespace(perf_counter=clock))
    cupy.cuda.Event = partial(Event, clock)
    cupy.cuda.get_elapsed_time = lambda start, end: 1e3 * (end.time - start.time)
    cupy.cuda.runtime.getDeviceProperties = lambda number: {"name": b"Emulator"}
    little = {"copied": 1 << 12, "steps": 2, "barriers": 3, "rounds": 1}
    measure = gpu_limits.measure
    monkeypatch.setattr(gpu_limits, "measure", lambda cupy: measure(cupy, **little))
    return cupy


def command(*arguments):
    """What the command exits with."""
    values = flags.FlagValues()
    gpu_check.define_flags(values)
    return gpu_check.main(values(["gpu_check", *map(str, arguments)]), values)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the archive of a model, and the rewritten model as it is in there."""
    work = tmp_path_factory.mktemp("prepared")
    export_mmoe(work / "mmoe")
    x = np.random.default_rng(0).standard_normal((1, 8)).astype("f")
    np.savez(work / "mmoe.npz", x=x)
    assert command(f"--prepare={work / 'archives'}", work / "mmoe") == 0
    with gpu_check.tarfile.open(work / "archives" / "mmoe.tar.xz") as archive:
        archive.extractall(work / "out", filter="data")
    return work / "archives", work / "out" / "mmoe"


@pytest.mark.parametrize(("launch_ms", "stamp"), [(4, Stamp.OFF), (-0.5, Stamp.CONFIRMED)])
def test_a_model_is_checked_and_stamped(launch_ms, stamp, prepared, tmp_path, monkeypatch):
    """A call takes a millisecond on the CPU, and `launch_ms` more on the GPU."""
    archives, model = prepared
    timed(monkeypatch, sources(bundle_of(model)), launch_ms)
    report, table = tmp_path / "report.json", tmp_path / "table.md"
    monkeypatch.setitem(gpu_check.sys.modules, "torch", None)
    monkeypatch.setitem(gpu_check.sys.modules, "jax", None)
    assert command(archives, "--rounds=1", f"--json={report}", f"--markdown={table}") == 0
    content = json.loads(report.read_text())
    (found,) = content["found"]
    assert content["gpu"] == "Emulator"
    assert min(content["limits"][key] for key in ("bytes_s", "fma_s", "launch_us")) > 0
    assert found["error"] <= gpu_check.TOLERANCE["strict"]
    expected = {gpu_check.CPU: 1, gpu_check.COPIES: 1 + launch_ms, gpu_check.GPU: 1 + launch_ms}
    assert found["ms"] == pytest.approx(expected)
    assert found["event_ms"] == pytest.approx(1 + launch_ms)
    # a launch, as that which measured the memory: it moved 8192 bytes, this one's call 808
    assert found["share"] == pytest.approx(808 / 8192)
    up, down = found["copied"][gpu_check.GPU]  # a call's own buffer
    assert found["copied"] == {gpu_check.GPU: [up, down], gpu_check.COPIES: [up + 32, down]}
    assert found["not_run"].keys() == {
        gpu_check.OP,
        "PyTorch",
        "PyTorch graph",
        "torch.compile",
        "JAX",
    }
    assert found["stamp"] == stamp.name
    header, row = (line for line in table.read_text().splitlines() if line.startswith("| m"))
    assert header.count("|") == row.count("|")
    assert row.count("not run") == 5
    assert command(f"--stamp={report}", model) == 0
    assert list(read_stamps(bundle_of(model)).values()) == [stamp]
    assert runtime.load(model).bundle.manifest["cuda"]["state"] == "checked on Emulator"


def test_a_stamp_is_of_the_same_code(scaled, tmp_path):
    report = tmp_path / "report.json"
    source = gpu_check.hashlib.sha256(b"of another region").hexdigest()
    report.write_text(json.dumps({"gpu": "g", "found": [{"source": source, "stamp": "OFF"}]}))
    with pytest.raises(SiriusError, match="has seen no CUDA code of"):
        command(f"--stamp={report}", scaled)
    assert read_stamps(bundle_of(scaled)) == {"scale": Stamp.EMULATED}


def test_one_signature_may_turn_a_region_off(scaled, tmp_path):
    code = runtime.load(scaled).bundle.regions["scale"].cuda.source
    source = gpu_check.hashlib.sha256(code.encode()).hexdigest()
    found = [{"source": source, "stamp": stamp} for stamp in ("CONFIRMED", "OFF", "CONFIRMED")]
    report = tmp_path / "report.json"
    for some, stamp in ((found, Stamp.OFF), (found[:1], Stamp.CONFIRMED)):
        report.write_text(json.dumps({"gpu": "g", "found": some}))
        assert command(f"--stamp={report}", scaled) == 0
        assert read_stamps(bundle_of(scaled)) == {"scale": stamp}


def test_a_wrong_result_is_found(prepared, tmp_path, monkeypatch):
    archives, model = prepared
    codes = sources(bundle_of(model))
    broken = {cubin: source.replace("fmaf(", "0.999f * fmaf(") for cubin, source in codes.items()}
    assert broken != codes
    timed(monkeypatch, broken)
    report = tmp_path / "report.json"
    assert command(archives, "--rounds=1", "--peers=", f"--json={report}") == 1
    (found,) = json.loads(report.read_text())["found"]
    assert found["stamp"] == "OFF"
    assert found["error"] > gpu_check.TOLERANCE["strict"]


def test_a_model_that_fails_does_not_hide_the_others(prepared, tmp_path, monkeypatch):
    archives, model = prepared
    cupy = timed(monkeypatch, sources(bundle_of(model)))
    cupy.most_blocks, cupy.occupancy = 4, 0
    report = tmp_path / "report.json"
    assert command(archives, "--rounds=1", f"--json={report}") == 1
    content = json.loads(report.read_text())
    assert content["found"] == []
    assert "no room for a block" in content["failed"]["mmoe.tar.xz"]


def test_a_failure_of_any_kind_is_one_of_its_model(prepared, tmp_path, monkeypatch, capsys):
    """What was found before is written: whoever lends a GPU may take it back."""
    _, model = prepared
    timed(monkeypatch, sources(bundle_of(model)))
    folder, report = tmp_path / "archives", tmp_path / "report.json"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.tar.xz").touch()
    found = gpu_check.Found("a", "s", "r", "", 0.0, copied={gpu_check.GPU: (1, 2)})
    answers = iter([[found], RuntimeError("it broke\nhere")])

    def check(*_):
        answer = next(answers)
        if isinstance(answer, Exception):
            assert json.loads(report.read_text())["found"][0]["model"] == "a"
            raise answer
        return answer

    monkeypatch.setattr(gpu_check, "check", check)
    assert command(folder, f"--json={report}") == 1
    content = json.loads(report.read_text())
    assert len(content["found"]) == 1
    assert content["failed"] == {"b.tar.xz": "RuntimeError: it broke"}
    assert "| a | 0.000 | 0.0000 | 0% | 1, 2 | 0.0e+00 | emulated |" in capsys.readouterr().out


def test_a_signature_that_is_not_one_region_fails(tmp_path, monkeypatch):
    signature = SimpleNamespace(reason="TensorFlow computes it")
    model = SimpleNamespace(signatures={"s": signature})
    monkeypatch.setattr(gpu_check.runtime, "load", lambda *_, **__: model)
    for name in ("read_stamps", "write_stamps"):
        monkeypatch.setattr(gpu_check, name, lambda *_: {})
    bundle, samples = tmp_path / "m" / "assets" / "m.sirius.so", tmp_path / "m.npz"
    bundle.parent.mkdir(parents=True)
    bundle.touch()
    np.savez(samples, **{"s/x": np.zeros(1)})
    with gpu_check.tarfile.open(tmp_path / "m.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "m", "m")
        archive.add(samples, "m.npz")
    with pytest.raises(SiriusError, match="s: TensorFlow computes it"):
        gpu_check.check(tmp_path / "m.tar.xz", None, 1, [])


def test_no_device_is_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "m.tar.xz").touch()
    monkeypatch.setitem(gpu_check.sys.modules, "cupy", None)
    assert command(tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith("gpu_check: error: device='cuda' needs CuPy: pip install ")
    assert error.count("\n") == 1
    assert command(tmp_path / "nowhere") == 1
    assert "no archive in" in capsys.readouterr().err


def test_another_precision_is_prepared_and_has_its_tolerance(prepared, tmp_path, monkeypatch):
    converted = []
    monkeypatch.setattr(
        "sirius_tf.optimize",
        lambda model, out, samples, options: (converted.append(options), out.mkdir()),
    )
    model = prepared[0].parent / "mmoe"
    flags_ = ("--precision=half", "--cuda_launch=graph", "--arch=sm_80,sm_90a")
    assert command(f"--prepare={tmp_path}", *flags_, model) == 0
    kind = {"precision": "half", "cuda_launch": "graph", "arch": ("sm_80", "sm_90a")}
    assert converted == [Options(target="cuda", keep_slow=True, **kind)]
    with gpu_check.tarfile.open(tmp_path / "mmoe-half.tar.xz") as archive:
        assert archive.getnames() == ["mmoe-half", "mmoe-half.npz"]
    assert gpu_check.Found("m", "s", "r", "", 1e-3).wrong
    assert not gpu_check.Found("m", "s", "r", "", 1e-3, "half").wrong


@pytest.mark.parametrize(
    ("got", "error"),
    [
        (np.array([3.0, 4.0], "f"), 0.0),
        (np.array([3.0, 4.5], "f"), 0.1),
        (np.array([3.0, np.nan], "f"), np.nan),
        (np.array([[3.0, 4.0]], "f"), np.inf),
    ],
)
def test_errors_are_relative_and_nan_is_one(got, error):
    want = {"a": np.array([1.0], "f"), "b": np.array([3.0, 4.0], "f")}
    found = gpu_check.relative_error(want, {"a": want["a"], "b": got})
    np.testing.assert_allclose(found, error)
    assert gpu_check.Found("m", "s", "r", "", found).wrong == (error != 0)


def test_peers_that_are_not_there_are_not_run(monkeypatch):
    assert gpu_peers.build("none such", {}, ["jax"]) == {"JAX": "gpu_peers.py has no none such"}

    def broken(device, precision):
        raise RuntimeError(f"no {precision} on {device}\nsee there")

    monkeypatch.setattr(gpu_peers, "Torch", broken)
    why = "RuntimeError: no half on cuda"
    assert gpu_peers.build("mmoe", {}, ["torch"], "half") == dict.fromkeys(
        ("PyTorch", "PyTorch graph", "torch.compile"), why
    )
