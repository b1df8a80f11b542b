# SPDX-License-Identifier: Apache-2.0
"""Inputs that are made up."""

import numpy as np
import pytest

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.savedmodel import Tensor
from sirius_tf.rewrite import made_up


def test_the_first_recipe():
    inputs = {
        "n": Tensor("n:0", "int32", ()),
        "ids": Tensor("ids:0", "int64", (None, 3)),
        "x": Tensor("x:0", "float32", (None, None, 5)),
        "training": Tensor("training:0", "bool", ()),
    }
    arrays = made_up.first(inputs).arrays(inputs)
    assert {key: array.shape for key, array in arrays.items()} == {
        "n": (),
        "ids": (1, 3),
        "x": (1, 64, 5),
        "training": (),
    }
    assert arrays["n"] == 1 and not arrays["training"]
    assert set(np.unique(arrays["ids"])) <= {0, 1} and np.std(arrays["x"]) > 0.5


def test_what_cannot_be_made_up():
    inputs = {"h": Tensor("handle:0", "variant", ())}
    text = "no sample can be made up for input handle:0 of dtype variant; give one"
    with pytest.raises(SiriusError, match=text):
        made_up.first(inputs).arrays(inputs)
