# SPDX-License-Identifier: Apache-2.0
"""Whole signatures that are slower than the original, by code that really is slow."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf.driver import kernels
from sirius_tf.rewrite import check, measure
from sirius_tf.rewrite.session import Session
from sirius_tf.runtime.native import Bundle

X = np.linspace(1, 2, 12, dtype="float32").reshape(3, 4)
BEGIN = "  int32_t turn = 0;\n"
FAST, SLOW = (2.0, 0.1), (2.0, 1.5)  # of TensorFlow and ours, as if measured


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Two regions with an op between them that stays on TensorFlow."""
    folder = tmp_path_factory.mktemp("settle") / "model"
    module = tf.Module()
    spec = tf.TensorSpec([None, 4], tf.float32, name="x")

    @tf.function(input_signature=[spec])
    def serve(x):
        middle = tf.numpy_function(np.copy, [tf.tanh(x) * 2.0], tf.float32)
        return {"out": tf.tanh(tf.ensure_shape(middle, [None, 4])) + 1.0}

    tf.saved_model.save(module, str(folder), signatures=serve)
    return folder


@pytest.fixture
def slow(monkeypatch, tmp_path):
    """A function that makes the code of some regions slow, under a condition in C, though they seem
    fast when each is timed by itself."""
    monkeypatch.setattr(measure, "_SECONDS", 0.0)
    monkeypatch.setattr(check, "_ALIKE_MS", 5.0)  # other load takes less than what is slow here
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(regions, condition="1"):
        def compile_program(program, *args):
            kernel = real(program, *args)
            if program.name not in regions:
                return kernel
            loop = f"  if ({condition}) for (volatile int k = 0; k < 50000000; ++k) {{}}\n"
            assert all(text.count(BEGIN) == 1 for text in kernel.runs.values())
            runs = {isa: text.replace(BEGIN, loop + BEGIN) for isa, text in kernel.runs.items()}
            return replace(kernel, runs=runs)

        def time(self, use, values):
            return SLOW if use.region.name in regions else FAST

        real = kernels.compile_program
        monkeypatch.setattr(kernels, "compile_program", compile_program)
        monkeypatch.setattr(Session, "time", time)

    return make


def convert(model, tmp_path, **options):
    return sirius_tf.optimize(
        model, tmp_path / "out", samples={"x": X}, options=sirius_tf.Options(**options)
    )


def same(model, result):
    want, got = (
        tf.saved_model.load(str(path)).signatures["serving_default"](x=tf.constant(X))["out"]
        for path in (model, result.output_dir)
    )
    np.testing.assert_allclose(got, want, rtol=1e-5)


def names(result, kept):
    return [r.name for r in result.signatures[0].regions if r.kept is kept]


@pytest.mark.parametrize(
    ("condition", "samples"), [("1", "samples"), ("n > 3", "twice the samples")]
)
def test_the_region_that_makes_a_signature_slower_goes_back(
    model, tmp_path, slow, condition, samples
) -> None:
    slow({"serving_default_1"}, condition.replace("n", "call->params[0]"))
    result = convert(model, tmp_path)
    (signature,) = result.signatures
    assert names(result, kept=False) == ["serving_default_1"]
    assert names(result, kept=True) == ["serving_default_0"]
    reasons = {node.reason for node in signature.left if "slower" in node.reason}
    (reason,) = reasons
    assert reason.startswith("its signature is slower with it (")
    assert reason.endswith(f" on {samples})")
    assert set(Bundle(result.bundle).manifest["kernels"]) == {"serving_default_0"}
    assert signature.sirius_ms < 10
    same(model, result)


def test_a_signature_that_stays_slower_is_the_original(model, tmp_path, slow) -> None:
    slow({"serving_default_0", "serving_default_1"})
    result = convert(model, tmp_path)
    assert result.bundle is None and not list(result.output_dir.rglob("*.so"))
    assert len(names(result, kept=False)) == 2 and result.signatures[0].compiled == 0
    same(model, result)


def test_what_is_slower_stays_if_one_wants_that(model, tmp_path, slow) -> None:
    slow({"serving_default_1"})
    result = convert(model, tmp_path, keep_slow=True)
    assert len(names(result, kept=True)) == 2 and result.signatures[0].sirius_ms > 10
