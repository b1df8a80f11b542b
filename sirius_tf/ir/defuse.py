# SPDX-License-Identifier: Apache-2.0
"""Writers and readers of each tensor of a Program, and replacement of the values of statements."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Expr, Load, loads
from sirius_tf.ir.program import Program, Statement


class Uses:
    """The statements that define and that read each tensor of a program."""

    def __init__(self, program: Program) -> None:
        self.program = program

    @cached_property
    def writers(self) -> dict[str, list[Statement]]:
        """The statements that define each tensor."""
        found: dict[str, list[Statement]] = {}
        for s in self.program.statements:
            found.setdefault(s.target, []).append(s)
        return found

    @cached_property
    def readers(self) -> dict[str, list[Statement]]:
        """The statements that read each tensor."""
        found: dict[str, list[Statement]] = {}
        for s in self.program.statements:
            for name in dict.fromkeys(load.tensor for load in s.loads):
                found.setdefault(name, []).append(s)
        return found

    @cached_property
    def definitions(self) -> dict[str, Statement]:
        """The statement of each temporary that a single one defines as a function of its index."""
        return {
            name: only[0]
            for name, only in self.writers.items()
            if len(only) == 1
            and self.program.tensor[name].role == "temp"
            and name not in self.program.conditions
            and self._whole(only[0])
        }

    def _whole(self, s: Statement) -> bool:
        """Whether all elements are defined, but for iterations after a loop's exit."""
        shape = self.program.tensor[s.target].shape
        if s.index != tuple(symbol(i.name) for i in s.iters):
            return False
        pairs = zip(s.iters, shape, strict=True)
        return all(i.extent == n or str(i.extent) in self.program.exits for i, n in pairs)


def inside(program: Program, s: Statement) -> bool:
    """Whether it is plain that all subscripts of a statement's value stay within their tensors.

    Where sizes must fit for that, it is run under a guard.
    """
    minima = {p.name: p.minimum for p in program.params}
    last = {i.name: i.extent - 1 for i in s.all_iters}

    def plain(value: Affine) -> bool:
        """Whether an expression of parameters is never negative."""
        known = all(c > 0 and isinstance(n, str) and minima[n] >= 0 for n, c in value.terms)
        return known and value.evaluate(minima) >= 0

    def least(value: Affine) -> Affine:
        """Its value where the iterators are such that it is least."""
        ends = {n: last[n] if value.coefficient(n) < 0 else affine(0) for n in last}
        return value.substitute(ends)

    return all(
        plain(least(i)) and plain(least(extent - 1 - i))
        for load in loads(s.value)
        for i, extent in zip(load.index, program.tensor[load.tensor].shape, strict=True)
        if isinstance(i, Affine)
    )


def places(s: Statement, load: Load) -> dict[str, Affine]:
    """The iterators of a definition at the element of it that is loaded."""
    subscripts = [i for i in load.index if isinstance(i, Affine)]
    return dict(zip((i.name for i in s.iters), subscripts, strict=True))


def under_guards(s: Statement, reader: Statement, load: Load) -> bool:
    """Whether what a statement defines under guards is read under the same ones."""
    loops = {n for g in s.guards for i in g.condition.index for n in _affine_names(i)}
    at = places(s, load)
    return set(s.guards) <= set(reader.guards) and all(at[n] == symbol(n) for n in loops)


def _affine_names(value: Affine | Expr) -> Iterator[str]:
    return value.names() if isinstance(value, Affine) else iter(())
