# SPDX-License-Identifier: Apache-2.0
"""Values: a TF tensor as a function from indices to a scalar expression.

A TF dimension is a tuple of *atoms*, extents whose product it is; () is a dimension of size 1.
View ops return a new Value whose function rewrites indices; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sirius_tf.ir.affine import Affine, affine
from sirius_tf.ir.expr import DType, Expr
from sirius_tf.ir.polynomial import NotAffineError, Poly, PolyLike, poly

Dim = tuple[Affine, ...]
Indices = tuple[Affine, ...]
Host = npt.NDArray[np.object_]  # of Poly
Equal = Callable[[Affine, Affine], None]  # records that two extents must be equal
View = Callable[[Indices], Indices]


@dataclass(frozen=True)
class Value:
    """A tensor of type `dtype`; `at` takes one index per atom, all dimensions in order.

    `host` holds the elements as polynomials where they are known before the region runs.
    """

    dtype: DType
    dims: tuple[Dim, ...]
    at: Callable[[Indices], Expr]
    host: Host | None = None

    @property
    def rank(self) -> int:
        """Number of TF dimensions."""
        return len(self.dims)

    @property
    def atoms(self) -> Dim:
        """The atoms of all dimensions in order."""
        return tuple(a for dim in self.dims for a in dim)

    @property
    def shape(self) -> tuple[Poly, ...]:
        """Size of every TF dimension."""
        return tuple(extent(dim) for dim in self.dims)

    def split(self, indices: Indices) -> tuple[Indices, ...]:
        """Indices grouped by TF dimension."""
        parts, start = [], 0
        for dim in self.dims:
            parts.append(indices[start : start + len(dim)])
            start += len(dim)
        return tuple(parts)

    def view(self, dims: Sequence[Dim], source: View) -> Value:
        """The Value whose element i is this one's element `source(i)`."""
        return Value(self.dtype, tuple(dims), lambda i: self.at(source(i)))

    def by_dim(self, dims: Sequence[Dim], sources: Sequence[View]) -> Value:
        """A view with one index function per dimension."""
        shaped = Value(self.dtype, tuple(dims), self.at)

        def source(indices: Indices) -> Indices:
            parts = zip(sources, shaped.split(indices), strict=True)
            return tuple(a for f, part in parts for a in f(part))

        return self.view(dims, source)


def element(host: Host, point: tuple[int, ...]) -> Poly:
    """One element of a host value."""
    found: Any = host[point]
    return poly(found)


def extent(dim: Dim) -> Poly:
    """Product of the atoms."""
    size = poly(1)
    for atom in dim:
        size = size * atom
    return size


def dim_of(size: PolyLike) -> Dim:
    """Atoms for a size that no other tensor suggests atoms for."""
    return poly(size).factors()


def flat_index(dim: Dim, indices: Indices) -> Affine:
    """Row-major position; NotAffineError unless all atoms but the outermost are constant."""
    position = affine(0)
    for atom, index in zip(dim, indices, strict=True):
        if position != affine(0) and not atom.is_const:
            raise NotAffineError(f"position in {format_dim(dim)} is not affine")
        position = position * (atom.const if atom.is_const else 0) + index
    return position


def unflatten(dim: Dim, position: Affine) -> Indices:
    """Indices of the atoms from a row-major position; inner atoms are constant."""
    indices: list[Affine] = []
    for k, atom in reversed(list(enumerate(dim))):
        if k == 0:
            indices.append(position)
        elif not atom.is_const:
            raise NotAffineError(f"positions in {format_dim(dim)} are not affine")
        elif atom.const:
            indices.append(position % atom.const)
            position = position // atom.const
        else:
            indices.append(affine(0))
    return tuple(reversed(indices))


def format_dim(dim: Dim) -> str:
    """For messages."""
    return "*".join(f"({a})" for a in dim) or "1"


@dataclass(frozen=True)
class Refinement:
    """Common atoms of two factorizations of one size, and how to index each from them."""

    atoms: Dim
    left: View
    right: View


def _divide(a: Affine, b: Affine) -> Affine | None:
    """Inner, constant, part a / b of an atom a whose outer part is b, if there is one."""
    quotient = poly(a).exact_div(b)
    if quotient is None or not quotient.is_const or quotient.const < 1:
        return None
    return affine(quotient.const)


def _common_atom(a: Affine, b: Affine) -> Affine | None:
    """Outermost common part of two atoms, such that both split affinely; None if there is none."""
    if a == b or _divide(a, b) is not None:
        return b
    if _divide(b, a) is not None:
        return a
    return None


