# SPDX-License-Identifier: Apache-2.0
"""What is read and written without a copy is what numpy's subscripts name."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sirius_tf.ir.grids import cells

EXTENT = 12


@st.composite
def subscripts(draw):
    """Three subscripts of an array, on a grid of at most three axes: a point, or points first,
    first + step, ... along an axis, which may be another subscript's, too."""
    rank = draw(st.integers(0, 3))
    where = []
    for _ in range(3):
        size, step = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2, 3, 0, -1]))
        first = draw(st.integers(0, EXTENT - 1))
        points = (first + step * np.arange(size)) % EXTENT
        axis = draw(st.integers(0, rank - 1)) if rank else None
        shape = [-1 if axis == other else 1 for other in range(rank)]
        where.append(points.reshape(shape) if rank else np.asarray(first))
    try:
        np.broadcast_shapes(*(index.shape for index in where))
    except ValueError:
        return draw(subscripts())
    return tuple(where)


@given(subscripts())
def test_cells(where):
    array = np.arange(EXTENT**3).reshape((EXTENT,) * 3)
    found, expected = cells(array, where), np.asarray(array[where])
    if found is None:
        return
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    found[...] = -1
    assert (array == -1).sum() == expected.size
    assert (array[where] == -1).all()


def test_ranges_are_not_copied():
    array = np.zeros((4, 5))
    i, j = np.arange(1, 4).reshape(1, 3), np.arange(0, 5, 2).reshape(3, 1)
    found = cells(array, (i, j))
    assert found is not None
    assert np.shares_memory(found, array)
    assert cells(array, (i, i)) is None
