# SPDX-License-Identifier: Apache-2.0
"""What rules share: host vectors, axes, and tensors written as disjoint boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Const, Expr, Load
from sirius_tf.lower import value as values
from sirius_tf.lower.registry import Lowering
from sirius_tf.lower.symbolic import Poly, PolyLike, poly
from sirius_tf.lower.value import Dim, Host, Value


def polys(items: Sequence[PolyLike]) -> Host:
    """A host vector."""
    result = np.empty(len(items), object)
    for k, item in enumerate(items):
        result[k] = poly(item)
    return result


def scalar(item: PolyLike) -> Host:
    """A host scalar."""
    return polys([item]).reshape(())


def elements(host: Host) -> list[Poly]:
    """The elements of a host value, flat."""
    return [values.element(host.reshape(-1), (k,)) for k in range(host.size)]


def axis_of(ctx: Lowering, axis: int, rank: int) -> int:
    """A TF axis counted from the front."""
    if not -rank <= axis < max(rank, 1):
        raise ctx.unsupported(f"axis {axis} is out of range for rank {rank}")
    return axis % rank if rank else 0


def zero(dtype: str) -> Expr:
    """The zero of a dtype."""
    return Const(False if dtype == "bool" else 0.0 if "float" in dtype else 0, dtype)


def fill(dtype: str, dims: Sequence[Dim], element: Expr) -> Value:
    """One scalar everywhere."""
    return Value(dtype, tuple(dims), lambda i: element)


def concat(ctx: Lowering, parts: Sequence[Value], axis: int) -> Value:
    """Parts one after the other: one statement per part, writing disjoint boxes."""
    if len(parts) == 1:
        return parts[0]
    dims = list(parts[0].dims)
    for part in parts[1:]:
        for k in (k for k in range(part.rank) if k != axis):
            dims[k] = values.meet(dims[k], part.dims[k], ctx.equal).atoms
    total = sum((values.extent(p.dims[axis]) for p in parts), poly(0))
    dims[axis] = (total.to_affine(),)
    atoms = tuple(a for d in dims for a in d)
    name = ctx.new_tensor(parts[0].dtype, atoms)
    before = sum(len(d) for d in dims[:axis])
    offset = affine(0)
    for part in parts:
        own = [part.dims[axis] if k == axis else d for k, d in enumerate(dims)]
        view = values.broadcast_to(part, own, ctx.equal)
        box, width = view.atoms, len(part.dims[axis])
        i = tuple(symbol(f"i{k}") for k in range(len(box)))
        at = values.flat_index(part.dims[axis], i[before : before + width]) + offset
        ctx.write(name, box, (*i[:before], at, *i[before + width :]), view.at(i))
        offset = offset + values.extent(part.dims[axis]).to_affine()
    return Value(parts[0].dtype, tuple(dims), lambda i: Load(name, i, parts[0].dtype))


def pad(ctx: Lowering, x: Value, widths: Sequence[tuple[Poly, Poly]], filler: Expr) -> Value:
    """Constant padding: the interior, and two slabs per padded dimension."""
    if all(w == poly(0) for pair in widths for w in pair):
        return x
    padded: list[Affine] = []
    for dim, (low, high) in zip(x.dims, widths, strict=True):
        ctx.nonnegative(low)
        ctx.nonnegative(high)
        padded.append((values.extent(dim) + low + high).to_affine())
    name = ctx.new_tensor(x.dtype, padded)
    i = tuple(symbol(f"i{k}") for k in range(len(x.atoms)))
    lows = [low.to_affine() for low, _ in widths]
    flat = [values.flat_index(d, part) for d, part in zip(x.dims, x.split(i), strict=True)]
    interior = tuple(f + low for f, low in zip(flat, lows, strict=True))
    ctx.write(name, x.atoms, interior, x.at(i))
    sizes = [s.to_affine() for s in x.shape]
    at = tuple(symbol(f"i{k}") for k in range(x.rank))
    for k, (low, high) in enumerate(widths):
        for width, start in ((low, affine(0)), (high, lows[k] + sizes[k])):
            if width == poly(0):
                continue
            box = [*sizes[:k], width.to_affine(), *padded[k + 1 :]]
            where = [at[j] + lows[j] for j in range(k)] + [at[k] + start, *at[k + 1 :]]
            ctx.write(name, box, tuple(where), filler)
    return Value(x.dtype, tuple((a,) for a in padded), lambda i: Load(name, i, x.dtype))
