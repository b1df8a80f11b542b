# SPDX-License-Identifier: Apache-2.0
"""Results beside what they should be."""

import numpy as np


def assert_close(results, expected, rtol=1e-5, atol=None):
    """Of the same types and shapes, and nearly the same numbers: `atol` is `rtol` unless given."""
    for result, want in zip(results, expected, strict=True):
        assert (result.dtype, result.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(result, want, rtol=rtol, atol=rtol if atol is None else atol)
