# SPDX-License-Identifier: Apache-2.0
"""Failures behind the rules cost a region, and no conversion."""

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf import compile as compiling
from sirius_tf.bundle import cc, store
from sirius_tf.driver import accuracy
from sirius_tf.errors import VerifyError
from sirius_tf.rewrite import measure

X = np.linspace(0.1, 2.0, 12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "_SECONDS", 0.01)
    monkeypatch.setattr(store, "directory", lambda: tmp_path)  # nothing is remembered


@pytest.fixture
def model(tmp_path):
    """Two regions, between them an op without a rule."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def fn(x):
        return {"y": tf.tanh(tf.math.igamma(1.5, tf.exp(x) * 2.0 + x) * 3.0) + 1.0}

    module.fn = fn
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": fn})
    return tmp_path / "model"


def converted(model):
    """The result of a conversion that succeeds, whatever fails, and is right."""
    options = sirius_tf.Options(keep_slow=True)
    result = sirius_tf.optimize(model, samples={"x": X}, options=options)
    signature = tf.saved_model.load(str(result.output_dir)).signatures["serving_default"]
    expected = tf.saved_model.load(str(model)).signatures["serving_default"](x=tf.constant(X))
    np.testing.assert_allclose(signature(x=tf.constant(X))["y"], expected["y"], rtol=1e-5)
    return result.signatures[0]


def test_without_failures_there_are_two_regions(model):
    report = converted(model)
    assert [r.kept for r in report.regions] == [True, True]
    assert [left.op for left in report.left] == ["Igamma"]


@pytest.mark.parametrize("stage", ["fuse", "build_loops", "print_kernel", "windows"])
def test_a_defect_behind_the_rules(model, monkeypatch, tmp_path, stage):
    real, calls = getattr(compiling, stage), []

    def fails_once(*args, **kwargs):
        calls.append(stage)
        if len(calls) == 1:
            raise IndexError("list index out of range")
        return real(*args, **kwargs)

    monkeypatch.setattr(compiling, stage, fails_once)
    report = converted(model)
    assert len(report.regions) == 1
    reasons = {left.reason for left in report.left if left.op != "Igamma"}
    (reason,) = reasons
    assert reason.startswith("the compiler failed: IndexError: list index out of range (see ")
    noted = (tmp_path / "failures").glob("*.txt")
    (text,) = (path.read_text() for path in noted)
    assert "fails_once" in text and "Exp" in text


def test_an_invariant_that_is_broken_is_a_defect(model, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise VerifyError("S reads what nothing defines")

    monkeypatch.setattr(compiling, "check_order", broken)
    report = converted(model)
    reasons = {left.reason for left in report.left if left.op != "Igamma"}
    assert reasons and all(
        r.startswith("the compiler failed: VerifyError: S reads what nothing defines (see ")
        for r in reasons
    )
    text = next((tmp_path / "failures").glob("*.txt")).read_text()
    assert text.startswith("sirius-inspect MODEL --region=")


def test_code_that_the_c_compiler_does_not_accept(model, monkeypatch, tmp_path):
    real = cc.compile_object

    def fails(source, output, flags=(), command=None):
        if "sr_tanh" in source.read_text():
            source.write_text("#error no tanh here\n")
        real(source, output, flags, command)

    monkeypatch.setattr(cc, "compile_object", fails)
    report = converted(model)
    assert len(report.regions) == 1
    assert any("no tanh here" in left.reason for left in report.left)


def test_code_that_the_linker_does_not_accept(model, monkeypatch, tmp_path):
    real = cc.compile_object

    def needs_more(source, output, flags=(), command=None):
        text = source.read_text()
        if "sr_tanh" in text:
            text += "\nint sr_nowhere(void);\n"
            text += "__attribute__((weak)) int f(void) { return sr_nowhere(); }\n"
            source.write_text(text)
        real(source, output, flags, command)

    monkeypatch.setattr(cc, "compile_object", needs_more)
    report = converted(model)
    assert len(report.regions) == 1
    assert any("sr_nowhere" in left.reason for left in report.left)


def test_a_linker_that_never_works_is_an_error(model, monkeypatch):
    def fails(*arguments):
        raise cc.CompilerError("the disk is full")

    monkeypatch.setattr(cc, "compile_shared", fails)
    with pytest.raises(sirius_tf.SiriusError, match=r"nothing is written.* the disk is full$"):
        converted(model)
    assert not model.with_name("model.sirius").exists()


def test_an_error_against_float64_that_cannot_be_found_costs_no_more(model, monkeypatch):
    def fails(*arguments):
        raise KeyError("k")

    monkeypatch.setattr(accuracy, "lower", fails)
    report = converted(model)
    assert {r.accuracy.because for r in report.regions} == {"float64 fails: KeyError: 'k'"}
    assert all(r.kept for r in report.regions)


def test_whatever_fails_elsewhere_is_told_in_a_sentence(model, monkeypatch, tmp_path):
    def fails(*arguments, **named):
        raise TypeError("bad operand\nand more")

    monkeypatch.setattr(tf.compat.v1.Session, "make_callable", fails)
    reason = r"^nothing is written, since .* failed: TypeError: bad operand \(see [^\n]*$"
    with pytest.raises(sirius_tf.SiriusError, match=reason):
        converted(model)
    assert "make_callable" in (tmp_path / "failures" / "conversion.txt").read_text()
    assert not model.with_name("model.sirius").exists()


def test_no_compiler_at_all_is_an_error(model, monkeypatch):
    monkeypatch.setenv("SIRIUS_CC", "/nonexistent/cc")
    with pytest.raises(cc.NoCompilerError, match="cannot run the C compiler"):
        converted(model)
    assert not model.with_name("model.sirius").exists()
