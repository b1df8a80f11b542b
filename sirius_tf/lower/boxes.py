# SPDX-License-Identifier: Apache-2.0
"""Helpers of several rules: host vectors, axes, and tensors written as disjoint boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import Affine
from sirius_tf.ir.expr import Expr, call
from sirius_tf.ir.polynomial import Poly, PolyLike, poly
from sirius_tf.lower import value as values
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.tensors import iterators, load
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


def channels_first(node: Node) -> bool:
    """Whether the dimension of channels comes before the spatial ones."""
    return str(node.attrs.get("data_format", "NHWC")).startswith("NC")


def axis_of(ctx: Lowering, axis: int, rank: int) -> int:
    """A TF axis counted from the front."""
    if not -rank <= axis < max(rank, 1):
        raise ctx.unsupported(f"axis {axis} is out of range for rank {rank}")
    return axis % rank if rank else 0


def agree(ctx: Lowering, declared: Sequence[Poly] | None, shape: Sequence[Poly]) -> None:
    """Require a shape to be what is declared, as far as that is: sizes of -1 and None are not."""
    if declared is None:
        return
    if len(declared) != len(shape):
        raise ctx.unsupported(f"rank {len(shape)} is not {len(declared)}, which is declared")
    for size, given in zip(declared, shape, strict=True):
        if size == given or not ctx.params.at_least(size, 0):
            continue
        if max(size.degree, given.degree) <= 1:
            ctx.equal(given.to_affine(), size.to_affine())
            continue
        same = call("eq", given.to_expr(), size.to_expr(), dtype="bool")
        ctx.check(same, f"size {given} must be {size}")


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
    start = poly(0)
    for part in parts:
        own = [part.dims[axis] if k == axis else d for k, d in enumerate(dims)]
        starts = [start if k == axis else poly(0) for k in range(len(dims))]
        _write_box(ctx, name, dims, values.broadcast_to(part, own, ctx.equal), starts)
        start = start + part.shape[axis]
    return load(name, parts[0].dtype, dims, atoms)


def pad(ctx: Lowering, x: Value, widths: Sequence[tuple[Poly, Poly]], filler: Expr) -> Value:
    """Constant padding: the interior, and two slabs per padded dimension."""
    dims = list(x.dims)
    for k, (low, high) in enumerate(widths):
        if (low, high) != (poly(0), poly(0)):
            ctx.nonnegative(low)
            ctx.nonnegative(high)
            dims[k] = ((x.shape[k] + low + high).to_affine(),)
    if dims == list(x.dims):
        return x
    atoms = tuple(a for d in dims for a in d)
    name, lows = ctx.new_tensor(x.dtype, atoms), [low for low, _ in widths]
    _write_box(ctx, name, dims, x, lows)
    for k, (low, high) in enumerate(widths):
        for width, start in ((low, poly(0)), (high, low + x.shape[k])):
            if width != poly(0):
                box = [*x.dims[:k], values.dim_of(width), *dims[k + 1 :]]
                starts = [*lows[:k], start, *[poly(0)] * (len(dims) - k - 1)]
                _write_box(ctx, name, dims, fill(x.dtype, box, filler), starts)
    return load(name, x.dtype, dims, atoms)


def _write_box(
    ctx: Lowering, name: str, dims: Sequence[Dim], part: Value, starts: Sequence[Poly]
) -> None:
    """Define the box `part` of a tensor with dimensions `dims`, from `starts` on."""
    i = iterators("i", part.atoms)
    index = list[Affine]()
    for dim, own, at, start in zip(dims, part.dims, part.split(i), starts, strict=True):
        if dim != own or start != poly(0):
            at = values.unflatten(dim, values.flat_index(own, at) + start.to_affine())
        index += at
    ctx.write(name, part.atoms, tuple(index), part.at(i))
