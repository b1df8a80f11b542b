# SPDX-License-Identifier: Apache-2.0
"""Conversions whose kernels are really wrong: nothing that is wrong is published."""

import re
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf.driver import kernels
from sirius_tf.errors import DifferenceError
from sirius_tf.ir.expr import Call, Const
from sirius_tf.pipeline import PASSES, STRICT, Pipeline
from sirius_tf.rewrite import measure, metagraph
from sirius_tf.runtime.native import Bundle

TOLERANCE = 1e-5
OPTIONS = sirius_tf.Options(keep_slow=True, tolerance=TOLERANCE)
X = np.linspace(1, 2, 12, dtype="float32").reshape(3, 4)


class Layers(tf.Module):
    """Two layers with an op between them that stays on TensorFlow, and whole numbers."""

    def __init__(self):
        super().__init__()
        generator = np.random.default_rng(0)
        self.w = tf.Variable(generator.uniform(1, 2, (4, 5)).astype("float32"))
        self.v = tf.Variable(generator.uniform(1, 2, (5, 3)).astype("float32"))
        self.codes = tf.Variable(np.arange(100, 104, dtype="int32"))

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def serve(self, x):
        middle = tf.ensure_shape(tf.numpy_function(np.copy, [x @ self.w], tf.float32), [None, 5])
        return {
            "out": tf.tanh(middle * 0.01) @ self.v,
            "code": tf.cast(x * 10, tf.int32) * self.codes,
        }


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers") / "model"
    module = Layers()
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def alone(monkeypatch, cache):
    """Kernels that are wrong are not remembered; objects, which have their text, may be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(measure, "_SECONDS", 0.0)
    shutil.rmtree(cache / "sirius_tf" / "kernels", ignore_errors=True)


def spoil(monkeypatch, change, which=lambda region, passes: True):
    """Have `change` of their kernels in place of those of regions."""
    compile_program = kernels.compile_program

    def compiled(program, threads, dump, passes, tilings):
        kernel = compile_program(program, threads, dump, passes, tilings)
        return change(kernel) if which(program.name, passes) else kernel

    monkeypatch.setattr(kernels, "compile_program", compiled)


def with_constants(kernel, change, dtype="float32"):
    """The kernel on other constants."""
    tensors = tuple(
        replace(t, value=change(t.value)) if t.role == "constant" and t.dtype == dtype else t
        for t in kernel.program.tensors
    )
    return replace(kernel, program=replace(kernel.program, tensors=tensors))


def scaled(error):
    return partial(with_constants, change=lambda value: value * np.float32(1 + error))


def nan_at_the_end(value):
    value = value.copy()
    value.flat[-1] = np.nan
    return value


def tanh_in_c(kernel):
    runs = {
        isa: text.replace("sr_tanh(", "1.00002f * sr_tanh(") for isa, text in kernel.runs.items()
    }
    return replace(kernel, runs=runs)


def call(path):
    function = tf.saved_model.load(str(path)).signatures["serving_default"]
    return {key: value.numpy() for key, value in function(x=tf.constant(X)).items()}


def same(model, result):
    """The published model has the original's results."""
    want, got = call(model), call(result.output_dir)
    np.testing.assert_allclose(got["out"], want["out"], rtol=1e-6)
    np.testing.assert_array_equal(got["code"], want["code"])


def reasons(result):
    """Why ops stay on TensorFlow, by region that was given up."""
    (signature,) = result.signatures
    given_up = {r.name for r in signature.regions if not r.kept}
    return given_up, {left.reason for left in signature.left if "error" in left.reason}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (scaled(1.5 * TOLERANCE), "1.5e-05"),
        (tanh_in_c, "2.0e-05"),
        (partial(with_constants, change=nan_at_the_end), "inf"),
        (partial(with_constants, change=lambda v: v + 1, dtype="int32"), "inf"),
    ],
)
def test_a_region_with_wrong_results_goes_back(model, tmp_path, monkeypatch, change, error) -> None:
    spoil(monkeypatch, change)
    result = sirius_tf.optimize(model, tmp_path / "out", samples={"x": X}, options=OPTIONS)
    given_up, why = reasons(result)
    assert given_up and all(f"would have an error of {error}" in reason for reason in why)
    assert f"would have an error of {error}" in result.strict_because
    same(model, result)
    if result.bundle is not None:
        assert given_up.isdisjoint(Bundle(result.bundle).regions)