def align(left: Dim, right: Dim) -> list[tuple[Dim, Dim, Dim]] | None:
    """Groups (common atoms, left atoms, right atoms) that cover both, or None.

    A group has several common atoms only if it has one atom on a side or all are constant.
    """
    groups: list[tuple[list[Affine], list[Affine], list[Affine]]] = []
    lefts, rights = list(left), list(right)
    a = b = affine(1)
    while lefts or rights or a != affine(1) or b != affine(1):
        if a == b == affine(1):
            groups.append(([], [], []))
        for side, stack in ((1, lefts), (2, rights)):
            if (a if side == 1 else b) == affine(1):
                if not stack:
                    return None
                atom = stack.pop(0)
                groups[-1][side].append(atom)
                a, b = (atom, b) if side == 1 else (a, atom)
        part = _common_atom(a, b)
        if part is None:
            return None
        groups[-1][0].append(part)
        rest_a, rest_b = _divide(a, part), _divide(b, part)
        assert rest_a is not None and rest_b is not None
        a, b = rest_a, rest_b
    return [(tuple(c), tuple(x), tuple(y)) for c, x, y in groups]


def _regroup(common: Dim, atoms: Dim) -> View:
    """Indices of `atoms` from those of `common`, a refinement of them."""
    spans: list[int] = []
    at = 0
    for atom in atoms:
        size, start = poly(1), at
        while size != poly(atom):
            size, at = size * common[at], at + 1
        spans.append(at - start)

    def indices(i: Indices) -> Indices:
        result, start = [], 0
        for count in spans:
            result.append(flat_index(common[start : start + count], i[start : start + count]))
            start += count
        return tuple(result)

    return indices


def _same(i: Indices) -> Indices:
    return i


def refine(left: Dim, right: Dim) -> Refinement:
    """Common refinement of two factorizations of one size.

    Floor and modulo appear only where the factorizations interleave; NotAffineError if that is
    not quasi-affine either.
    """
    if left == right:
        return Refinement(left, _same, _same)
    groups = align(left, right)
    if groups is not None:
        common = tuple(a for group in groups for a in group[0])
        return Refinement(common, _regroup(common, left), _regroup(common, right))
    if left and right and left[0] == right[0]:
        rest = refine(left[1:], right[1:])
        return Refinement((left[0], *rest.atoms), _behind(rest.left), _behind(rest.right))
    for atoms, other, swap in ((left, right, False), (right, left, True)):
        if all(a.is_const for a in atoms[1:]) and all(a.is_const for a in other[1:]):
            through = _through_flat(atoms, other)
            return Refinement(atoms, through, _same) if swap else Refinement(atoms, _same, through)
    raise NotAffineError(f"{format_dim(left)} and {format_dim(right)} have no common factors")


def _behind(view: View) -> View:
    return lambda i: (i[0], *view(i[1:]))


def _through_flat(atoms: Dim, other: Dim) -> View:
    return lambda i: unflatten(other, flat_index(atoms, i))


def meet(left: Dim, right: Dim, equal: Equal) -> Refinement:
    """Refinement of two dimensions that must be the same; `equal` is told what is not known."""
    if extent(left) == extent(right):
        return refine(left, right)
    if len(left) == len(right):
        for a, b in zip(left, right, strict=True):
            if a != b:
                equal(a, b)
        return Refinement(left, _same, _same)
    equal(extent(left).to_affine(), extent(right).to_affine())
    few, many = (left, right) if len(left) < len(right) else (right, left)
    if len(few) != 1:
        raise NotAffineError(f"{format_dim(left)} and {format_dim(right)} have no common factors")

    def merge(i: Indices) -> Indices:
        return (flat_index(many, i),)

    return Refinement(many, merge, _same) if few is left else Refinement(many, _same, merge)


def broadcast(values: Sequence[Value], equal: Equal) -> tuple[tuple[Dim, ...], list[Value]]:
    """The values as views of one common list of dimensions."""
    rank = max(v.rank for v in values)
    dims: list[Dim] = [()] * rank
    for value in values:
        for k, dim in enumerate(value.dims, rank - value.rank):
            if extent(dims[k]) == poly(1):
                dims[k] = dim
            elif extent(dim) != poly(1):
                dims[k] = meet(dims[k], dim, equal).atoms
    return tuple(dims), [broadcast_to(v, dims, equal) for v in values]


