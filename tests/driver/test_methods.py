# SPDX-License-Identifier: Apache-2.0
"""Methods that share the function of a signature run the compiled code, and can be trained."""

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf.rewrite import measure

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


class Model(tf.Module):
    """Two methods and a signature; the one is a wrapper around what the others are."""

    def __init__(self) -> None:
        super().__init__()
        self.w = tf.Variable(np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4), name="w")
        self.calls = tf.Variable(0)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x"), tf.TensorSpec([], name="s")])
    def serve(self, x: tf.Tensor, s: tf.Tensor) -> dict[str, tf.Tensor]:
        y = tf.tanh(tf.matmul(x * s, self.w))
        return {"y": y, "n": tf.shape(y)[0]}

    @tf.function(input_signature=[tf.TensorSpec([]), tf.TensorSpec([None, 4])])
    def __call__(self, s: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        return self.serve(x, s)["y"]

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def other(self, x: tf.Tensor) -> tf.Tensor:
        return self.serve(x, 2.0)["y"] + 1.0

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def counted(self, x: tf.Tensor) -> tf.Tensor:
        self.calls.assign_add(1)
        return tf.exp(x) * tf.cast(self.calls, tf.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model and what became of it, both loaded, and the functions that objects of the latter
    have."""
    path, module = tmp_path_factory.mktemp("methods") / "model", Model()
    signatures = {"serving_default": module.serve, "again": module.serve, "count": module.counted}
    tf.saved_model.save(module, str(path), signatures=signatures)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_SECONDS", 0.0)
        samples = {"serving_default": {"x": X, "s": np.float32(2.0)}, "count": {"x": X}}
        options = sirius_tf.Options(keep_slow=True)
        result = sirius_tf.optimize(path, samples=samples, options=options)
    assert all(signature.regions for signature in result.signatures)
    return tf.saved_model.load(str(path)), tf.saved_model.load(str(result.output_dir))


def ops(restored) -> set[str]:
    """The ops of the only function of a method."""
    (function,) = restored.concrete_functions
    return {op.type for op in function.graph.get_operations()}


def test_methods_run_the_compiled_code(models) -> None:
    theirs, ours = models
    assert "SiriusRegion" in ops(ours.serve) and "MatMul" not in ops(ours.serve)
    assert "SiriusRegion" in ops(ours.__call__)
    x, s = tf.constant(X), tf.constant(3.0)
    want, got = theirs.serve(x, s), ours.serve(x, s)
    assert want.keys() == got.keys() and got["n"].numpy() == 3
    assert got["y"].shape == (3, 4)
    np.testing.assert_allclose(got["y"], want["y"], rtol=1e-5)
    np.testing.assert_allclose(ours(s, x), want["y"], rtol=1e-5)
    np.testing.assert_allclose(ours.other(x), theirs.other(x), rtol=1e-5)
    assert ours.serve.concrete_functions[0].structured_outputs["y"].shape.as_list() == [None, 4]


@pytest.mark.parametrize("nested", [False, True])
def test_they_can_be_trained(models, nested) -> None:
    def step(model):
        x = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model.serve(x, tf.constant(3.0))["y"]
            z = tf.reduce_sum(y * y) + tf.reduce_sum(model(tf.constant(1.0), x))
        return z, *tape.gradient(z, [x, model.w])

    steps = [tf.function(step) if nested else step for _ in models]
    for scale in (1.0, 0.5):
        for model in models:  # as an optimizer would
            model.w.assign(scale * model.w)
        want, got = (each(model) for each, model in zip(steps, models, strict=True))
        for ours, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    for model in models:
        model.w.assign(2.0 * model.w)


def test_one_with_effects_stays_as_it_is(models) -> None:
    _, ours = models
    assert "SiriusRegion" not in ops(ours.counted)
    for expected in (1, 2):
        np.testing.assert_allclose(ours.counted(tf.constant(X)), np.exp(X) * expected, rtol=1e-5)
