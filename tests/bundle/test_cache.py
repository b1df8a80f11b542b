# SPDX-License-Identifier: Apache-2.0
"""Conversions with a cache that is full, damaged, foreign, or not there: the same bytes."""

import random

import numpy as np
import pytest
import tensorflow as tf

import sirius_tf
from sirius_tf.bundle import cache, cc
from sirius_tf.driver import comparison
from sirius_tf.rewrite import measure

# eighths, so that they are the same when they were strings
SAMPLES = {"x": np.random.default_rng(0).integers(-99, 99, (3, 16)).astype("f") / 8}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Strings go through TensorFlow, so that a region reads more than samples."""
    path, module = tmp_path_factory.mktemp("model") / "model", tf.Module()
    module.w = tf.Variable(np.random.default_rng(1).standard_normal((16, 16)).astype("f"))

    @tf.function(input_signature=[tf.TensorSpec([None, 16], tf.float32, name="x")])
    def serve(x):
        read = tf.strings.to_number(tf.strings.as_string(x))
        return {"y": tf.tanh(tf.matmul(read, module.w))}

    tf.saved_model.save(module, str(path), signatures=serve)
    return path


@pytest.fixture
def convert(model, tmp_path, monkeypatch):
    """The files of a conversion with a cache."""
    monkeypatch.setattr(measure, "_SECONDS", 0.01)
    # only times in our favour are kept, and so small a region wins by chance
    monkeypatch.setattr(comparison, "_is_faster", lambda times: True)

    def convert(cache):
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        options, out = sirius_tf.Options(keep_slow=True, force=True), tmp_path / "out"
        sirius_tf.optimize(model, out, samples=SAMPLES, options=options)
        return {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    return convert


def entries(cache):
    files = (path for path in (cache / "sirius_tf").rglob("*") if path.is_file())
    return [path for path in files if path.relative_to(cache).parts[1] != "zig"]


def test_whatever_is_in_the_cache(convert, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(RuntimeWarning, match="works without its cache"):
        want = convert(tmp_path / "file")
    cache = tmp_path / "cache"
    assert convert(cache) == want
    kinds = {path.parent.name for path in entries(cache)}
    assert kinds == {
        "checks",
        "code",
        "differences",
        "errors",
        "kernels",
        "objects",
        "times",
        "values",
    }
    choose, compiled, run = random.Random(0), [], cc.run_compiler
    monkeypatch.setattr(cc, "run_compiler", lambda *a, **b: compiled.append(a) or run(*a, **b))
    for bits in (0, 2):
        before = len(compiled)
        for path in entries(cache):
            data = bytearray(path.read_bytes())
            for _ in range(bits):
                data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
            path.write_bytes(data)
        assert convert(cache) == want
        assert (len(compiled) > before) == (bits > 0)
    for path in entries(cache):
        path.parent.joinpath("other").write_bytes(path.read_bytes())
        path.unlink()
    assert convert(cache) == want


def test_nothing_of_the_samples_is_in_the_cache(convert, tmp_path) -> None:
    convert(tmp_path / "cache")
    paths = entries(tmp_path / "cache")
    found = [path.parent.name for path in paths if SAMPLES["x"][0].tobytes() in path.read_bytes()]
    assert len(paths) > 7 and found == []


def test_what_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    key, made = ("a key", 1), iter((1.5, 2.5))
    assert not cache.is_remembered("times", key)
    for _ in range(2):
        assert cache.remembered("times", key, lambda: next(made)) == 1.5
    assert cache.is_remembered("times", key) and not cache.is_remembered("times", ("a key", 2))
