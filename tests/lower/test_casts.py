# SPDX-License-Identifier: Apache-2.0
"""Numbers that do not fit the type that they are cast to."""

import numpy as np
import pytest
import tensorflow as tf

from sirius_tf.ir.dtypes import numpy_dtype
from tests.support.parity import check

BEYOND = (2147483520.0, 2147483648.0, 5e9, 9.3e18, 2e19, 1e30, np.inf)
FLOATS = (0.0, -0.5, 3.99, -3.99, 1e5, np.nan, *BEYOND, *(-x for x in BEYOND))
INTEGERS = (-(2**63), 2**63 - 1, 2**31, -(2**31) - 1, 2**32 + 5, 7)


@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered in cast")
def test_floats_beyond_int32_and_int64_are_what_tensorflow_makes_of_them() -> None:
    """The least integer, anywhere in a vector. Of 8 and 16 bits TensorFlow has no one answer."""
    dtypes = ["float16", "bfloat16", "float32", "float64"]

    def casts(*tensors):
        return [tf.cast(x, to) for x in tensors for to in (tf.int32, tf.int64, tf.bool)]

    def arrays(size):
        return [np.resize(FLOATS, size).astype(numpy_dtype(d)) for d in dtypes]

    check(casts, *[(None,)] * 4, dtypes=dtypes, sizes=(1, 7, 40), arrays=arrays)


def test_constants_beyond_int32_wrap() -> None:
    """They are folded where they are small, as sizes are."""

    def folded(x):
        return x + tf.cast(tf.constant(INTEGERS, tf.int64), tf.int32)

    check(folded, (None, len(INTEGERS)), dtypes=["int32"], sizes=(1, 3))
