# SPDX-License-Identifier: Apache-2.0
"""Loops that nothing but data ends begin only if all holds that must.

    go[0] = x > 0    ->    go[0] = x > 0 and held[] and ...      held[] = demand(y > 0, 3)

A call that is going to fail may have no data that ends such a loop. What must hold in an iteration
of the loop, or behind it, is left alone: a call that has failed leaves loops (codegen/block.py).
"""

from __future__ import annotations

from dataclasses import replace

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Expr, Load, call, substitute
from sirius_tf.ir.program import Iter, Program, Reduce, Statement, Tensor
from sirius_tf.ir.rewrite import fresh


def awaited(program: Program) -> Program:
    """The program with such loops waiting for what must hold and does not depend on them."""
    for go in [p.exit for p in program.params if p.exit and p.unlimited]:
        behind = _behind(program, go.tensor)
        for s in program.statements:
            if s.demands and s.target not in behind:
                program = _waiting(program, go.tensor, s)
    return program


def _behind(program: Program, tensor: str) -> set[str]:
    """A tensor, and all that depend on it."""
    found, more = set[str](), {tensor}
    while more:
        found |= more
        more = {
            s.target
            for s in program.statements
            if any(load.tensor in found for load in program.needs(s))
        } - found
    return found


def _waiting(program: Program, go: str, demand: Statement) -> Program:
    """The program with go[0] only if `demand` holds everywhere, or where it is run."""
    names = {i.name: symbol(f"r{k}") for k, i in enumerate(demand.iters)}
    index = tuple(i.substitute(names) for i in demand.index)
    holds: Expr = Load(demand.target, index, "bool")
    for guard in reversed(demand.guards):
        taken = substitute(guard.condition, names)
        holds = call("or", call("not", taken) if guard.holds else taken, holds)
    statements, tensors = list(program.statements), program.tensors
    if names:
        held = fresh(f"{go}_awaits_{demand.target}", program.tensor)
        iters = tuple(Iter(str(names[i.name]), i.extent.substitute(names)) for i in demand.iters)
        all_ = Statement(f"{demand.name}_{go}", (), held, (), holds, Reduce("and", iters))
        statements.append(all_)
        tensors = (*tensors, Tensor(held, (), "bool"))
        holds = Load(held, (), "bool")
    first: tuple[Affine, ...] = (affine(0),)
    statements = [
        replace(s, value=call("and", s.value, holds)) if (s.target, s.index) == (go, first) else s
        for s in statements
    ]
    return replace(program, statements=tuple(statements), tensors=tensors)
