# SPDX-License-Identifier: Apache-2.0
"""Cells and reasons of the peers, archives, and versions of TensorFlow: none of them is needed."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from sirius_tf.tools.gpu import archive, frameworks
from sirius_tf.tools.perf import versions

pytestmark = pytest.mark.ir


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


NUMPY = SimpleNamespace(
    array=np.asarray, tanh=np.tanh, sigmoid=sigmoid, split=lambda x, n: np.split(x, n, -1)
)
H, C = np.array([0.5, -0.5]), np.array([2.0, 4.0])


def gates(*values):
    """What the input contributes, of two units each."""
    return np.repeat(np.array(values, float), 2)


def test_gates_of_an_lstm() -> None:
    """Large numbers open a gate, or shut it: input, candidate, forget, output."""
    u, b = np.zeros((2, 8)), np.zeros(8)

    def step(*values):
        return frameworks.lstm_step(NUMPY, gates(*values), (H, C), u, b)

    h, c = step(-99, 1, 99, 99)  # the state is kept
    np.testing.assert_allclose(c, C)
    np.testing.assert_allclose(h, np.tanh(C))
    h, c = step(99, 1, -99, -99)  # it is replaced, and not shown
    np.testing.assert_allclose(c, np.tanh([1, 1]))
    np.testing.assert_allclose(h, 0, atol=1e-12)


def test_gates_of_a_gru() -> None:
    """Update, reset, candidate; attention makes an update smaller."""
    u, b = np.zeros((2, 6)), np.zeros(6)
    u[:, 4:] = np.eye(2)

    def step(*values, attention=1.0):
        made, again = frameworks.gru_step(NUMPY, gates(*values), (H,), u, b, attention)
        assert again is made
        return made

    np.testing.assert_allclose(step(-99, 0, 1), H)
    np.testing.assert_allclose(step(99, -99, 1), np.tanh([1, 1]))
    np.testing.assert_allclose(step(99, 0, 1, attention=0.0), H)


def test_weights_repeat_and_keep_sizes() -> None:
    w, u, b = frameworks.weights(NUMPY, 400, 100, 3)
    assert (w.shape, u.shape, b.shape) == ((400, 300), (100, 300), (300,))
    assert w.dtype == np.float32 and w.std() == pytest.approx(0.05, rel=0.01)
    np.testing.assert_array_equal(w, frameworks.matrix(NUMPY, 400, 300))


def test_reasons_are_a_line() -> None:
    assert frameworks.reason(ImportError("no torch\nat all")) == "no torch"
    assert frameworks.reason(ValueError("odd\nsize")) == "ValueError: odd"
    assert frameworks.reason(RuntimeError()) == "RuntimeError: "


def test_samples_are_by_signature(tmp_path) -> None:
    np.savez(tmp_path / "s.npz", **{"x": [1], "other/x": [2], "other/y": [3]})
    found = archive.read_samples(tmp_path / "s.npz")
    assert found == {archive.DEFAULT: {"x": [1]}, "other": {"x": [2], "y": [3]}}


def test_an_environment_is_made_once(monkeypatch, tmp_path) -> None:
    ran = []

    def run(words, check):
        assert check
        ran.append(words[1:4])
        if words[2] == "venv":
            python = tmp_path / "tf-2.19" / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.touch()
        else:
            assert "tensorflow-cpu==2.19.*" in words and words[-1] == str(versions.ROOT)

    monkeypatch.setattr(subprocess, "run", run)
    python = versions.environment(tmp_path, "2.19")
    assert versions.environment(tmp_path, "2.19") == python
    assert [words[1] for words in ran] == ["venv", "pip", "pip"]
    assert (versions.ROOT / "pyproject.toml").exists()


def test_the_first_version_rewrites_and_all_run(monkeypatch, tmp_path) -> None:
    ran = []
    monkeypatch.setattr(versions, "environment", lambda _, version: version)
    monkeypatch.setattr(subprocess, "run", lambda words, **how: ran.append((words, how)))
    versions.check(tmp_path, ["2.19", "2.21"])
    made = [words for words, _ in ran if "-m" in words]
    compared = [words for words, _ in ran if "-c" in words]
    assert {words[0] for words in made} == {"2.19"}
    names = (*versions.MODELS, "basic_pitch")
    pairs = [(words[0], words[3].rpartition("/")[2], words[4]) for words in compared]
    assert [pair[:2] for pair in pairs] == [(v, n) for n in names for v in ("2.19", "2.21")]
    assert all(words[4] == f"{words[3]}.sirius" for words in compared)
    assert all(how["check"] and how["env"]["TF_ENABLE_ONEDNN_OPTS"] == "0" for _, how in ran)
