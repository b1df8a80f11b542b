# SPDX-License-Identifier: Apache-2.0
"""Rules of ops whose subscripts are data."""

from __future__ import annotations

import numpy as np

from sirius_tf.frontend.graph import Node
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Expr, Load, index, loads
from sirius_tf.lower import value as values
from sirius_tf.lower.boxes import axis_of, elements
from sirius_tf.lower.registry import Lowering, call, lowers
from sirius_tf.lower.value import Indices, Value


@lowers("GatherV2", "ResourceGather", "Gather")
def _gather(ctx: Lowering, node: Node) -> Value:
    x, where = ctx.input(0), ctx.input(1)
    batch = node.attr_int("batch_dims") if "batch_dims" in node.attrs else 0
    axis = axis_of(ctx, ctx.host_int(2) if node.op == "GatherV2" else 0, x.rank)
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
    x, slot = _addressable(ctx, x, axis)
    extent = index(x.shape[axis].to_affine(), where.dtype)
    shared = [
        values.meet(*pair, ctx.equal) for pair in zip(x.dims, where.dims[:batch], strict=False)
    ]
    if any(m.atoms != d for m, d in zip(shared, x.dims, strict=False)):
        raise ctx.unsupported("batch dimensions with different atoms")
    where = values.broadcast_to(where, [*x.dims[:batch], *where.dims[batch:]], ctx.equal)
    dims = [*x.dims[:axis], *where.dims[batch:], *x.dims[axis + 1 :]]
    outer = sum(len(d) for d in x.dims[:batch])
    before = sum(len(d) for d in x.dims[:axis])
    count = len(where.atoms) - outer

    def element(i: Indices) -> Expr:
        load = x.at((*i[:before], affine(0), *i[before + count :]))
        assert isinstance(load, Load)
        position = call("bounded", where.at((*i[:outer], *i[before : before + count])), extent)
        return Load(load.tensor, (*load.index[:slot], position, *load.index[slot + 1 :]), x.dtype)

    return ctx.define(x.dtype, dims, element)


def _addressable(ctx: Lowering, x: Value, axis: int) -> tuple[Value, int]:
    """The value such that `axis` is one atom and one subscript of a Load, and which one."""
    if len(x.dims[axis]) == 1:
        probes = tuple(symbol(f"probe{k}") for k in range(len(x.atoms)))
        load, probe = x.at(probes), probes[sum(len(d) for d in x.dims[:axis])]
        if isinstance(load, Load) and load.index.count(probe) == 1:
            mentions = [i for i in load.index if f"{probe}" in _names(i)]
            full = load.index.index(probe)
            whole = ctx.tensors[load.tensor].shape[full] == x.dims[axis][0]
            if len(mentions) == 1 and whole:
                return x, full
    dim = x.dims[axis]
    sources: list[values.View] = [lambda i: i] * x.rank
    sources[axis] = lambda i: values.unflatten(dim, i[0])
    dims = list(x.dims)
    dims[axis] = (x.shape[axis].to_affine(),)
    if not dim:
        sources[axis] = lambda i: ()
    return ctx.materialize(x.by_dim(dims, sources)), sum(len(d) for d in dims[:axis])


def _names(subscript: Affine | Expr) -> set[str]:
    if isinstance(subscript, Affine):
        return set(subscript.names())
    return {n for load in loads(subscript) for i in load.index for n in _names(i)}


@lowers("OneHot")
def _one_hot(ctx: Lowering, node: Node) -> Value:
    where, on, off = ctx.input(0), ctx.input(2).at(()), ctx.input(3).at(())
    depth = elements(ctx.host(1))[0]
    ctx.nonnegative(depth)
    axis = axis_of(ctx, node.attr_int("axis"), where.rank + 1)
    new = values.dim_of(depth)
    dims = [*where.dims[:axis], new, *where.dims[axis:]]
    before = sum(len(d) for d in where.dims[:axis])

    def element(i: Indices) -> Expr:
        own = index(values.flat_index(new, i[before : before + len(new)]), where.dtype)
        given = where.at((*i[:before], *i[before + len(new) :]))
        return call("select", call("eq", given, own, dtype="bool"), on, off)

    return ctx.define(node.dtypes[0], dims, element)
