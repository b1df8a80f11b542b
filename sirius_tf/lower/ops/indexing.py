# SPDX-License-Identifier: Apache-2.0
"""Rules of ops whose subscripts are data."""

from __future__ import annotations

from math import prod

import numpy as np

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.expr import Const, Expr, Load, call, index, loads
from sirius_tf.ir.polynomial import Poly, poly
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import axis_of, elements
from sirius_tf.lower.context import Lowering
from sirius_tf.lower.rules import lowers
from sirius_tf.lower.value import Indices, Value


@lowers("GatherV2", "ResourceGather", "Gather")
def _gather(ctx: Lowering, node: Node) -> Value:
    x, where = ctx.input(0), ctx.input(1)
    batch = node.attr_int("batch_dims") if "batch_dims" in node.attrs else 0
    axis = axis_of(ctx, ctx.host_int(2) if node.op == "GatherV2" else 0, x.rank)
    return gather(ctx, x, where, axis, batch)


def gather(ctx: Lowering, x: Value, where: Value, axis: int, batch: int = 0) -> Value:
    """The elements of x at positions along an axis; the first `batch` dimensions are shared."""
    host, at = ctx.known(x), ctx.known(where)
    if at is not None and not batch and all(e.is_const for e in elements(at)):
        if host is not None:
            points = np.array([e.const for e in elements(at)], np.int64).reshape(at.shape)
            picked = np.asarray(np.take(host, points, axis), object)
            return ctx.from_host(picked, x.dtype)
        if where.rank == 0:
            position = elements(at)[0]
            ctx.nonnegative(x.shape[axis] - position - 1)
            return values.remove_dim(values.slice_dim(x, axis, position, 1), axis)
    x = _addressable(ctx, x, axis)
    extent = index(x.shape[axis].to_affine(), where.dtype)
    shared = [
        values.meet(*pair, ctx.equal) for pair in zip(x.dims, where.dims[:batch], strict=False)
    ]
    if any(m.atoms != d for m, d in zip(shared, x.dims, strict=False)):
        raise ctx.unsupported("the batch dimensions of its inputs are products of different sizes")
    where = values.broadcast_to(where, [*x.dims[:batch], *where.dims[batch:]], ctx.equal)
    dims = [*x.dims[:axis], *where.dims[batch:], *x.dims[axis + 1 :]]
    outer = sum(len(d) for d in x.dims[:batch])
    before = sum(len(d) for d in x.dims[:axis])
    count = len(where.atoms) - outer

    def element(i: Indices) -> Expr:
        position = call("bounded", where.at((*i[:outer], *i[before : before + count])), extent)
        return _placed(x, (*i[:before], _PLACES[0], *i[before + count :]), position)

    return ctx.define(x.dtype, dims, element)


_PLACES = tuple(symbol(f"place{k}") for k in range(8))


def _placed(x: Value, i: Indices, *positions: Expr) -> Load:
    """The element of x at indices i, with positions that are data in place of _PLACES.

    x is asked at names, which are no constants: it may have constant elements elsewhere.
    """
    load = x.at(i)
    assert isinstance(load, Load)
    known = dict(zip(_PLACES, positions, strict=False))
    subscripts = (known.get(s, s) if isinstance(s, Affine) else s for s in load.index)
    return Load(load.tensor, tuple(subscripts), x.dtype)


def _addressable(ctx: Lowering, x: Value, axis: int) -> Value:
    """The value such that `axis` is one atom, and one subscript of a Load."""
    if len(x.dims[axis]) == 1:
        probes = tuple(symbol(f"probe{k}") for k in range(len(x.atoms)))
        load, probe = x.at(probes), probes[sum(len(d) for d in x.dims[:axis])]
        if isinstance(load, Load) and load.index.count(probe) == 1:
            mentions = [i for i in load.index if f"{probe}" in _names(i)]
            full = load.index.index(probe)
            whole = ctx.tensors[load.tensor].shape[full] == x.dims[axis][0]
            if len(mentions) == 1 and whole:
                return x
    dim = x.dims[axis]
    sources: list[values.View] = [lambda i: i] * x.rank
    sources[axis] = lambda i: values.unflatten(dim, i[0])
    dims = list(x.dims)
    dims[axis] = (x.shape[axis].to_affine(),)
    if not dim:
        sources[axis] = lambda i: ()
    return ctx.materialize(x.by_dim(dims, sources))


def _names(subscript: Affine | Expr) -> set[str]:
    if isinstance(subscript, Affine):
        return set(subscript.names())
    return {n for load in loads(subscript) for i in load.index for n in _names(i)}


