# SPDX-License-Identifier: Apache-2.0
"""Signatures that compute the same are timed once, and compared each."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf.rewrite import check

X = np.linspace(-1, 1, 4 * 64, dtype="float32").reshape(4, 64)


def saved(folder, factors):
    """A model with a signature for each factor, all of one function of the same weights."""
    module = tf.Module()
    module.w = tf.Variable(X.T @ X)

    def serving(factor):
        spec = tf.TensorSpec([None, 64], tf.float32, name="x")
        fn = tf.function(lambda x: {"y": tf.tanh(tf.matmul(x, module.w)) * factor})
        return fn.get_concrete_function(spec)

    signatures = {name: serving(factor) for name, factor in factors.items()}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder


@pytest.fixture
def calls(monkeypatch):
    """How often signatures were timed, and results compared, by the first element of a result."""
    found = Counter()
    fairly, error = check.fairly, check._error

    def timed(first, second):
        found["timed"] += 1
        return fairly(first, second)

    def compared(name, *others):
        found[name] += 1
        return error(name, *others)

    monkeypatch.setattr(check, "fairly", timed)
    monkeypatch.setattr(check, "_error", compared)
    return found


def converted(model, samples):
    return sirius_tf.optimize(
        model,
        f"{model}.out",
        samples=samples,
        options=sirius_tf.Options(keep_slow=True),
    )


def test_one_function_under_two_names_is_timed_once(tmp_path, calls) -> None:
    result = converted(saved(tmp_path / "m", {"a": 2.0, "b": 2.0}), {"x": X})
    a, b = result.signatures
    assert calls == {"timed": 2, "a": 2, "b": 2}  # on the samples, and on twice the samples
    assert (a.tf_ms, a.sirius_ms) == (b.tf_ms, b.sirius_ms)
    assert a.sirius_ms > 0.0


def test_other_constants_are_timed_by_themselves(tmp_path, calls) -> None:
    converted(saved(tmp_path / "m", {"a": 2.0, "b": 3.0}), {"x": X})
    assert calls["timed"] == 4


def test_other_samples_are_timed_by_themselves(tmp_path, calls) -> None:
    model = saved(tmp_path / "m", {"a": 2.0, "b": 2.0})
    converted(model, {"a": {"x": X}, "b": {"x": X[:3]}})
    assert calls["timed"] == 4
