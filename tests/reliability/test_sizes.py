# SPDX-License-Identifier: Apache-2.0
"""A model of the zoo at all sizes, and what counts as another answer."""

import numpy as np
import tensorflow as tf

from sirius_tf.rewrite import measure
from tests.reliability import sizes


def test_a_small_model_accepts_what_the_original_accepts(monkeypatch):
    monkeypatch.setattr(measure, "_SECONDS", 0.0)
    report = sizes.of_model("mmoe_souffle", 16)
    assert report.accepted > 0
    assert report.wrong == []


def test_answers_that_differ():
    x, error = {"y": np.ones(3)}, tf.errors.InvalidArgumentError
    assert sizes.alike(x, x) and sizes.alike(error, error)
    others = [error, {"y": np.ones(4)}, {"y": np.full(3, 1.1)}, {"y": np.full(3, np.nan)}]
    assert not any(sizes.alike(y, x) for y in others)
    assert not sizes.alike(x, error)