@lowers("GatherNd", "ResourceGatherNd")
def _gather_nd(ctx: Lowering, node: Node) -> Value:
    """y[p, ...] = x[i[p, 0], i[p, 1], ..., ...]"""
    x, where = ctx.input(0), ctx.input(1)
    last = where.shape[-1]
    if not last.is_const or not 1 <= last.const <= x.rank or node.attrs.get("batch_dims"):
        raise ctx.unsupported(f"it has {last} subscripts into rank {x.rank}, or batch dimensions")
    depth = last.const
    rows = prod(where.shape[:-1], start=poly(1))
    for size in x.shape:
        _something(ctx, size, rows)
    host = ctx.known(where)
    if host is not None and host.size == depth:
        for position in elements(host):
            ctx.nonnegative(position)
            ctx.nonnegative(x.shape[0] - position - 1)
            x = values.remove_dim(values.slice_dim(x, 0, position, 1), 0)
        return x.view([*where.dims[:-1], *x.dims], lambda i: i[len(i) - len(x.atoms) :])
    for axis in range(depth):
        x = _addressable(ctx, x, axis)
    extents = [index(x.shape[axis].to_affine(), where.dtype) for axis in range(depth)]
    parts = [
        values.remove_dim(values.slice_dim(where, where.rank - 1, k, 1), where.rank - 1)
        for k in range(depth)
    ]
    outer = len(parts[0].atoms)

    def element(i: Indices) -> Expr:
        pairs = zip(parts, extents, strict=True)
        positions = [call("bounded", part.at(i[:outer]), extent) for part, extent in pairs]
        return _placed(x, (*_PLACES[:depth], *i[outer:]), *positions)

    return ctx.define(x.dtype, [*where.dims[:-1], *x.dims[depth:]], element)


def _something(ctx: Lowering, size: Poly, rows: Poly) -> None:
    """Check that a tensor from which rows are gathered is not empty, unless no rows are."""
    if ctx.params.at_least(size, 1) or rows == poly(0):
        return
    conditions = [
        call("ge", size.to_expr(), Const(1, "int64"), dtype="bool"),
        call("eq", rows.to_expr(), Const(0, "int64"), dtype="bool"),
    ]
    ctx.check(call("or", *conditions, dtype="bool"), "what is gathered from is empty")


@lowers("ReverseSequence")
def _reverse_sequence(ctx: Lowering, node: Node) -> Value:
    """y[b, j] = x[b, n - 1 - j] where j < n = lengths[b], else x[b, j]."""
    x, lengths = ctx.input(0), ctx.input(1)
    axis, batch = node.attr_int("seq_dim"), node.attr_int("batch_dim")
    x = _addressable(ctx, x, axis)
    size = x.shape[axis].to_affine()
    most = index(size + 1, lengths.dtype)
    counts = ctx.map(lambda n: call("bounded", n, most), lengths, dtype=lengths.dtype)
    if counts.shape[0] != x.shape[batch]:
        ctx.equal(counts.shape[0].to_affine(), x.shape[batch].to_affine())
    own = values.broadcast_to(counts, [x.dims[batch]], ctx.equal)
    before = sum(len(d) for d in x.dims[:axis])

    def element(i: Indices) -> Expr:
        parts = x.split(i)
        n, j = own.at(parts[batch]), index(parts[axis][0], lengths.dtype)
        mirrored = call("sub", call("sub", n, Const(1, n.dtype)), j)
        position = call("select", call("lt", j, n, dtype="bool"), mirrored, j)
        place = call("bounded", position, index(size, lengths.dtype))
        return _placed(x, (*i[:before], _PLACES[0], *i[before + 1 :]), place)

    return ctx.define(x.dtype, x.dims, element)


@lowers("OneHot")
def _one_hot(ctx: Lowering, node: Node) -> Value:
    where, on, off = ctx.input(0), ctx.input(2).at(()), ctx.input(3).at(())
    depth = elements(ctx.host(1))[0]
    ctx.nonnegative(depth)
    axis = axis_of(ctx, node.attr_int("axis"), where.rank + 1)
    new = values.dim_of(depth)
    dims = [*where.dims[:axis], new, *where.dims[axis:]]
    before = sum(len(d) for d in where.dims[:axis])
    wide = where.dtype if where.dtype in ("int32", "int64") else "int32"  # positions exceed int8

    def element(i: Indices) -> Expr:
        own = index(values.flat_index(new, i[before : before + len(new)]), wide)
        given = where.at((*i[:before], *i[before + len(new) :]))
        given = given if where.dtype == wide else call("cast", given, dtype=wide)
        return call("select", call("eq", given, own, dtype="bool"), on, off)

    return ctx.define(node.dtypes[0], dims, element)
