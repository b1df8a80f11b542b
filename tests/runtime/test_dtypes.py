# SPDX-License-Identifier: Apache-2.0
"""The types of arrays by number, which TensorFlow has given them."""

import pytest
import tensorflow as tf

from sirius_tf.errors import SiriusError
from sirius_tf.runtime import dtypes


def test_numbers_are_those_of_tensorflow() -> None:
    assert {10, 14, 19} < dtypes.DTYPES.keys()  # bool, bfloat16, half
    for number in dtypes.DTYPES:
        assert dtypes.dtype_of(number) == tf.as_dtype(number).as_numpy_dtype


def test_text_has_no_dtype(monkeypatch) -> None:
    with pytest.raises(SiriusError, match="DataType 7: there is none"):
        dtypes.dtype_of(tf.string.as_datatype_enum)
    monkeypatch.setattr(dtypes, "DTYPES", {})
    with pytest.raises(SiriusError, match="DataType 14: it needs the package ml_dtypes"):
        dtypes.dtype_of(tf.bfloat16.as_datatype_enum)
