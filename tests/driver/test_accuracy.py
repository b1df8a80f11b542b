# SPDX-License-Identifier: Apache-2.0
"""Errors of regions against float64, in the report and in the bundle."""

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf import runtime
from sirius_tf.driver import accuracy
from sirius_tf.ir.interp import run
from sirius_tf.ir.widen import widened
from sirius_tf.rewrite import measure
from sirius_tf.rewrite.difference import relative_error
from sirius_tf.rewrite.session import Session
from sirius_tf.runtime import native
from sirius_tf.tools.convert import report
from tests.support.parity import lowered

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.01)


def converted(folder, weights, x):
    """A product, whose sums cancel, and a softmax; converted, with the report on its region."""
    module = tf.Module()
    module.w = tf.Variable(weights)
    serve = tf.function(
        lambda x: {"y": tf.matmul(x, module.w), "p": tf.nn.softmax(x), "n": tf.shape(x)[0]},
        input_signature=[tf.TensorSpec([None, len(weights)], tf.float32, name="x")],
    )
    tf.saved_model.save(module, str(folder / "model"), signatures=serve)
    options = sirius_tf.Options(keep_slow=True)
    result = sirius_tf.optimize(folder / "model", samples={"x": x}, options=options)
    ((region,),) = (signature.regions for signature in result.signatures)
    return result, region.accuracy


def test_errors_are_those_against_float64(tmp_path):
    weights = RNG.standard_normal((200, 9)).astype("f")
    x = RNG.standard_normal((4, 200)).astype("f")
    weights[100:], x[:, 100:] = -weights[:100] * np.float32(1.0001), x[:, :100]
    result, found = converted(tmp_path, weights, x)
    exact = np.matmul(x, weights, dtype=np.float64)
    ours = runtime.load(result.output_dir)(x=x)["y"]
    theirs = tf.matmul(x, weights).numpy()
    assert found.sirius == pytest.approx(relative_error(ours.astype("d"), exact), rel=0.01)
    assert found.tensorflow == pytest.approx(relative_error(theirs.astype("d"), exact), rel=0.01)
    assert found.sirius > 1e-5
    (note,) = native.Bundle(result.bundle).manifest["kernels"].values()
    assert note["accuracy"]["sirius"] == found.sirius
    (table,) = (t for t in report(result).renderables if getattr(t, "title", "") == "Regions")
    cells = {c.header: next(iter(c.cells)) for c in table.columns}
    assert (cells["error"], cells["TF's"]) == (f"{found.sirius:.1e}", f"{found.tensorflow:.1e}")


@pytest.mark.parametrize(
    ("limit", "reason"), [("MOST_POINTS", "points, more than 1.0e+01"), ("MOST_BYTES", "bytes")]
)
def test_a_large_region_has_a_reason_instead(tmp_path, monkeypatch, limit, reason):
    monkeypatch.setattr(accuracy, limit, 10)
    weights, x = (RNG.standard_normal(shape).astype("f") for shape in ((7, 3), (2, 7)))
    result, found = converted(tmp_path, weights, x)
    assert found.sirius is None and reason in found.because
    (note,) = native.Bundle(result.bundle).manifest["kernels"].values()
    assert note["accuracy"]["because"] == found.because


def test_a_program_in_float64():
    def half(x):
        return tf.cast(tf.exp(tf.cast(x, tf.float16)) / tf.constant(3, tf.float16), tf.float32)

    x = np.array([0.1, 1.5, -2.0], "f")
    wide = widened(lowered(half, ([None], "float32"))[1])
    (y,) = run(wide, {wide.inputs[0]: x.astype("d")})
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, np.exp(x.astype("d")) / 3, rtol=1e-15)


def spied(name, real, called):
    """A function that notes its calls."""

    def spy(*given):
        called.append(name)
        return real(*given)

    return spy


def test_equal_regions_are_compared_and_computed_in_float64_once(tmp_path, monkeypatch):
    module = tf.Module()
    module.w = tf.Variable(RNG.standard_normal((6, 5)).astype("f"))
    spec = tf.TensorSpec([None, 6], tf.float32, name="x")
    functions = [tf.function(lambda x: {"y": tf.matmul(x, module.w)}, [spec]) for _ in range(2)]
    signatures = dict(zip(("first", "second"), functions, strict=True))
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=signatures)
    called = []
    for owner, name in ((accuracy, "_run"), (Session, "difference"), (Session, "time")):
        monkeypatch.setattr(owner, name, spied(name, getattr(owner, name), called))
    x = RNG.standard_normal((3, 6)).astype("f")
    samples = {name: {"x": x} for name in signatures}
    options = sirius_tf.Options(keep_slow=True)
    result = sirius_tf.optimize(tmp_path / "model", samples=samples, options=options)
    first, second = (signature.regions[0] for signature in result.signatures)
    assert sorted(called) == ["_run", "difference", "time"]
    assert first.kept and second.kept and first.accuracy == second.accuracy
    assert first.accuracy.sirius is not None
