# SPDX-License-Identifier: Apache-2.0
"""Conversions, and what new weights keep of them: code, and the options it was compiled with."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.bundle import store
from sirius_tf.config import Options
from sirius_tf.driver import bundles, conversion, new_weights
from sirius_tf.errors import DifferenceError
from sirius_tf.rewrite import measure

X = np.linspace(0.1, 2.0, 12, dtype=np.float32).reshape(3, 4)
STAGES = ["read", "regions", "compile", "link", "time", "rewrite", "check", "write"]


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "_SECONDS", 0.01)
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(store, "directory", lambda: tmp_path / "cache")


def saved(folder, weight):
    """A model whose weight is a constant that is packed, and no part of the code."""
    module = tf.Module()
    module.weight = tf.Variable(np.full((4, 5), weight, np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def fn(x):
        return {"y": tf.nn.relu(x @ module.weight + 1.0)}

    module.fn = fn
    tf.saved_model.save(module, str(folder), signatures={"serving_default": fn})
    return folder


@pytest.fixture
def model(tmp_path):
    return saved(tmp_path / "old", 2)


def test_new_weights_are_compiled_as_the_old_ones(model, monkeypatch, tmp_path) -> None:
    """With other options than those of the call; the C compiler has nothing to do."""
    told, compiled = [], []
    without = ("winograd", "layout")
    options = Options(2, keep_slow=True, strict_math=True, without=without, progress=told.append)
    first = conversion.optimize(model, samples={"x": X}, options=options)
    assert told == STAGES
    assert (first.strict_because, first.strict_blame) == ("", "")
    real = new_weights.compile_region

    def compile_region(name, hints, threads, options, tilings):
        compiled.append((threads, options.strict_math, set(options.without)))
        return real(name, hints, threads, options, tilings)

    monkeypatch.setattr(new_weights, "compile_region", compile_region)
    monkeypatch.setattr(bundles.linker, "link", None)  # code is taken from the old bundle
    new = saved(tmp_path / "new", 3)
    told.clear()
    again = Options(threads=1, progress=told.append)
    result = new_weights.refresh(first.output_dir, new, samples={"x": X}, options=again)
    assert told == STAGES and compiled == [(2, True, set(without))]
    assert result.output_dir == first.output_dir
    signature = tf.saved_model.load(str(result.output_dir)).signatures["serving_default"]
    want = np.maximum(X @ np.full((4, 5), 3, np.float32) + 1, 0)
    np.testing.assert_allclose(signature(x=tf.constant(X))["y"], want, rtol=1e-5)


def test_a_difference_starts_a_conversion_again_and_is_explained(model, monkeypatch) -> None:
    tried = []

    def published(target, draft, measured, options, start):
        tried.append(options.strict_math)
        if not options.strict_math:
            raise DifferenceError("y is off")
        return real(target, draft, measured, options, start)

    real = conversion.published
    monkeypatch.setattr(conversion, "published", published)
    monkeypatch.setattr(conversion, "blamed", lambda source, *_: f"a pass of {source.name}")
    result = conversion.optimize(model, samples={"x": X}, options=Options(keep_slow=True))
    assert tried == [False, True]
    assert (result.strict_because, result.strict_blame) == ("y is off", "a pass of old")
    assert result.output_dir == model.with_name("old.sirius") and result.output_dir.is_dir()
