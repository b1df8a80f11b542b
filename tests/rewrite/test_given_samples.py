# SPDX-License-Identifier: Apache-2.0
"""Samples that are given: for which signature they are, and what is said if they do not fit."""

from types import SimpleNamespace

import numpy as np
import pytest

from sirius_tf.errors import SiriusError
from sirius_tf.frontend.savedmodel import Tensor
from sirius_tf.rewrite import samples


def signature(name, **inputs):
    made = {key: Tensor(f"{key}:0", *kind) for key, kind in inputs.items()}
    return SimpleNamespace(name=name, inputs=made)


FLOATS = ("float32", (None, 4))
SERVE = signature("serve", x=FLOATS)
SAME = {"serve": SERVE, "again": signature("again", x=FLOATS)}
OTHER = {"serve": SERVE, "score": signature("score", x=FLOATS, n=("int32", ()))}
X = np.zeros((2, 4), "f")
OF_SERVE = "samples of signature 'serve'"


@pytest.mark.parametrize(
    ("signatures", "given", "text"),
    [
        (
            OTHER,
            {"x": X},
            "the samples do not say for which signature they are; give {signature: {input: array}}"
            " for any of 'score', 'serve'",
        ),
        (
            SAME,
            {"server": {"x": X}},
            "samples for signature 'server', which is not among 'again', 'serve'",
        ),
        (SAME, {"serve": {"y": X}}, f"{OF_SERVE} are for 'y'; it takes 'x'"),
        (SAME, {"serve": {}}, f"{OF_SERVE} are for nothing; it takes 'x'"),
        (SAME, {"serve": {"x": X.astype("d")}}, f"{OF_SERVE}: 'x' has dtype float64, not float32"),
        (SAME, {"serve": {"x": [["a"] * 4]}}, f"{OF_SERVE}: 'x' has dtype string, not float32"),
        (SAME, {"serve": {"x": X[:, 1:]}}, f"{OF_SERVE}: 'x' has shape (2, 3), not (None, 4)"),
        (SAME, {"serve": {"x": X[0]}}, f"{OF_SERVE}: 'x' has shape (4,), not (None, 4)"),
    ],
)
def test_what_does_not_fit(signatures, given, text):
    with pytest.raises(SiriusError) as caught:
        samples.of_signatures(signatures, given)
    assert str(caught.value) == text


def test_what_is_for_all_signatures_and_what_others_may_use():
    found = samples.of_signatures(SAME, {"x": X})
    assert [choice.given["x"] is X for choice in found.values()] == [True, True]
    found = samples.of_signatures(SAME, {"serve": {"x": X}})
    assert found["again"].given is None
    (lent,) = found["again"].others
    assert lent["x"] is X
    found = samples.of_signatures(OTHER, {"serve": {"x": X}})
    assert found["score"].given is None and found["score"].others == ()


def test_twice_the_samples() -> None:
    takes = signature(
        "s",
        x=("float32", (2, None, None)),
        n=("int32", (None,)),
        words=("string", None),
        whole=("float32", (2,)),
    )
    words = np.array(["a", "b"], object)
    given = {"x": np.zeros((2, 3, 5)), "n": np.array([7, 9]), "words": words, "whole": np.ones(2)}
    found = samples.twice(takes, given)
    assert found["x"].shape == (2, 6, 5) and list(found["n"]) == [7, 9, 7, 9]
    assert found["words"] is words and found["whole"] is given["whole"]
    assert samples.twice(takes, {"words": words, "whole": np.ones(2)}) is None