def test_an_error_below_the_tolerance_is_none(model, tmp_path, monkeypatch) -> None:
    spoil(monkeypatch, scaled(0.4 * TOLERANCE))
    result = sirius_tf.optimize(model, tmp_path / "out", samples={"x": X}, options=OPTIONS)
    assert reasons(result) == (set(), set()) and result.strict_because == ""
    assert 0.4 * TOLERANCE < result.signatures[0].max_error < TOLERANCE


def test_the_tolerance_is_the_users(model, tmp_path, monkeypatch) -> None:
    spoil(monkeypatch, scaled(1e-3))
    loose = replace(OPTIONS, tolerance=1e-2)
    result = sirius_tf.optimize(model, tmp_path / "out", samples={"x": X}, options=loose)
    assert reasons(result) == (set(), set()) and result.signatures[0].max_error > 1e-3


def test_what_is_wrong_without_strict_arithmetic_is_converted_with_it(
    model, tmp_path, monkeypatch
) -> None:
    spoil(monkeypatch, scaled(1e-3), lambda region, passes: passes != STRICT)
    result = sirius_tf.optimize(model, tmp_path / "out", samples={"x": X}, options=OPTIONS)
    assert "would have an error of 1.0e-03" in result.strict_because
    assert result.strict_blame == "no pass by itself, on these samples"  # it was none
    assert reasons(result) == (set(), set())
    notes = Bundle(result.bundle).manifest["kernels"]
    assert notes and all(note["strict_math"] for note in notes.values())
    same(model, result)


def test_the_pass_that_made_results_differ_is_named(model, tmp_path, monkeypatch) -> None:
    def mistaken(program, context):
        more = [
            replace(s, value=Call("mul", (s.value, Const(1.001, "float32")), "float32"))
            if s.reduce
            else s
            for s in program.statements
        ]
        return replace(program, statements=tuple(more))

    passes = tuple(replace(p, apply=mistaken) if p.name == "powers" else p for p in PASSES)
    monkeypatch.setattr(kernels, "PIPELINE", Pipeline(passes))
    result = sirius_tf.optimize(model, tmp_path / "out", samples={"x": X}, options=OPTIONS)
    assert "would have an error of 1.0e-03" in result.strict_because
    assert re.match(
        r"powers \(in region serving\w*, at S\d+\): \w+\[0, 0\] is ", result.strict_blame
    )
    same(model, result)


def test_only_the_region_that_is_wrong_goes_back(model, tmp_path, monkeypatch) -> None:
    wrong = set()

    def which(region, passes):
        wrong.add(region) if not wrong else None
        return region in wrong

    spoil(monkeypatch, scaled(1e-3), which)
    result = sirius_tf.optimize(model, tmp_path / "out", samples={"x": X}, options=OPTIONS)
    given_up, why = reasons(result)
    assert given_up == wrong and len(why) == 1
    regions = {r.name for r in result.signatures[0].regions} - wrong
    assert regions == set(Bundle(result.bundle).regions) != set()
    same(model, result)


class Pair(tf.Module):
    """Two results of one type."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def serve(self, x):
        return {"double": x * 2.0 + 1.0, "half": x * 0.5 + 1.0}


def test_right_regions_in_the_wrong_places_are_not_published(tmp_path, monkeypatch) -> None:
    """What is compared last is the model as it was written."""
    module = Pair()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)
    results = metagraph._results
    monkeypatch.setattr(metagraph, "_results", lambda *given: results(*given)[::-1])
    with pytest.raises(DifferenceError, match="nothing is written"):
        sirius_tf.optimize(tmp_path / "model", tmp_path / "out", samples={"x": X}, options=OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_graph_def_with_wrong_results_keeps_its_ops(tmp_path, monkeypatch) -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        tf.matmul(x, tf.constant(np.ones((4, 3), "f")), name="y")
    spoil(monkeypatch, scaled(1e-3))
    graph_def = graph.as_graph_def()
    options = replace(OPTIONS, bundle=tmp_path / "b.so")
    made = sirius_tf.optimize_graph_def(graph_def, ["x"], ["y"], samples={"x": X}, options=options)
    assert "SiriusRegion" not in {node.op for node in made.node}
    assert not list(tmp_path.iterdir())
