# SPDX-License-Identifier: Apache-2.0
"""Control that depends on data: where in the loops exits and guards are tested.

A guard is tested as far out as what it reads is the same: around a phase, its barrier included, or
around a whole loop, rather than around every leaf.
"""

from __future__ import annotations

from dataclasses import replace

from sirius_tf.errors import VerifyError
from sirius_tf.ir import program as ir
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Load
from sirius_tf.ir.program import Program
from sirius_tf.nest.nodes import (
    Block,
    Guard,
    Loop,
    LoopNest,
    Run,
    When,
    map_parts,
    parts_of,
    walk,
)

Guards = tuple[ir.Guard, ...]


def decide(program: Program, nest: LoopNest) -> LoopNest:
    """The nest with its exits and guards tested."""
    control = _Control(program)
    for trips, go in program.exits.items():
        nest = control.leave(nest, trips, go)
        count = sum(isinstance(n, Loop) and n.trips == trips for n in walk(nest))
        if count != 1:
            raise VerifyError(f"the loop of {trips}, which {go.tensor} ends, is {count} loops")
    guards, nest = control.hoist(nest)
    return _when(guards, nest)


class _Control:
    def __init__(self, program: Program) -> None:
        self.statements = {s.name: s for s in program.statements}

    def leave(self, nest: LoopNest, trips: str, go: Load) -> LoopNest:
        """The nest with the loop that defines go[t + 1] run while go[t] holds."""
        if isinstance(nest, Loop) and go.tensor in self.written(nest):
            upper = nest.upper.terms == (symbol(trips),) and nest.lower.terms == (affine(0),)
            if not upper or nest.step != 1 or nest.parallel:
                raise VerifyError(
                    f"the loop of {trips}, which {go.tensor} ends, does not run from 0 to its end, "
                    "one by one and in order"
                )
            return replace(nest, go=replace(go, index=(symbol(nest.var),)), trips=trips)
        return map_parts(nest, lambda part: self.leave(part, trips, go))

    def written(self, nest: LoopNest) -> set[str]:
        """The tensors that are defined inside."""
        return {self.statements[n.statement].target for n in walk(nest) if isinstance(n, Run)}

    def hoist(self, nest: LoopNest) -> tuple[Guards, LoopNest]:
        """The guards that all of `nest` has in common, and the nest without them."""
        match nest:
            case Run(statement, iters):
                s = self.statements[statement]
                at = {i.name: v for i, v in zip(s.iters, iters, strict=True)}
                return tuple(_placed(g, at) for g in s.guards), nest
            case Block(parts):
                return self.block(parts)
            case Guard(conditions, body, otherwise) if otherwise:
                (inner, then), (other, rest) = self.hoist(body), self.hoist(otherwise)
                common = tuple(g for g in inner if g in other)
                left, right = _without(inner, common), _without(other, common)
                return common, Guard(conditions, _when(left, then), _when(right, rest))
        (body,) = parts_of(nest)
        inner, body = self.hoist(body)
        bound = {nest.var} if isinstance(nest, Loop) else set[str]()
        made = self.written(nest)
        kept = tuple(
            g for g in inner if _names(g).isdisjoint(bound) and g.condition.tensor not in made
        )
        return kept, map_parts(nest, lambda part: _when(_without(inner, kept), body))

    def block(self, parts: tuple[LoopNest, ...]) -> tuple[Guards, LoopNest]:
        """Neighbours that have the same guards left are tested once."""
        if not parts:
            return (), Block(parts)
        made = self.written(Block(parts))
        found = [self.hoist(part) for part in parts]
        common = tuple(
            g
            for g in found[0][0]
            if all(g in guards for guards, _ in found) and g.condition.tensor not in made
        )
        grouped: list[tuple[Guards, list[LoopNest]]] = []
        for guards, part in found:
            left = _without(guards, common)
            if grouped and grouped[-1][0] == left:
                grouped[-1][1].append(part)
            else:
                grouped.append((left, [part]))
        joined = tuple(
            _when(guards, some[0] if len(some) == 1 else Block(tuple(some)))
            for guards, some in grouped
        )
        return common, joined[0] if len(joined) == 1 else Block(joined)


def _when(guards: Guards, body: LoopNest) -> LoopNest:
    return When(guards, body) if guards else body


def _without(guards: Guards, taken: Guards) -> Guards:
    return tuple(g for g in guards if g not in taken)


def _placed(guard: ir.Guard, at: dict[str, Affine]) -> ir.Guard:
    load = guard.condition
    index = tuple(i.substitute(at) if isinstance(i, Affine) else i for i in load.index)
    return replace(guard, condition=replace(load, index=index))


def _names(guard: ir.Guard) -> set[str]:
    return {n for i in guard.condition.index if isinstance(i, Affine) for n in i.names()}
