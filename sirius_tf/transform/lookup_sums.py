# SPDX-License-Identifier: Apache-2.0
"""Sums over a row of a constant that data picks are picked from the sums over all rows.

    x[t, k] = E[ids[t], k];  y[t, j] = sum over k of x[t, k] * w[k, j],  E and w constant
    ->  y[t, j] = f[ids[t], j],  f[v, j] = sum over k of E[v, k] * w[k, j]

as with the gates of a recurrent layer behind an embedding, and so on with the next layer, if
nothing but the row decides it. A call then reads one number for each of these sums, and no weights.
"""

from __future__ import annotations

import math
from dataclasses import replace

from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.defuse import Uses, places, under_guards
from sirius_tf.ir.expr import Call, Expr, Index, Load, loads, names_in, rewrite, substitute, walk
from sirius_tf.ir.program import Iter, Program, Statement, Tensor
from sirius_tf.ir.rewrite import fresh, replace_loads
from sirius_tf.transform.fold import LARGEST_CONSTANT, evaluate
from sirius_tf.transform.simplify import simplify

MOST_PRODUCTS = 1 << 30  # added up at conversion for one tensor


def pick_sums(program: Program) -> Program:
    """The program with sums over rows picked, and sums of what was picked; all that are kept for
    it are no more than a folded constant may have elements."""
    room = LARGEST_CONSTANT
    while True:
        rows = _Rows(program, room)
        statements = tuple(rows.picked(s) for s in program.statements)
        made = tuple(t for t in rows.made.values() if t)
        if not made:
            return program
        tensors = (*program.tensors, *made)
        program = simplify(replace(program, tensors=tensors, statements=statements))
        room = rows.room


class _Rows:
    def __init__(self, program: Program, room: int) -> None:
        self.program = program
        self.uses = Uses(program)
        self.made: dict[tuple[object, ...], Tensor | None] = {}
        self.room = room

    def picked(self, s: Statement) -> Statement:
        """The statement with its sum picked, if that can be and there is room for all sums."""
        found = self.any_row(s)
        if found is None:
            return s
        row, general = found
        key = (general.value, general.iters, general.reduce)
        size = math.prod(i.extent.const for i in general.iters)
        if key not in self.made:
            if size > self.room:
                return s
            self.room -= size
            self.made[key] = self.sums(general)
        made = self.made[key]
        if made is None:
            return s
        index: tuple[Affine | Expr, ...] = (row, *general.index[1:])
        return replace(s, value=Load(made.name, index, made.dtype), reduce=None)

    def sums(self, s: Statement) -> Tensor | None:
        """The sums of a statement at every point of its iterators, as a constant; None where they
        cannot be computed."""
        name = fresh(f"{s.target}_{s.name}_rows", self.program.tensor)
        dtype = self.program.tensor[s.target].dtype
        target = Tensor(name, tuple(i.extent for i in s.iters), dtype)
        program = replace(self.program, tensors=(*self.program.tensors, target))
        return evaluate(program, (replace(s, target=name),))

    def any_row(self, s: Statement) -> tuple[Call, Statement] | None:
        """The row that a statement's sum is over, and the sum over any row, which the first
        iterator stands for; None if more than the row and iterators decides it."""
        if s.reduce is None or s.finish is not None:
            return None
        value = replace_loads(s.value, self.uses.definitions, lambda x: self.definition(s, x))
        found = {e for e in walk(value) if isinstance(e, Call) and e.fn == "bounded"}
        if len(found) != 1:
            return None
        (row,) = found
        count, any_row = row.args[1], symbol("row")
        if not isinstance(count, Index) or names_in(row) & {i.name for i in s.reduce.iters}:
            return None

        def of_any_row(expr: Expr) -> Expr | None:
            match expr:
                case Load(tensor, index, dtype):
                    plain = (i.value if isinstance(i, Index) else i for i in index)
                    return Load(tensor, tuple(plain), dtype)
            return Index(any_row, row.dtype) if expr == row else None

        value = rewrite(value, of_any_row)
        if any(self.program.tensor[load.tensor].role != "constant" for load in loads(value)):
            return None
        names = names_in(value)
        iters = (Iter("row", count.value), *(i for i in s.iters if i.name in names))
        index = tuple(symbol(i.name) for i in iters)
        general = replace(s, iters=iters, index=index, value=value)
        sizes = [i.extent for i in general.all_iters]
        if not names <= {i.name for i in general.all_iters} or not all(n.is_const for n in sizes):
            return None
        return (row, general) if math.prod(n.const for n in sizes) <= MOST_PRODUCTS else None

    def definition(self, s: Statement, load: Load) -> Expr:
        """The value of an element that `s` loads, or the Load where it is not known to be that."""
        source = self.uses.definitions[load.tensor]
        if source.reduce or source.demands:
            return load
        if not all(isinstance(i, Affine) for i in load.index):
            return load
        if source.guards and not under_guards(source, s, load):
            return load
        return substitute(source.value, places(source, load))
