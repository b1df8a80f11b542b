# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sirius_tf.bundle import cc
from sirius_tf.errors import InvalidArgument, SiriusError
from sirius_tf.runtime import native
from tests.support.example import build_example, renamed


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return build_example(tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="module")
def bundle(example):
    return native.Bundle(example)


def inputs(n):
    x = np.arange(n, dtype=np.float32)
    return [x, np.float32(3), x[::-1]]


def expect(arrays):
    x, a, b = arrays
    return a * x + b


@pytest.mark.parametrize("threads", [0, 1, 2, 3, 300])
@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_call(bundle, n, threads):
    arrays = inputs(n)
    for _ in range(20):
        (y,) = bundle.call("axpb", arrays, threads=threads)
        np.testing.assert_array_equal(y, expect(arrays))


def test_interface(bundle):
    region = bundle.regions["axpb"]
    assert list(bundle.regions) == ["axpb"]
    assert region.input_ranks == (1, 0, 1)
    assert region.output_dtypes == (np.float32,)
    assert bundle.manifest == {"name": "example"}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([np.ones(3, "f"), np.float32(1)], "takes 3 inputs, got 2"),
        (
            [np.ones((3, 1), "f"), np.float32(1), np.ones(3, "f")],
            "input 0 .* rank 1, got float32 of rank 2",
        ),
        (
            [np.ones(3, "d"), np.float32(1), np.ones(3, "f")],
            "input 0 .* float32 of rank 1, got float64",
        ),
        ([np.ones(3, "f"), np.float32(1), np.ones(4, "f")], "x has 3 elements, b has 4"),
        ([np.ones(3, "U"), np.float32(1), np.ones(4, "f")], "input 0 .* got <U1"),
        (inputs(13), "n = 13 brings bad luck"),
    ],
)
def test_bad_inputs(bundle, arrays, message):
    with pytest.raises(InvalidArgument, match=message) as raised:
        bundle.call("axpb", arrays)
    assert isinstance(raised.value, ValueError)
    np.testing.assert_array_equal(bundle.call("axpb", inputs(5))[0], expect(inputs(5)))


@pytest.mark.parametrize(
    ("detected", "wanted", "used"),
    [(1, None, 1), (1, b"v3", 0), (1, b"v4", 1), (0, b"v3", 0), (0, b"v4", 0), (-1, b"v3", -1)],
)
def test_the_instruction_set_may_be_lowered(detected, wanted, used):
    assert native.library().sirius_isa_of(detected, wanted) == used


def test_concurrent_calls(bundle):
    def many(seed):
        for i in range(100):
            arrays = inputs(seed * 37 + i % 10 + 100)
            np.testing.assert_array_equal(bundle.call("axpb", arrays, 2)[0], expect(arrays))
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(many, range(6)))


def test_fork(bundle):
    bundle.call("axpb", inputs(1000), 2)
    child = os.fork()
    if child == 0:
        try:
            right = all(bundle.call("axpb", inputs(1000), 2)[0] == expect(inputs(1000)))
            os._exit(0 if right else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_replaced_file(tmp_path):
    path = build_example(tmp_path)
    assert native.Bundle(path).manifest == {"name": "example"}
    renamed(path, b"renewed", path)
    assert native.Bundle(path).manifest == {"name": "renewed"}


def test_not_a_bundle(tmp_path):
    with pytest.raises(SiriusError, match="No such file"):
        native.Bundle(tmp_path / "missing.so")
    (tmp_path / "text").write_text("text")
    with pytest.raises(SiriusError, match=r"text: "):
        native.Bundle(tmp_path / "text")
    with pytest.raises(SiriusError, match="ABI version 99"):
        native.Bundle(build_example(tmp_path, "old.so", ["-DABI=99"]))


def test_compiler_error(tmp_path):
    (tmp_path / "bad.c").write_text("int f( {")
    with pytest.raises(cc.CompilerError, match="error:"):
        cc.compile_shared([tmp_path / "bad.c"], tmp_path / "bad.so")
    assert not list(tmp_path.glob("*.so*"))
    with pytest.raises(cc.CompilerError, match="cannot run"):
        cc.run_compiler([], "/nonexistent/cc")


IN_TENSORFLOW = """
import sys
first = sys.argv[2]
from sirius_tf.runtime import native
from tests.support.example import build_example, renamed
if first == "native": native.library()
import numpy as np, tensorflow as tf
if first == "tensorflow": tf.load_op_library(str(native.library_path()))
from sirius_tf.runtime.op import sirius_region
call = lambda x, a, b: sirius_region([x, a, b], sys.argv[1], "axpb", [tf.float32])[0]
x = np.arange(1000, dtype="f")
for f in (call, tf.function(call)):
    np.testing.assert_array_equal(f(x, np.float32(3), x).numpy(), 4 * x)
    assert f(x[:0], np.float32(3), x[:0]).shape == (0,)
    try:
        f(x[:3], np.float32(3), x[:4])
        raise SystemExit("no error")
    except tf.errors.InvalidArgumentError as e:
        assert "SiriusRegion" in str(e) and "x has 3 elements, b has 4" in str(e), e
try:
    sirius_region([x], sys.argv[1], "axpb", [tf.float32])
    raise SystemExit("no error")
except tf.errors.FailedPreconditionError as e:
    assert "3 inputs" in str(e), e
try:
    sirius_region([x], sys.argv[1] + "x", "axpb", [tf.float32])
    raise SystemExit("no error")
except tf.errors.NotFoundError as e:
    assert "No such file" in str(e), e
"""


@pytest.mark.parametrize("first", ["native", "tensorflow", "preload"])
def test_in_tensorflow(example, first):
    environment = dict(os.environ)
    if first == "preload":
        environment["LD_PRELOAD"] = str(native.library_path())
    done = subprocess.run(
        [sys.executable, "-c", IN_TENSORFLOW, str(example), first],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_importing_the_package_after_tensorflow_makes_the_op_known() -> None:
    code = (
        "import tensorflow as tf; import sirius_tf; "
        "from tensorflow.python.framework import op_def_registry as r; "
        "assert r.get('SiriusRegion') is not None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
