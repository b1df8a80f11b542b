# SPDX-License-Identifier: Apache-2.0
"""Regions on a GPU by the native library, against those on the CPU.

Where there is no GPU: children of the tests find tests/emulator/driver.cpp as libcuda.so.1.
"""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf.bundle.cuda import compile_kernel
from sirius_tf.bundle.link import link
from sirius_tf.codegen.entry import weight_offsets
from sirius_tf.compile import compile_cuda, compile_program
from sirius_tf.config import Options
from sirius_tf.runtime import native
from tests.support import (
    programs,
)
from tests.support.device import add_kernels, child
from tests.support.functions import chain, newton, pieces
from tests.support.models import export_mmoe
from tests.support.parity import lowered
from tests.support.programs import random_inputs

pytestmark = pytest.mark.cuda_emu

RNG = np.random.default_rng(0)


def few(x):
    tf.debugging.assert_less(tf.reduce_sum(x), 10.0, "too much, 100%")
    return x * 2.0


def cases():
    """Inputs of regions, by a name that begins with the region's."""
    for name in ("dense", "softmax"):
        for size in (1, 7):
            yield f"{name}-{size}", random_inputs(getattr(programs, name)(), {"B": size}).values()
    yield "lstm-3", random_inputs(programs.lstm(64), {"B": 3, "T": 4}).values()
    table = RNG.standard_normal((4, 2)).astype("f")
    yield "gather-2", [np.array([3, 0, 3], np.int32), table]
    for size in (0, 5):
        yield f"pieces-{size}", [RNG.standard_normal((size, 6)).astype("f")]
    for size in (1, 7, 33):
        yield f"chain-{size}", [RNG.standard_normal((size, 12)).astype("f")]
    yield "newton-1", [np.array([4.0], "f")]
    yield "newton-3", [np.array([2.0, 9.0, 1e4], "f")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle with code for sm_80, its kernels, and arrays with the CPU's results."""
    path = tmp_path_factory.mktemp("bundle")
    made = [programs.dense(), programs.softmax(), programs.lstm(64), programs.gather()]
    for fn, shape in ((newton, [None]), (pieces, [None, 6]), (few, [None])):
        made.append(replace(lowered(fn, tf.TensorSpec(shape, "float32"))[1], name=fn.__name__))
    compiled = [compile_kernel(compile_cuda(p), ["sm_80"]) for p in made]
    made.append(chain(3))
    compiled.append(compile_kernel(compile_cuda(made[-1], launch="graph"), ["sm_80"]))
    assert compiled[2].kernel.shared_bytes > 48 << 10  # which a launch must be allowed to have
    kernels = [compile_program(p) for p in made]
    link(kernels, path / "bundle.so", {}, cuda=compiled)
    add_kernels(path / "bundle.so", path)
    bundle, arrays = native.Bundle(path / "bundle.so"), {}
    for case, given in cases():
        inputs = list(given)
        outputs = bundle.call(case.partition("-")[0], inputs)
        arrays |= {f"{case}.in.{k}": a for k, a in enumerate(inputs)}
        arrays |= {f"{case}.out.{k}": a for k, a in enumerate(outputs)}
    np.savez(path / "arrays.npz", **arrays)
    return path


def test_results_are_those_of_the_cpu(folder) -> None:
    child(
        folder,
        """
names = sorted({n.partition(".")[0] for n in arrays})
for case in names: check(case)
assert launches() == len(names) > 0
context = ctypes.c_void_p()
ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(context))
assert context.value is None  # the caller's, which had none
""",
    )


def test_kernels_weights_and_memory_are_used_again(folder) -> None:
    packed = weight_offsets(compile_cuda(programs.dense()).program)[""]
    child(
        folder,
        f"""
driver = ctypes.CDLL("libcuda.so.1")
check("dense-7")
live, first = driver.emu_live(), native.cuda_counters()
assert first.to_device > {packed} > 0
for _ in range(3): check("dense-7")
now = native.cuda_counters()
assert driver.emu_live() == live
assert now.launches == 4 * first.launches == 4
assert now.to_device - first.to_device == 3 * (first.to_device - {packed})
assert now.from_device == 4 * first.from_device > 0
check("dense-1")  # has room in what there is
assert driver.emu_live() == live
""",
    )


def test_a_bundle_that_is_closed_leaves_nothing_on_the_device(folder) -> None:
    """Another one may be mapped where it was: that has kernels, weights and graphs of its own."""
    child(
        folder,
        """
import gc, os, shutil
driver = ctypes.CDLL("libcuda.so.1")
path = sys.argv[1] + "/reloaded.so"
uploads, lives = [], []
for turn in range(4):
    del bundle
    gc.collect()
    shutil.copy(sys.argv[1] + "/bundle.so", path + ".new")
    os.replace(path + ".new", path)
    bundle = native.Bundle(path)
    before = native.cuda_counters()
    for _ in range(3): check("dense-7"); check("chain-7")
    after = native.cuda_counters()
    uploads.append(after.to_device - before.to_device)
    lives.append(driver.emu_live() - turn)  # a frame keeps the graphs that it used last
    assert after.replays == before.replays + 2
assert len(set(uploads)) == len(set(lives)) == 1, (uploads, lives)
""",
    )


def test_the_second_call_of_a_kind_is_captured(folder) -> None:
    """And later ones are replayed; there is memory for all sizes from the first call on."""
    child(
        folder,
        """
driver = ctypes.CDLL("libcuda.so.1")
check("dense-7")
check("chain-33")
live = driver.emu_live()
assert native.cuda_counters().replays == 0
for again in range(3):
    for case in ("chain-33", "chain-7", "dense-7"): check(case)
    replays = native.cuda_counters().replays
    assert replays == (1, 3, 5)[again], replays
assert launches() == 11
assert driver.emu_live() == live + 2  # graphs
""",
    )


def test_a_list_of_graphs_does_not_grow_for_ever(folder) -> None:
    child(
        folder,
        """
driver = ctypes.CDLL("libcuda.so.1")
(x,), (y,) = numbered("chain-33.in"), numbered("chain-33.out")
check("chain-33")
live = driver.emu_live()

def call(rows):
    for again in range(2):
        bundle.call("chain", [x[:rows]])

for rows in range(1, 31): call(rows)
assert driver.emu_live() == live + 16
before = native.cuda_counters().replays
call(30)
assert native.cuda_counters().replays == before + 2
call(1)  # is not known any more
assert native.cuda_counters().replays == before + 3
check("chain-33")
""",
    )


def test_graphs_of_memory_that_has_moved_are_gone(folder) -> None:
    child(
        folder,
        """
driver = ctypes.CDLL("libcuda.so.1")
for _ in range(3): check("chain-7")
live = driver.emu_live()
check("chain-33")  # is larger
assert driver.emu_live() == live - 1
for _ in range(3): check("chain-7"); check("chain-33")
assert native.cuda_counters().replays == 2 + 2 + 3
""",
    )


def test_a_device_without_room_for_a_graph(folder) -> None:
    child(
        folder,
        """
for again in range(2):
    for case in ("chain-33", "chain-7"): check(case)
assert native.cuda_counters().replays == 1
for case in ("chain-33", "chain-7"): check(case)
assert native.cuda_counters().replays == 2 and launches() == 6
""",
        EMU_GRAPHS="1",
    )


def test_threads_call_at_once(folder) -> None:
    child(
        folder,
        """
failures = []

def work(cases):
    try:
        for _ in range(5):
            for case in cases: check(case)
    except BaseException as error:
        failures.append(error)

cases = ["dense-7", "chain-33", "gather-2"]
threads = [threading.Thread(target=work, args=(cases[k % 3:] + cases[:k % 3],)) for k in range(6)]
for t in threads: t.start()
for t in threads: t.join()
assert not failures, failures
assert launches() == 90
# 3 modules and their weights; of each frame a stream, two pieces of memory and perhaps a graph
assert ctypes.CDLL("libcuda.so.1").emu_live() <= 3 * 2 + 6 * 4
""",
    )


def test_errors_are_those_of_the_cpu(folder) -> None:
    body = """
message = ""
for _ in range(3):
    try:
        bundle.call("gather", [np.array([1, -7, 2], np.int32), numbered("gather-2.in")[1]])
    except InvalidArgument as error:
        message = str(error)
    assert message == "index -7 is not in [0, 4)", message
try:
    bundle.call("dense", [a[:0] for a in numbered("dense-1.in")])
except InvalidArgument as error:
    assert str(error) == "B is 0, less than 1", error
else:
    assert False
check("gather-2")
"""
    on_device = """
assert launches() == 4
assert ctypes.CDLL("libcuda.so.1").emu_live() == 2 + 3 + 2  # what failed is used again
"""
    child(folder, body + on_device)
    child(folder, body + "assert launches() == 0", SIRIUS_DEVICE="cpu")


def test_what_does_not_hold(folder) -> None:
    body = """
for _ in range(2):
    assert bundle.call("few", [np.float32([1, 2])])[0].tolist() == [2, 4]
    try:
        bundle.call("few", [np.float32([9, 2])])
    except InvalidArgument as error:
        assert "assertion failed: [too much, 100%" in str(error), error
    else:
        assert False
"""
    child(folder, body + "assert launches() == 4")
    child(folder, body + "assert launches() == 0", SIRIUS_DEVICE="cpu")


ERROR = """
try:
    check("dense-7")
except SiriusError as error:
    print(error, file=sys.stderr)
assert launches() == 0
"""
CPU = """
check("dense-7")
check("softmax-7")
assert launches() == 0
"""


@pytest.mark.parametrize(
    ("environment", "why", "told"),
    [
        ({"driver": False}, "there is no CUDA driver (libcuda.so.1)", False),
        ({"EMU_DEVICES": "0"}, "there is no CUDA device", False),
        ({"CUDA_VISIBLE_DEVICES": ""}, "there is no CUDA device", False),
        (
            {"EMU_MEMORY": "1000"},
            "cuMemAlloc_v2 failed: out of memory",
            True,
        ),  # no room for weights
        (
            {"EMU_CAPABILITY": "9.0"},
            "the bundle has no code for compute capability 9.0: convert the model with "
            "--arch=sm_90",
            True,
        ),
    ],
)
def test_a_device_that_cannot_be_used(folder, environment, why, told) -> None:
    """It is an error where the device was asked for; else the CPU takes over, with one sentence."""
    refused = "SIRIUS_DEVICE is cuda, but region dense cannot run there: "
    assert refused + why in child(folder, ERROR, **environment)
    expected = f"sirius_tf: region dense runs on the CPU: {why}\n" if told else ""
    assert child(folder, CPU, SIRIUS_DEVICE="", **environment) == expected


def test_a_device_without_room_for_a_call(folder) -> None:
    """The weights have room, inputs and outputs have not: the CPU takes over, until they have."""
    size = weight_offsets(compile_cuda(programs.dense()).program)[""] + 256
    body = """
check("dense-7")
assert launches() == 0 and ctypes.CDLL("libcuda.so.1").emu_live() == 2  # a module, its weights
"""
    told = child(folder, body, SIRIUS_DEVICE="", EMU_MEMORY=str(size))
    assert "region dense runs on the CPU: cuMemAlloc_v2 failed: out of memory" in told


@pytest.mark.parametrize(
    ("name", "lacking", "later"),
    [("EMU_MEMORY", "1000", 1), ("EMU_KERNELS", "nowhere", 0)],
    ids=["memory", "kernels"],
)
def test_kernels_that_cannot_be_loaded(folder, name, lacking, later) -> None:
    """There may be memory for their weights later; machine code stays what it is."""
    body = f"""
import os
from unittest import mock

with mock.patch.dict(os.environ, {name}="{lacking}"): check("dense-7")
assert launches() == ctypes.CDLL("libcuda.so.1").emu_live() == 0
check("dense-7")
assert launches() == {later}
"""
    child(folder, body, SIRIUS_DEVICE="")


def test_kernels_take_memory_that_is_not_in_use(folder) -> None:
    body = """
import os
check("dense-7")
driver = ctypes.CDLL("libcuda.so.1")
os.environ["EMU_MEMORY"] = str(driver.emu_used())
check("softmax-1")
assert launches() == 2 and driver.emu_live() == 4 + 3
"""
    child(folder, body)


def test_memory_that_is_not_in_use_is_given_back(folder) -> None:
    """A call within a call makes two frames; then the device is full, but for these."""
    body = """
import os

allocate, inner = native._Frame.allocate, [lambda: check("dense-7")]

def allocate_and_call(*arguments):
    if inner: inner.pop()()
    return allocate(*arguments)

native._Frame.allocate = allocate_and_call
check("dense-7")
driver = ctypes.CDLL("libcuda.so.1")
assert driver.emu_live() == 2 + 2 * 3
os.environ["EMU_MEMORY"] = str(driver.emu_used())
(x,), (y,) = numbered("dense-7.in"), numbered("dense-7.out")
(result,) = bundle.call("dense", [np.concatenate([x, x[:5]])])
np.testing.assert_allclose(result, np.concatenate([y, y[:5]]), rtol=2e-5, atol=2e-5)
assert launches() == 3 and driver.emu_live() == 2 + 3
"""
    child(folder, body)


def test_code_of_a_lower_minor_number_fits(folder) -> None:
    assert not child(folder, 'check("dense-7")\nassert launches() == 1', EMU_CAPABILITY="8.9")


def test_the_device_is_taken_if_there_is_one(folder) -> None:
    assert not child(folder, 'check("dense-7")\nassert launches() == 1', SIRIUS_DEVICE="")


def test_calls_held_on_the_cpu(folder) -> None:
    child(
        folder,
        """
with native.on_cpu():
    check("dense-7")
assert launches() == 0
check("dense-7")
assert launches() == 1
""",
    )


def test_another_device_is_an_error(folder) -> None:
    told = child(folder, ERROR, SIRIUS_DEVICE="tpu")
    assert "SIRIUS_DEVICE must be cpu, cuda or nothing, got tpu" in told


def test_a_launch_that_faults(folder) -> None:
    body = """
try:
    check("dense-7")
except SiriusError as error:
    assert not isinstance(error, InvalidArgument)
    print(error, file=sys.stderr)
assert ctypes.CDLL("libcuda.so.1").emu_live() == 2
"""
    told = child(folder, body, EMU_FAULT="1")
    assert "cuStreamSynchronize failed: an illegal memory access was encountered" in told


def test_a_graph_that_faults(folder) -> None:
    body = """
import os
for _ in range(2): check("chain-7")
os.environ["EMU_FAULT"] = "1"
try:
    check("chain-7")
except SiriusError as error:
    print(error, file=sys.stderr)
assert native.cuda_counters().replays == 2
assert ctypes.CDLL("libcuda.so.1").emu_live() == 2
"""
    told = child(folder, body)
    assert "cuStreamSynchronize failed: an illegal memory access was encountered" in told


def test_a_fork_does_not_use_the_context(folder) -> None:
    body = """
import os
check("dense-7")
pid = os.fork()
if not pid:
    check("dense-7")
    os._exit(launches())
assert os.waitpid(pid, 0)[1] == 1 << 8, "the child has launched"
"""
    told = child(folder, body, SIRIUS_DEVICE="")
    assert told.count("forked from one that had used the CUDA device") == 1


def test_a_saved_model(tmp_path) -> None:
    export_mmoe(tmp_path / "model")
    options = Options(target="cuda", arch=("sm_80",), keep_slow=True)
    result = sirius_tf.optimize(tmp_path / "model", tmp_path / "out", options=options)
    add_kernels(result.bundle, tmp_path)
    prelude = """
import sys
import numpy as np, tensorflow as tf
import sirius_tf
from sirius_tf.runtime import native

x = tf.constant(np.random.default_rng(0).standard_normal((5, 8)).astype("f"))
results = []
for name in ("model", "out"):
    signature = tf.saved_model.load(f"{sys.argv[1]}/{name}").signatures["serving_default"]
    (key,) = signature.structured_input_signature[1]
    results.append(signature(**{key: x}))
for key, want in results[0].items():
    np.testing.assert_allclose(results[1][key], want, rtol=2e-5, atol=2e-5)
"""
    child(tmp_path, "assert native.cuda_counters().launches == 1", prelude)
    child(tmp_path, "assert native.cuda_counters().launches == 0", prelude, SIRIUS_DEVICE="cpu")
