# SPDX-License-Identifier: Apache-2.0
"""Stamps of CUDA code, and tools/gpu_check.py on a device that tests/emulator stands in for."""

import numpy as np
import pytest

from sirius_tf import runtime
from sirius_tf.bundle.cuda import compile_kernel
from sirius_tf.bundle.link import link, repack
from sirius_tf.bundle.stamp import Stamp, read_stamps, write_stamps
from sirius_tf.compile import compile_cuda, compile_program
from sirius_tf.errors import SiriusError
from tests import programs, test_load
from tests.fake_cupy import FakeCupy, ndarray
from tests.test_native_cuda import add_kernels, child

pytestmark = pytest.mark.cuda_emu


@pytest.fixture
def scaled(tmp_path):
    """A model with a region for GPUs, and a signature that needs TensorFlow."""
    kernel = compile_kernel(compile_cuda(test_load.scale()), ["sm_80"])
    content = test_load.manifest() | {"cuda": {"plan_reads": {"scale": []}}}
    return test_load.save(tmp_path / "model", content, [kernel])


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
