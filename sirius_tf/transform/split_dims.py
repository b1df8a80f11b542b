# SPDX-License-Identifier: Apache-2.0
"""Dimensions that are only read in equal slices become two: the slice, and the place in it.

    z[b, n] = sum over k of h[b, k] * u[k, n]              0 <= n < 4H
    c[b, j] = f(z[b, j], z[b, H + j], z[b, 2H + j], ...)   0 <= j < H

    z[b, g, j] = sum over k of h[b, k] * u[k, H*g + j]     0 <= g < 4, 0 <= j < H

Now z[b, :, j] and c[b, j] are one iteration of a common loop, and no barrier is between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Expr, Load
from sirius_tf.ir.program import Iter, Program, Statement
from sirius_tf.ir.rewrite import define_elsewhere, map_loads, map_statements, substitute_in

LEAST = 16
"""Size of a slice from which on vectors fill it well."""


@dataclass(frozen=True)
class _Cut:
    """Dimension `axis` of a tensor, into slices of `size`."""

    axis: int
    size: int


def split(program: Program) -> Program:
    """The program with the dimensions of temporaries cut at the slices that their readers take."""
    cuts = dict(_cuts(program))
    if not cuts:
        return program
    tensors = tuple(
        replace(t, shape=_shape(t.shape, cuts[t.name])) if t.name in cuts else t
        for t in program.tensors
    )
    program = replace(program, tensors=tensors)
    return split(map_statements(program, lambda s: _rewritten(s, cuts)))


def _cuts(program: Program) -> Iterator[tuple[str, _Cut]]:
    writers: dict[str, list[Statement]] = {}
    readers: dict[str, list[tuple[Statement, Load]]] = {}
    for s in program.statements:
        writers.setdefault(s.target, []).append(s)
        for load in s.loads:
            readers.setdefault(load.tensor, []).append((s, load))
    for tensor in program.tensors:
        if tensor.role != "temp" or tensor.name in program.conditions:
            continue
        for axis, extent in enumerate(tensor.shape):
            if not extent.is_const or tensor.name not in readers:
                continue
            slices = [_slice(s, load.index[axis]) for s, load in readers[tensor.name]]
            sizes = {found[2] if found else 0 for found in slices}
            size = sizes.pop() if len(sizes) == 1 else 0
            if size < LEAST or extent.const % size or extent.const == size:
                continue
            if all(_whole(s, axis, extent) for s in writers[tensor.name]):
                yield tensor.name, _Cut(axis, size)
                break


def _slice(s: Statement, index: Affine | Expr) -> tuple[Affine, Affine, int] | None:
    """The slice of a dimension that a subscript lies in, the place in it, and its size: `size *
    which + place`; None if it is no such sum."""
    if not isinstance(index, Affine):
        return None
    place = next((i for i in s.all_iters if index.coefficient(i.name) == 1), None)
    if place is None or not place.extent.is_const or not place.extent.const:
        return None
    size, base = place.extent.const, index - symbol(place.name)
    which = base // size
    return (which, symbol(place.name), size) if which * size == base else None


def _whole(s: Statement, axis: int, extent: Affine) -> bool:
    """Whether a statement defines all of a dimension, along an iterator of its own."""
    name = str(s.index[axis])
    own = any(i.name == name and i.extent == extent and not i.loop for i in s.iters)
    return own and sum(name in set(i.names()) for i in s.index) == 1


def _shape(shape: tuple[Affine, ...], cut: _Cut) -> tuple[Affine, ...]:
    count = shape[cut.axis].const // cut.size
    return (*shape[: cut.axis], affine(count), affine(cut.size), *shape[cut.axis + 1 :])


def _rewritten(s: Statement, cuts: Mapping[str, _Cut]) -> Statement:
    def in_slice(load: Load) -> Load:
        axis = cuts[load.tensor].axis
        found = _slice(s, load.index[axis])
        assert found is not None
        return replace(load, index=(*load.index[:axis], *found[:2], *load.index[axis + 1 :]))

    s = map_loads(s, cuts, in_slice)
    return _written(s, cuts[s.target]) if s.target in cuts else s


def _written(s: Statement, cut: _Cut) -> Statement:
    """A statement with the iterator of a dimension made two."""
    name = str(s.index[cut.axis])
    which = f"{name}g"
    at = symbol(which) * cut.size + symbol(name)
    k = next(k for k, i in enumerate(s.iters) if i.name == name)
    count = affine(s.iters[k].extent.const // cut.size)
    pair = (Iter(which, count), Iter(name, affine(cut.size)))
    index = (*s.index[: cut.axis], symbol(which), symbol(name), *s.index[cut.axis + 1 :])
    iters = (*s.iters[:k], *pair, *s.iters[k + 1 :])
    return replace(define_elsewhere(substitute_in(s, {name: at}), s.target, index), iters=iters)
