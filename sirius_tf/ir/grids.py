# SPDX-License-Identifier: Apache-2.0
"""Arrays of points: what the interpreter evaluates at all points of a box at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sirius_tf.ir.affine import Affine, FloorDiv
from sirius_tf.ir.expr import Load
from sirius_tf.ir.functions import Array
from sirius_tf.ir.program import Iter

Grid = Mapping[str, Any]  # a name -> int, or an integer array that broadcasts over the domain


def elements(array: Array, load: Load, box: Mapping[str, int]) -> Array:
    """The elements of an array that a Load with affine subscripts reads, at every point of a box of
    sizes."""
    sizes = tuple(box.values())
    points = np.meshgrid(*map(np.arange, sizes), indexing="ij", sparse=True)
    grid = dict(zip(box, points, strict=True))
    where = tuple(evaluated(i, grid) for i in load.index if isinstance(i, Affine))
    return np.broadcast_to(array[where], sizes)


def evaluated(value: Affine, grid: Grid) -> Any:
    """An affine expression at every point of a grid."""
    total: Any = value.const
    for key, coefficient in value.terms:
        if isinstance(key, FloorDiv):
            total = total + coefficient * (evaluated(key.numerator, grid) // key.divisor)
        else:
            total = total + coefficient * grid[key]
    return total


def cells(array: Array, where: tuple[Array, ...]) -> Array | None:
    """`array[where]` without a copy, to be read or written, where each subscript is one point or
    goes along an axis of its own in equal steps; None where it does not."""
    key: list[int | slice] = []
    axes: list[int] = []  # of the grid, counted from the last one
    for index in where:
        along = [axis - index.ndim for axis, size in enumerate(index.shape) if size > 1]
        points = index.ravel()
        if len(along) > 1 or not points.size or (along and along[0] in axes):
            return None
        first, last = int(points[0]), int(points[-1])
        if not along:
            key.append(first)
            continue
        step = int(points[1]) - first
        if step <= 0 or (points[1:] - points[:-1] != step).any():
            return None
        key.append(slice(first, last + 1, step))
        axes += along
    rank = max((index.ndim for index in where), default=0)
    order = sorted(range(len(axes)), key=axes.__getitem__)
    placed = (slice(None) if axis in axes else None for axis in range(-rank, 0))
    return array[(*key, ...)].transpose(order)[(*placed, ...)]


def open_grid(iters: list[Iter], ranges: Mapping[str, range]) -> dict[str, Any]:
    """An open grid: iterator n varies along axis n, of as many axes as iterators."""
    shapes = [[-1 if n == axis else 1 for n in range(len(iters))] for axis in range(len(iters))]
    return {
        it.name: np.array(ranges[it.name], np.int64).reshape(shape)
        for it, shape in zip(iters, shapes, strict=True)
    }


def contraction(factors: list[Array], rank: int, inner: tuple[int, ...]) -> Array:
    """Sum over the trailing axes of the product of two arrays, accumulated in float64."""
    total = rank + len(inner)
    operands: list[Any] = []
    covered: set[int] = set()
    for factor in factors:
        full = factor.reshape((1,) * (total - factor.ndim) + factor.shape)
        used = [axis for axis in range(total) if full.shape[axis] != 1]
        covered.update(used)
        narrow = full.reshape([full.shape[a] for a in used])
        operands += [narrow.astype(np.float64, copy=False), used]
    kept = [axis for axis in range(rank) if axis in covered]
    result = np.asarray(np.einsum(*operands, kept, optimize=True))
    sizes = dict(zip(kept, result.shape, strict=True))
    repeated = 1  # a sum over an iterator that neither factor depends on
    for axis, extent in enumerate(inner, rank):
        repeated *= 1 if axis in covered else extent
    return result.reshape([sizes.get(axis, 1) for axis in range(rank)]) * repeated


def poison(dtype: np.dtype[Any]) -> Any:
    """A value for elements that are not defined, which shows where it is used."""
    if dtype.kind in "iu":
        return np.iinfo(dtype).max
    return True if dtype.kind == "b" else np.nan
