# SPDX-License-Identifier: Apache-2.0
"""Epilogues: what the only reader of a reduction does with each element becomes part of the
reduction.

    c[i, j] = sum over k of a[i, k] * b[k, j];  y[i, j] = max(c[i, j] + d[j], 0)
    ->  y[i, j] = max(y[i, j] + d[j], 0),  y[i, j] = sum over k of a[i, k] * b[k, j]

The sum is then never in memory. Only short functions are worth it: their code is there once for
every register of a block. A sum that can leave a loop (x[t] W for all t) does not join what cannot.
"""

from __future__ import annotations

from dataclasses import replace

from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.expr import Call, Load, loads, walk
from sirius_tf.ir.functions import FUNCTIONS
from sirius_tf.ir.program import Iter, Program, Statement
from sirius_tf.ir.rewrite import replace_loads, substitute_in

LARGEST = 24  # nodes of an expression


def finish_reductions(program: Program) -> Program:
    """The program with pointwise readers of reductions made part of them."""
    uses = Uses(program)
    finished: dict[str, Statement] = {}  # by the name of the reader that goes
    gone: set[str] = set()
    for s in program.statements:
        readers = uses.readers.get(s.target, [])
        if s.reduce is None or s.target not in uses.definitions or len(readers) != 1:
            continue
        (reader,) = readers
        leaves = any(i.loop for i in s.iters) and _recurs(uses, reader) != _recurs(uses, s, reader)
        made = None if leaves or reader.name in finished else _finished(program, s, reader)
        if made:
            finished[reader.name] = made
            gone.add(s.name)
    kept = tuple(finished.get(s.name, s) for s in program.statements if s.name not in gone)
    read = {t for s in kept for t in (s.target, *(load.tensor for load in s.loads))}
    dropped = {s.target for s in program.statements if s.name in gone} - read
    tensors = tuple(t for t in program.tensors if t.name not in dropped)
    return replace(program, statements=kept, tensors=tensors)


def _recurs(uses: Uses, s: Statement, through: Statement | None = None) -> bool:
    """Whether a statement needs what it, or the one it goes `through`, has defined before."""
    target = (through or s).target
    seen, stack = set[str](), [s]
    while stack:
        for name in {load.tensor for load in stack.pop().loads} - seen:
            seen.add(name)
            stack += uses.writers.get(name, [])
    return target in seen


def _finished(program: Program, s: Statement, reader: Statement) -> Statement | None:
    """The reduction with what its reader does at each of its elements, if that is all it does."""
    found = {load for load in loads(reader.value) if load.tensor == s.target}
    nodes = list(walk(reader.value))
    calls = [e for e in nodes if isinstance(e, Call)]
    short = all(FUNCTIONS[e.fn].short and e.dtype in ("float32", "bool") for e in calls)
    dtypes = {program.tensor[t].dtype for t in (s.target, reader.target)}
    if reader.reduce or len(found) != 1 or len(nodes) > LARGEST or not short:
        return None
    if dtypes != {"float32"} or s.guards != reader.guards or reader.target in program.conditions:
        return None
    names = _renaming(s, reader, next(iter(found)))
    if names is None:
        return None
    reader = substitute_in(reader, names)
    if any(load == reader.result for load in loads(reader.value)):
        return None
    return replace(
        s,
        name=reader.name,
        target=reader.target,
        index=reader.index,
        finish=replace_loads(reader.value, {s.target}, lambda _: reader.result),
        origin=tuple(dict.fromkeys((*reader.origin, *s.origin))),
    )


def _renaming(s: Statement, reader: Statement, load: Load) -> dict[str, Affine] | None:
    """The iterators of `s` by those of its reader, if both run over the same box in one order."""
    own: dict[str, Iter] = {i.name: i for i in s.iters}
    names: dict[str, Affine] = {}
    by_name = {i.name: i for i in reader.iters}
    for place, i in zip(load.index, s.iters, strict=True):
        there = by_name.get(str(place))
        if there is None or (there.extent, there.loop) != (i.extent, i.loop):
            return None
        if i.loop and there.name != i.name:
            return None
        names[there.name] = symbol(i.name)
    inner = {i.name for i in s.reduce.iters} if s.reduce else set()
    return names if len(names) == len(by_name) == len(own) and not inner & set(own) else None
