# SPDX-License-Identifier: Apache-2.0
"""Rewritten models without TensorFlow: what a manifest says is what a call does."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sirius_tf import runtime
from sirius_tf.errors import InvalidArgument, SiriusError
from tests.support.bundles import PREFIX, manifest, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("loaded") / "model", manifest())


@pytest.fixture(scope="module")
def model(folder):
    return runtime.load(folder)


@pytest.mark.parametrize("n", [0, 1, 100])
def test_call(model, n):
    x = np.arange(n, dtype="f")
    out = model.signatures["scale"](x=x, unused=None)
    np.testing.assert_array_equal(out["out"], 3 * x)
    assert out["same"] is x
    assert list(out) == list(model.signatures["scale"].outputs) == ["out", "same"]


def test_arrays_that_are_not_dense_or_may_not_be_written(model):
    x = np.arange(10, dtype="f")
    x.flags.writeable = False
    for given in (x, x[::-2]):
        out = model.signatures["scale"](x=given, unused=None)
        np.testing.assert_array_equal(out["out"], 3 * given)


def test_specifications(model):
    assert str(model.signatures["scale"].inputs["x"]) == "float32 [?]"
    assert str(model.signatures["words"].inputs["w"]) == "string [...]"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones(3, "f")}, "signature scale: missing unused"),
        ({"x": 1, "y": 1, "unused": 1}, "signature scale: unexpected y"),
        ({"z": 1}, "signature scale: missing unused, x; unexpected z"),
        ({"x": np.ones(3), "unused": 1}, "input x must be float32 [?], got float64 [3]"),
        ({"x": np.ones((3, 2), "f"), "unused": 1}, "must be float32 [?], got float32 [3, 2]"),
    ],
)
def test_bad_inputs(model, arrays, message):
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        model.signatures["scale"](**arrays)


def test_a_signature_that_needs_tensorflow(model):
    with pytest.raises(SiriusError, match="signature words needs TensorFlow: w is a string"):
        model.signatures["words"](w=np.array(["a"]))


def test_default_signature(model, tmp_path):
    with pytest.raises(SiriusError, match="no default among the signatures: scale, words"):
        model()
    content = manifest()
    del content["signatures"]["words"]
    path = save(tmp_path / "model", content) / "assets" / "model.sirius.so"
    out = runtime.load(path, threads=1)(x=np.ones(3, "f"), unused=None)
    np.testing.assert_array_equal(out["out"], [3, 3, 3])


def test_calls_at_the_same_time(model):
    def many(seed):
        for n in range(50):
            x = np.full(seed + n, seed, "f")
            np.testing.assert_array_equal(model.signatures["scale"](x=x, unused=0)["out"], 3 * x)
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(many, range(6)))


def test_what_is_not_a_rewritten_model(tmp_path):
    with pytest.raises(SiriusError, match=r"no bundle in assets/; sirius_tf.optimize writes one"):
        runtime.load(tmp_path)
    with pytest.raises(SiriusError, match="No such file"):
        runtime.load(tmp_path / "missing.sirius.so")
    save(tmp_path / "other", {"sirius": 1})
    with pytest.raises(SiriusError, match="not the bundle of a model, or of another version"):
        runtime.load(tmp_path / "other")
    cut = save(tmp_path / "cut", manifest())
    (cut / "variables" / "variables.data-00000-of-00001").write_bytes(PREFIX)
    with pytest.raises(SiriusError, match=r"cannot map the table t from .*variables.data"):
        runtime.load(cut)


def test_a_table_that_is_not_as_it_was_saved(tmp_path):
    folder = save(tmp_path / "model", manifest())
    file = folder / "variables" / "variables.data-00000-of-00001"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(SiriusError, match="the table t has another checksum than when it was"):
        runtime.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("signatures"),
        lambda m: m["signatures"].update(scale=None),
        lambda m: m["signatures"]["scale"].pop("inputs"),
        lambda m: m["signatures"]["scale"].update(region="none such"),
        lambda m: m["signatures"]["scale"]["arguments"].pop(),
        lambda m: m["signatures"]["scale"]["arguments"][0]["table"].pop("crc32c"),
        lambda m: m["signatures"]["scale"]["results"].update(out={"input": "none such"}),
    ],
)
def test_a_manifest_of_another_kind(change, tmp_path):
    content = manifest()
    change(content)
    with pytest.raises(SiriusError, match=r"its manifest is not one of this version .*convert"):
        runtime.load(save(tmp_path / "model", content))


def test_an_input_called_self(tmp_path):
    content = manifest()
    entry = content["signatures"]["scale"]
    entry["inputs"]["self"] = entry["inputs"].pop("x")
    entry["arguments"][1] = {"input": "self"}
    entry["results"]["same"] = {"input": "self"}
    del content["signatures"]["words"]
    model = runtime.load(save(tmp_path / "model", content))
    x = np.ones(3, "f")
    for call in (model, model.signatures["scale"]):
        np.testing.assert_array_equal(call(self=x, unused=None)["out"], [3, 3, 3])


def test_a_graph_that_does_not_use_the_region(tmp_path):
    folder = tmp_path / "model"
    save(folder, manifest(), digests={"scale": "feed" * 16})
    runtime.load(folder)  # there is none: nothing to compare
    for content in (b"", b"feed" * 15):
        (folder / "saved_model.pb").write_bytes(content)
        for path in (folder, folder / "assets" / "model.sirius.so"):
            with pytest.raises(SiriusError, match="region scale was compiled from another graph"):
                runtime.load(path)
    (folder / "saved_model.pb").write_bytes(b"before " + b"feed" * 16 + b" behind")
    runtime.load(folder)


ALONE = """
import sys
for name in ("tensorflow", "islpy", "ziglang"):
    sys.modules[name] = None  # importing it fails
import subprocess
subprocess.Popen = None  # so does starting a compiler
import numpy as np
from sirius_tf import runtime
out = runtime.load(sys.argv[1]).signatures["scale"](x=np.ones(3, "f"), unused=None)
assert out["out"].tolist() == [3, 3, 3]
"""


def test_loading_needs_neither_tensorflow_nor_the_compiler(model, folder):
    done = subprocess.run(
        [sys.executable, "-c", ALONE, folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