def broadcast_to(value: Value, dims: Sequence[Dim], equal: Equal) -> Value:
    """The value read at the (finer) atoms of `dims`; size 1 repeats, missing dims are outer."""
    if tuple(dims) == value.dims:
        return value
    sources: list[View] = [lambda i: ()] * (len(dims) - value.rank)
    atoms = list(dims[: len(dims) - value.rank])
    for dim, target in zip(value.dims, dims[len(dims) - value.rank :], strict=True):
        if extent(dim) == poly(1):
            zeros = (affine(0),) * len(dim)
            sources.append(lambda i, zeros=zeros: zeros)  # type: ignore[misc]
            atoms.append(target)
        else:
            refined = meet(target, dim, equal)
            if refined.atoms != target:
                raise NotAffineError(
                    f"{format_dim(dim)} has more factors than {format_dim(target)}"
                )
            sources.append(refined.right)
            atoms.append(refined.atoms)
    return value.by_dim(atoms, sources)


def reshape(value: Value, shape: Sequence[PolyLike]) -> Value:
    """Row-major reshape by regrouping and splitting atoms."""
    sizes = [poly(s) for s in shape]
    source = tuple(a for a in value.atoms if a != affine(1))
    if any(a == affine(0) for a in source):
        zeros = (affine(0),) * len(value.atoms)
        return value.view([dim_of(s) for s in sizes], lambda i: zeros)
    dims = _split_greedily(source, sizes)
    target = tuple(a for dim in dims for a in dim)
    refined = refine(target, source)
    if refined.atoms != target:
        raise NotAffineError(f"cannot reshape {format_dim(source)} to {format_dim(target)}")
    ones = [a == affine(1) for a in value.atoms]

    def indices(i: Indices) -> Indices:
        rest = iter(refined.right(i))
        return tuple(affine(0) if one else next(rest) for one in ones)

    return value.view(dims, indices)


def _split_greedily(source: Dim, sizes: Sequence[Poly]) -> list[Dim]:
    """Atoms per target dimension: those of the source where they fit, else split ones."""
    stack, dims, flat = list(source), list[Dim](), False
    for size in sizes:
        dim: list[Affine] = []
        rest = size
        while rest != poly(1) and not flat:
            if not stack:
                raise ValueError("target of reshape has more elements than its source")
            atom = stack.pop(0)
            part = _take(atom, rest)
            if part is None:
                flat = True
                break
            left, over = rest.exact_div(part), _divide(atom, part)
            assert left is not None and over is not None
            dim.append(part)
            rest = left
            if over != affine(1):
                stack.insert(0, over)
        dims.append(dim_of(size) if flat else tuple(dim))
    return dims


def _take(atom: Affine, size: Poly) -> Affine | None:
    """The outer part of `atom` that goes into a dimension of which `size` is still to fill."""
    if size.exact_div(atom) is not None:
        return atom
    if size.degree <= 1:
        return _common_atom(atom, size.to_affine())
    return None


def transpose(value: Value, perm: Sequence[int]) -> Value:
    """Dimension k of the result is dimension perm[k]."""
    dims = [value.dims[p] for p in perm]
    shaped = Value(value.dtype, tuple(dims), value.at)

    def source(indices: Indices) -> Indices:
        parts = dict(zip(perm, shaped.split(indices), strict=True))
        return tuple(a for k in range(value.rank) for a in parts[k])

    return value.view(dims, source)


def slice_dim(value: Value, axis: int, start: PolyLike, size: PolyLike, step: int = 1) -> Value:
    """Elements start, start + step, ... (`size` of them) of one dimension."""
    dim = value.dims[axis]
    if poly(start) == poly(0) and step == 1 and poly(size) == extent(dim):
        return value
    origin, target = poly(start).to_affine(), dim_of(size)

    def source(i: Indices) -> Indices:
        return unflatten(dim, flat_index(target, i) * step + origin)

    sources: list[View] = [_same] * value.rank
    sources[axis] = source
    dims = list(value.dims)
    dims[axis] = target
    return value.by_dim(dims, sources)


def insert_dim(value: Value, axis: int) -> Value:
    """A dimension of size 1 before `axis`."""
    return value.view([*value.dims[:axis], (), *value.dims[axis:]], _same)


def remove_dim(value: Value, axis: int) -> Value:
    """Drop a dimension of size 1."""
    dims = [*value.dims[:axis], *value.dims[axis + 1 :]]
    before = sum(len(d) for d in value.dims[:axis])
    zeros = (affine(0),) * len(value.dims[axis])
    return value.view(dims, lambda i: (*i[:before], *zeros, *i[before:]))
