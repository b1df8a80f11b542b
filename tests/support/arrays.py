# SPDX-License-Identifier: Apache-2.0
"""Results beside what they should be."""

import numpy as np

from sirius_tf.ir.dtypes import is_float

#: What an order of operations changes, relative to the greatest number of a result.
ROUNDING = {"float64": 1e-14, "float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}


def assert_close(results, expected, rtol=1e-5, atol=None):
    """Of the same types and shapes, and nearly the same numbers: `atol` is `rtol` unless given.
    What is not floating-point is equal."""
    for result, want in zip(results, expected, strict=True):
        assert (result.dtype, result.shape) == (want.dtype, want.shape)
        if is_float(want.dtype.name):
            limit = rtol if atol is None else atol
            np.testing.assert_allclose(result, want, rtol=rtol, atol=limit)
        else:
            np.testing.assert_array_equal(result, want)


def assert_rounded(results, expected, tolerance=None):
    """As `assert_close`, up to an error relative to the greatest number that a result has: that of
    its type unless given."""
    for result, want in zip(results, expected, strict=True):
        exact = want.astype(np.float64) if is_float(want.dtype.name) else np.zeros(0)
        scale = np.abs(exact[np.isfinite(exact)]).max(initial=0.0) or 1.0
        limit = ROUNDING.get(want.dtype.name, 0.0) if tolerance is None else tolerance
        assert_close([result], [want], 0.0, float(limit * scale))
