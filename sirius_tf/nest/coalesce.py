# SPDX-License-Identifier: Apache-2.0
"""Two loops of a leaf become one where every access runs through both at one stride.

    y[h, w, c] = sum over k of x[h, w, k] * f[k, c]     14 x 14 pixels of a pointwise convolution
    y[p, c]    = sum over k of x[p, k] * f[k, c]        are 196 rows of a matrix

Blocks of rows then fit better, and vectors may be longer than the innermost dimension. Short rows
of an image are joined even where padding lies between them: each row of a block has its address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from math import prod

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Expr, Index, loads, names_in, walk
from sirius_tf.ir.polynomial import poly
from sirius_tf.ir.program import Program, Statement
from sirius_tf.ir.rewrite import substitute_in
from sirius_tf.nest.nodes import Box, Range
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.cpu_costs import LONG, SHORT
from sirius_tf.schedule.plan import Plan, stride
from sirius_tf.schedule.storage import Storage


@dataclass(frozen=True)
class Join:
    """`inner`, of which there were `size` values, goes on through those of `outer`."""

    outer: str
    inner: str
    size: int


@dataclass(frozen=True)
class Leaf:
    """A statement of which the iterators in `box` run, and the others are C arguments; `joins`:
    loops that were two, in order."""

    statement: Statement
    box: tuple[Range, ...]
    joins: tuple[Join, ...] = ()


def leaf_of(kernel: Scheduled, s: Statement, box: Box) -> Leaf:
    """The leaf of a box of a statement."""
    return coalesce(kernel.program, kernel.storage, kernel.plans[s.name], Leaf(s, box.ranges))


def coalesce(program: Program, storage: Storage, plan: Plan, leaf: Leaf) -> Leaf:
    """The leaf with as few loops as possible."""
    for outer, inner in permutations(leaf.box, 2):
        if outer.name in (plan.lanes, plan.rows) or not _whole(leaf.statement, inner):
            continue
        size, at = inner.size or 1, symbol(inner.name)
        if _uniform(program, storage, leaf.statement, outer.name, inner):
            places = {outer.name: affine(0)}
        elif inner.name == plan.rows and _worth_it(program, leaf.statement, outer.name, inner):
            places = {outer.name: at // size, inner.name: at % size}
        else:
            continue
        joined = Range(
            inner.name,
            None if outer.low is None else outer.low * size,
            None if outer.size is None else outer.size * size,
            outer.low == 0,
            None if outer.most is None else outer.most * size,
        )
        box = tuple(joined if r is inner else r for r in leaf.box if r is not outer)
        statement = _joined(leaf.statement, outer.name, inner.name, size, places)
        joins = (*leaf.joins, Join(outer.name, inner.name, size))
        return coalesce(program, storage, plan, Leaf(statement, box, joins))
    return leaf


def _whole(s: Statement, inner: Range) -> bool:
    """Whether the box holds all values of an iterator, whose number is known."""
    extent = next(i.extent for i in s.iters if i.name == inner.name)
    return inner.low == 0 and inner.size is not None and extent == affine(inner.size)


def _uniform(program: Program, storage: Storage, s: Statement, outer: str, inner: Range) -> bool:
    """Whether a step of `outer` is as far as all of `inner`, in every access."""
    names = {outer, inner.name}
    for node in (node for e in (s.value, s.finish) if e for node in walk(e)):
        if isinstance(node, Index) and names & set(node.value.names()):
            return False
    for tensor, index in s.accesses:
        slots = storage.window(program.tensor[tensor])
        if any(w is not None and _moves(i, names) for i, w in zip(index, slots, strict=True)):
            return False
        shape = storage.shape(program.tensor[tensor])
        far, near = (stride(index, shape, n) for n in (outer, inner.name))
        if far is None or near is None or far != near * poly(inner.size or 1):
            return False
    return True


def _moves(index: Affine | Expr, names: set[str]) -> bool:
    return not isinstance(index, Affine) or bool(names & set(index.names()))


def _worth_it(program: Program, s: Statement, outer: str, rows: Range) -> bool:
    """Whether blocks are too wide for the rows, sums long beside their addresses, and what the
    rows share the same after the end of a row."""
    shared = [load for load in loads(s.value) if rows.name not in names_in(load)]
    summed = prod(i.extent.evaluate(program.hints) for i in (s.reduce.iters if s.reduce else ()))
    changes = any(outer in names_in(load) for load in shared)
    return (rows.size or 0) <= SHORT and summed >= LONG and not changes


def _joined(
    s: Statement, outer: str, inner: str, size: int, places: Mapping[str, Affine]
) -> Statement:
    """The statement over the iterators but `outer`, whose values `inner` goes on through."""
    extent = next(i.extent for i in s.iters if i.name == outer)
    iters = [replace(i, extent=extent * size) if i.name == inner else i for i in s.iters]
    return replace(substitute_in(s, places), iters=tuple(i for i in iters if i.name != outer))
