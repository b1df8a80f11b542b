# SPDX-License-Identifier: Apache-2.0
"""Versions: what a loop carries, and the temporaries it becomes within an iteration, as one array.

    y[t, i] = select(p[t, i], u[t, i], x[t, i])        x[2 t + 1, i] = select(..., x[2 t, i])
    x[t + 1, i] = select(q[t, i], v[t, i], y[t, i]) -> x[2 t + 2, i] = select(..., x[2 t + 1, i])

Program -> Program. Where each is the last with parts replaced, storage.py then finds how many of
them must be kept, and that is one if all reads of a version come before the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.expr import Load
from sirius_tf.ir.program import Program, Statement, Tensor
from sirius_tf.ir.rewrite import along, map_statements, move
from sirius_tf.schedule.inplace import passes_on

Place = tuple[str, int, int]  # y[t] is x[count * t + number]: x, count and number


def number_versions(program: Program) -> Program:
    """The program with one array for each chain of versions."""
    places: dict[str, Place] = {}
    uses = Uses(program)
    for s in program.statements:
        chain = _chain(program, uses, s)
        for number, name in enumerate(chain):
            places[name] = (s.target, len(chain), number)
    return _placed(program, places) if places else program


def _chain(program: Program, uses: Uses, last: Statement) -> list[str]:
    """x, y, z, ... if `last` makes x[t + 1] from the last of them, else nothing."""
    t = symbol(last.iters[0].name) if last.iters and last.iters[0].loop else None
    if t is None or last.index[0] != t + 1 or last.target in program.conditions:
        return []
    place = (t, *last.index[1:])
    chain = _before(uses, last, last.target, place)
    return chain if len(chain) > 1 and _only_inside(program, uses, last, chain) else []


def _before(uses: Uses, s: Statement, carried: str, place: tuple[Affine, ...]) -> list[str]:
    """From what is carried on, the versions at a place of which the last is what `s` passes on."""
    for old in (load for load in s.loads if load.index == place and passes_on(s, load)):
        if old.tensor == carried:
            return [carried]
        made = uses.definitions.get(old.tensor)
        if made is not None and not made.guards:
            own = {i.name: p for i, p in zip(made.iters, place, strict=True)}
            if all(symbol(name) == p for name, p in own.items()):
                chain = _before(uses, made, carried, place)
                if chain:
                    return [*chain, old.tensor]
    return []


def _only_inside(program: Program, uses: Uses, last: Statement, chain: list[str]) -> bool:
    """Whether in an iteration only that reads versions which the next one needs: else all are
    kept, and there would be more of them."""
    needed, stack = {last.name}, [last]
    while stack:
        for load in program.needs(stack.pop()):
            new = [s for s in uses.writers.get(load.tensor, ()) if s.name not in needed]
            needed |= {s.name for s in new}
            stack += new
    readers = {s.name: s for name in chain for s in uses.readers.get(name, ())}
    return all(s.name in needed or last.iters[0] not in s.iters for s in readers.values()) and all(
        isinstance(index[0], Affine)
        and {i.name for i in s.all_iters}.intersection(index[0].names()) <= {last.iters[0].name}
        for s in readers.values()
        for name, index in s.accesses
        if name in chain
    )


def _placed(program: Program, places: Mapping[str, Place]) -> Program:
    """The program with the tensors where they are told to be."""

    def version(load: Load) -> Load:
        array, count, number = places[load.tensor]
        return replace(along(load, 0, lambda t: t * count + number), tensor=array)

    def tensor(t: Tensor) -> Tensor:
        _, count, _ = places[t.name]
        return replace(t, shape=((t.shape[0] - 1) * count + 1, *t.shape[1:]))

    kept = (t for t in program.tensors if t.name not in places or places[t.name][0] == t.name)
    tensors = tuple(tensor(t) if t.name in places else t for t in kept)
    program = replace(program, tensors=tensors)
    return map_statements(program, lambda s: move(s, places, version))
