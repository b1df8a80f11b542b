# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from sirius_tf.ir.affine import affine, symbol
from sirius_tf.ir.expr import Load
from sirius_tf.ir.polynomial import poly
from sirius_tf.lower import value as v

pytestmark = pytest.mark.ir

B, S = symbol("B"), symbol("S")
SIZES = {"B": 3, "S": 5}


def tensor(*dims):
    return v.Value("int64", tuple(dims), lambda i: Load("x", i, "int64"))


def read(value, array):
    """Elements of the Value, with `array` as its tensor, in TF shape."""
    extents = [a.evaluate(SIZES) for a in value.atoms]
    names = [f"i{k}" for k in range(len(extents))]
    expr = value.at(tuple(map(symbol, names)))
    out = np.zeros(extents, array.dtype)
    for point in itertools.product(*map(range, extents)):
        values = {**SIZES, **dict(zip(names, point, strict=True))}
        out[point] = array[tuple(a.evaluate(values) for a in expr.index)]
    return out.reshape([p.evaluate(SIZES) for p in value.shape])


def data(value):
    extents = [a.evaluate(SIZES) for a in value.atoms]
    return np.arange(int(np.prod(extents))).reshape(extents)


def dims(*sizes):
    return tuple(v.dim_of(s) for s in sizes)


def has_floor(value):
    return "FloorDiv" in repr(value.at(tuple(symbol(f"i{k}") for k in range(len(value.atoms)))))


@pytest.mark.parametrize(
    ("source", "target", "floors"),
    [
        ((B, S, 12), (poly(B) * S, 12), False),
        ((B, S, 12), (B, S, 3, 4), False),
        ((B, S, 3, 4), (B, S, 12), False),
        ((B, 256), (B, 4, 64), False),
        ((B, 4, 6), (B, 6, 4), True),
        ((S, B, 2, 3), (S, B, 3, 2), True),
        ((B, 2, 3), (B, 3, 2), True),
        ((7, 9), (63,), False),
        ((B * 4, 3), (B, 12), False),
        ((1, B, 1), (B,), False),
        ((B,), (1, B, 1), False),
        ((0, 5), (5, 0), False),
        ((33, 35), (35, 33), True),
    ],
)
def test_reshape(source, target, floors):
    x = tensor(*dims(*source))
    y = v.reshape(x, target)
    array = data(x)
    shape = [poly(t).evaluate(SIZES) for t in target]
    np.testing.assert_array_equal(read(y, array), array.reshape(shape))
    assert has_floor(y) == floors
    if not floors:
        back = v.reshape(y, source)
        expected = array.reshape([poly(t).evaluate(SIZES) for t in source])
        np.testing.assert_array_equal(read(back, array), expected)


def test_transpose_and_slices():
    x = tensor(*dims(B, S, 12))
    array = data(x)
    y = v.transpose(x, (2, 0, 1))
    np.testing.assert_array_equal(read(y, array), array.transpose(2, 0, 1))
    y = v.slice_dim(v.slice_dim(x, 2, 10, 4, -3), 1, poly(S) - 1, S, -1)
    np.testing.assert_array_equal(read(y, array), array[:, ::-1, 10::-3])
    y = v.slice_dim(v.reshape(x, (B, S, 3, 4)), 2, 1, 2)
    np.testing.assert_array_equal(read(y, array), array.reshape(3, 5, 3, 4)[:, :, 1:])


def test_slice_of_merged_atoms():
    x = tensor((B, affine(4)))
    y = v.slice_dim(x, 0, 2, 7)
    np.testing.assert_array_equal(read(y, data(x)), data(x).reshape(-1)[2:9])


def test_insert_and_remove():
    x = tensor(*dims(B, 7))
    y = v.insert_dim(x, 1)
    assert y.shape == (poly(B), poly(1), poly(7))
    np.testing.assert_array_equal(read(v.remove_dim(y, 1), data(x)), data(x))


def test_broadcast_refines_and_checks():
    told = []
    x, y = tensor((B,), (affine(12),)), tensor((affine(3), affine(4)))
    shape, views = v.broadcast([x, y], lambda a, b: told.append((a, b)))
    assert shape == ((B,), (affine(3), affine(4))) and not told
    np.testing.assert_array_equal(read(views[0], data(x)), data(x))
    np.testing.assert_array_equal(read(views[1], data(y))[2], data(y).reshape(-1))
    v.broadcast([tensor((B,)), tensor((S,))], lambda a, b: told.append((a, b)))
    assert set(told) == {(B, S)}
    shape, views = v.broadcast([tensor((B,), ()), tensor((S,))], lambda a, b: told.append((a, b)))
    assert shape == ((B,), (S,)) and len(set(told)) == 1
