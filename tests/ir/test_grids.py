# SPDX-License-Identifier: Apache-2.0
"""Arrays of points of a box."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sirius_tf.ir.affine import symbol
from sirius_tf.ir.grids import cells, contraction, elements, evaluated, open_grid, poison
from tests.support.programs import it, load

pytestmark = pytest.mark.ir

i, j = symbol("i"), symbol("j")
EXTENT = 12


def test_elements_of_an_array_at_every_point() -> None:
    array = np.arange(12).reshape(3, 4)
    found = elements(array, load("a", 2 - j, i), {"i": 4, "j": 3})
    np.testing.assert_array_equal(found, array[::-1].T)
    np.testing.assert_array_equal(elements(array, load("a", 1, i), {"i": 2, "j": 3})[:, 2], [4, 5])


def test_floors_round_down() -> None:
    grid = open_grid([it("i", 5)], {"i": range(-2, 3)})
    assert evaluated(i // 2 * 3 + 1, grid).tolist() == [-2, -2, 1, 1, 4]


def test_iterators_vary_along_their_axes() -> None:
    grid = open_grid([it("i", 2), it("j", 3)], {"i": range(2), "j": range(5, 8)})
    assert (evaluated(i * 10 + j, grid)).tolist() == [[5, 6, 7], [15, 16, 17]]


@pytest.mark.parametrize(("inner", "times"), [((4,), 1), ((4, 5), 5)])
def test_sums_of_products(inner, times) -> None:
    """Over an iterator that neither factor depends on, too."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 1, 4)), rng.integers(0, 9, (1, 3, 4))
    shape = (1,) * (len(inner) - 1)
    found = contraction([a.reshape(2, 1, 4, *shape), b.reshape(1, 3, 4, *shape)], 2, inner)
    np.testing.assert_array_equal(found, times * (a[:, 0] @ b[0].T))


def test_what_is_not_defined_shows() -> None:
    assert np.isnan(poison(np.dtype("float32"))) and poison(np.dtype("bool")) is True
    assert poison(np.dtype("int8")) == 127


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
def test_cells(where) -> None:
    """They are what numpy's subscripts name, to be read and to be written."""
    array = np.arange(EXTENT**3).reshape((EXTENT,) * 3)
    found, expected = cells(array, where), np.asarray(array[where])
    if found is None:
        return
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    found[...] = -1
    assert (array == -1).sum() == expected.size
    assert (array[where] == -1).all()


def test_ranges_are_not_copied() -> None:
    array = np.zeros((4, 5))
    rows, columns = np.arange(1, 4).reshape(1, 3), np.arange(0, 5, 2).reshape(3, 1)
    found = cells(array, (rows, columns))
    assert found is not None
    assert np.shares_memory(found, array)
    assert cells(array, (rows, rows)) is None
