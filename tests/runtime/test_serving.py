# SPDX-License-Identifier: Apache-2.0
"""A rewritten model in a C program that knows nothing of sirius_tf but LD_PRELOAD."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf.bundle import cc, marks, seal
from sirius_tf.frontend import savedmodel
from sirius_tf.runtime import native
from sirius_tf.tools.models import zoo

SOURCE = Path(__file__).with_name("serving_example.c")
SHAPE = (3, 64)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = Path(tf.sysconfig.get_lib())
    libraries = [folder / "libtensorflow_framework.so.2", folder / "libtensorflow_cc.so.2"]
    output = tmp_path_factory.mktemp("program") / "serving_example"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-Wl,-rpath,{folder}"]
    flags += ["-Wl,--allow-shlib-undefined", "-o", str(output)]
    cc.run_compiler([str(SOURCE), *map(str, libraries), *flags])
    return output


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model and the rewritten one, which is moved after it was written."""
    folder = tmp_path_factory.mktemp("served")
    zoo.build("vocabulary", folder / "model")
    options = sirius_tf.Options(keep_slow=True)
    sirius_tf.optimize(folder / "model", folder / "rewritten", options=options)
    shutil.move(folder / "rewritten", folder / "moved")
    return folder / "model", folder / "moved"


def serve(program, model, preload, shape=SHAPE):
    signature = savedmodel.load_meta_graph(model).signature_def["features"]
    names = [t.name.split(":")[0] for t in (signature.inputs["x"], signature.outputs["p"])]
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "PYTHONPATH")}
    if preload:
        environment["LD_PRELOAD"] = str(native.library_path())
    words = [str(program), str(model), *names, *map(str, shape)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_preloaded(program, models):
    x = (np.arange(SHAPE[0] * SHAPE[1]) % 7 * np.float32(0.25)).astype("f").reshape(SHAPE)
    want = tf.saved_model.load(models[0]).signatures["features"](x=tf.constant(x))["p"].numpy()
    done = serve(program, models[1], preload=True)
    assert done.returncode == 0, done.stderr
    got = np.array(done.stdout.split(), "f").reshape(want.shape)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_a_call_that_the_region_refuses(program, tmp_path):
    """One row, or five, is what TensorFlow adds to five rows."""
    module, rows = tf.Module(), np.linspace(0, 1, 320, dtype="f").reshape(5, 64)
    module.w = tf.Variable(np.linspace(-1, 1, 64 * 64, dtype="f").reshape(64, 64))
    spec = tf.TensorSpec([None, 64], name="x")
    fn = tf.function(lambda x: {"p": tf.tanh(tf.matmul(x, module.w)) + rows}, [spec])
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"features": fn})
    options, sample = sirius_tf.Options(keep_slow=True), {"x": rows}
    sirius_tf.optimize(tmp_path / "m", tmp_path / "out", samples=sample, options=options)
    for n in (1, 5):
        x = (np.arange(n * 64) % 7 * np.float32(0.25)).astype("f").reshape(n, 64)
        done = serve(program, tmp_path / "out", preload=True, shape=x.shape)
        assert done.returncode == 0, done.stderr
        got = np.array(done.stdout.split(), "f").reshape(5, 64)
        np.testing.assert_allclose(got, fn(x)["p"], rtol=1e-5, atol=1e-6)
    done = serve(program, tmp_path / "out", preload=True, shape=(2, 64))
    assert done.returncode == 1 and "TensorFlow's code 3:" in done.stderr  # INVALID_ARGUMENT


def test_the_op_comes_from_the_library(program, models):
    assert serve(program, models[0], preload=False).returncode == 0
    done = serve(program, models[1], preload=False)
    assert done.returncode == 1
    assert "SiriusCheck" in done.stderr


def damage(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def rename(file):
    name = b"_user_specified_name"  # means nothing
    assert name in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(name, name.swapcase(), 1))


@pytest.mark.parametrize(
    ("change", "file", "code"),
    [
        (damage, "assets/model.sirius.so", 15),  # DATA_LOSS
        (rename, "saved_model.pb", 15),
        (Path.unlink, "assets/model.sirius.so", 5),  # NOT_FOUND
        (None, "assets/model.sirius.so", 9),  # FAILED_PRECONDITION: another model's
    ],
)
def test_a_model_that_is_not_whole_is_not_loaded(
    change, file, code, program, models, tmp_path
) -> None:
    """What a server meets when it loads a new version; the former one goes on."""
    model = shutil.copytree(models[1], tmp_path / "model")
    if change:
        change(model / file)
    else:
        data = (model / file).read_bytes()
        names = marks.places(data, "digests")
        changed = bytearray(data[: seal.content_size(data, model)])
        changed[next(names).start] ^= 1
        seal.write_sealed(model / file, [changed])
    done = serve(program, model, preload=True)
    assert done.returncode == 1
    assert f"TensorFlow's code {code}:" in done.stderr
    assert "sirius_bundle/check" in done.stderr
