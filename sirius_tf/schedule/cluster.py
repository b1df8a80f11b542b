# SPDX-License-Identifier: Apache-2.0
"""Clusters by themselves: what makes two of them the same, and a program of one alone.

Tile sizes that were measured for a cluster are found again, in this program or in another one, by
its key; what is measured is the program of its statements alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.dtypes import zero
from sirius_tf.ir.expr import Call, Expr, Load, index, loads, names_in, rewrite
from sirius_tf.ir.program import Iter, Output, Param, Program, Statement, Tensor
from sirius_tf.ir.rewrite import map_iters, rename_tensors, substitute_in

Loop = Mapping[str, Affine]  # one loop of a cluster: for each statement an iterator, or a multiple
Tilings = Callable[[str], Sequence[int] | None]
"""Measured tile sizes, one for each loop of a cluster, by its key; None where there are none."""

SIZES = "sizes_"  # the input of a cluster alone that holds all parameters


def iterator(value: Affine) -> str:
    """The iterator of a statement's value of a loop."""
    ((name, _),) = value.terms
    return str(name)


def grain(loop: Loop) -> int:
    """The number of iterations of a loop that belong together: tile sizes are multiples of it."""
    return max(value.coefficient(iterator(value)) for value in loop.values())


@dataclass(frozen=True)
class Cluster:
    """Statements run as one phase under `loops`, the parallel loops that all of them share."""

    statements: tuple[str, ...]
    loops: tuple[Loop, ...]


@dataclass(frozen=True)
class Tiled:
    """A cluster inside of the graph's loops `entered`, outer ones first, and its tiles.

    `sizes` are those of tiles along the loops of the cluster, `extents` those of the loops on the
    samples; sizes must be multiples of `units`.
    """

    cluster: Cluster
    entered: tuple[str, ...]
    key: str
    sizes: tuple[int, ...]
    extents: tuple[int, ...]
    units: tuple[int, ...]


def key(uses: Uses, cluster: Cluster, entered: Collection[str], workers: int) -> str:
    """A hash of all that decides which tiling is best, but for the processor and the compiler.

    Statements with their shapes, sizes on the samples, element types and accesses, the loops that
    they share, and those of the graph that they are in. No names, no weights: the layers of a model
    that are alike have one key.
    """
    digest = hashlib.sha256(repr(workers).encode())
    for part in _parts(uses, cluster, entered):
        digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()


def _parts(uses: Uses, cluster: Cluster, entered: Collection[str]) -> Iterator[object]:
    program, statements = uses.program, _statements(uses.program, cluster)
    tensors = {name: f"T{k}" for k, name in enumerate(_accessed(statements))}
    found = {name for s in statements for name in _names(s)}
    found |= {n for t in tensors for extent in program.tensor[t].shape for n in extent.names()}
    params = [p for p in program.params if p.name in found]
    names = {p.name: symbol(f"P{k}") for k, p in enumerate(params)}
    yield from ((p.minimum, p.hint, p.exit is not None) for p in params)
    for name in tensors:
        t = program.tensor[name]
        kind = t.role if t.role == "constant" else _leaves(uses, cluster, name)
        yield tuple(e.substitute(names) for e in t.shape), t.dtype, kind
    for s in statements:
        yield _renamed(s, names, tensors)
        place = {i.name: k for k, i in enumerate(s.iters)}
        values = [loop[s.name] for loop in cluster.loops]
        yield [(place[iterator(v)], v.coefficient(iterator(v))) for v in values]
        yield [i in entered for i in place]


def fits(sizes: Sequence[int], units: Sequence[int]) -> bool:
    """Whether these can be tile sizes: one for each loop, and multiples of its unit."""
    pairs = zip(sizes, units, strict=False)
    return len(sizes) == len(units) and all(n > 0 and n % unit == 0 for n, unit in pairs)


def _statements(program: Program, cluster: Cluster) -> list[Statement]:
    by_name = {s.name: s for s in program.statements}
    return [by_name[name] for name in cluster.statements]


def _accessed(statements: Sequence[Statement]) -> list[str]:
    """Tensors in the order of their first access."""
    return list(dict.fromkeys(tensor for s in statements for tensor, _ in s.accesses))


def _names(s: Statement) -> Iterator[str]:
    """Every iterator and parameter of a statement; may repeat."""
    for place in (*s.index, *(i.extent for i in s.all_iters)):
        yield from place.names()
    for expr in (s.value, *s.loads):
        yield from names_in(expr)


def _leaves(uses: Uses, cluster: Cluster, name: str) -> bool:
    """Whether statements outside of a cluster, or callers, define or want a tensor, too."""
    others = (*uses.writers.get(name, ()), *uses.readers.get(name, ()))
    if uses.program.tensor[name].role != "temp" or name in uses.program.conditions:
        return True
    return any(s.name not in cluster.statements for s in others)


def _renamed(s: Statement, names: Mapping[str, Affine], tensors: Mapping[str, str]) -> Statement:
    """The statement with iterators numbered, and other names for parameters and tensors."""
    names = {**names, **{i.name: symbol(f"i{k}") for k, i in enumerate(s.all_iters)}}
    s = rename_tensors(substitute_in(s, names), tensors)
    s = map_iters(s, lambda i: Iter(str(names[i.name]), i.extent, i.loop))
    return replace(s, name="", origin=())


def runs_alone(program: Program, cluster: Cluster) -> bool:
    """Whether its statements read inside of their tensors on the samples, be they run there or not:
    on a branch that is not taken sizes need not fit."""
    return all(not s.guards or _within(program, s) for s in _statements(program, cluster))


def _within(program: Program, s: Statement) -> bool:
    extents = {i.name: i.extent.evaluate(program.hints) for i in s.all_iters}
    for load in loads(s.value):
        for i, extent in zip(load.index, program.tensor[load.tensor].shape, strict=True):
            names = list(dict.fromkeys(i.names())) if isinstance(i, Affine) else []
            own = [name for name in names if name in extents]
            if not isinstance(i, Affine) or any(extents[name] <= 0 for name in own):
                continue
            points: Any = dict(zip(own, np.indices([extents[n] for n in own]), strict=True))
            where = np.asarray(i.evaluate({**program.hints, **points}))
            if where.min() < 0 or where.max() >= extent.evaluate(program.hints):
                return False
    return True


def alone(uses: Uses, cluster: Cluster, name: str) -> Program:
    """The program `name` of a cluster's statements: what others make is an input, what others want
    is an output, and all parameters are elements of one more input, the last.

    Nothing is left to data: guards hold, as does what must, and loops run as often as on the
    samples. Where a cluster reads a tensor of which it and others each define a part, theirs is
    zero here.
    """
    program = uses.program
    statements = [
        replace(s, guards=(), value=rewrite(s.value, _condition))
        for s in _statements(program, cluster)
    ]
    written = {s.target for s in statements}
    shared = written & {load.tensor for s in statements for load in s.loads}
    others = [s for s in program.statements if s.name not in cluster.statements]
    statements += [_zeros(s) for s in others if s.target in shared]

    def tensor(t: Tensor) -> Tensor:
        if t.name not in written:
            return t if t.role == "constant" else replace(t, role="input")
        return replace(t, role="output" if _leaves(uses, cluster, t.name) else "temp")

    tensors = [tensor(program.tensor[name]) for name in _accessed(statements)]
    inputs = [t.name for t in tensors if t.role == "input"]
    params = program.params
    if params:
        tensors.append(Tensor(SIZES, (affine(len(params)),), "int64", "input"))
        inputs.append(SIZES)
    return Program(
        name,
        tuple(_given(p, k) for k, p in enumerate(params)),
        (),
        program.context,
        tuple(tensors),
        tuple(statements),
        tuple(inputs),
        tuple(Output(t.name, tuple(map(index, t.shape))) for t in tensors if t.role == "output"),
    )


def _condition(expr: Expr) -> Expr | None:
    return expr.args[0] if isinstance(expr, Call) and expr.fn == "demand" else None


def _zeros(s: Statement) -> Statement:
    """The statement with zero as its value."""
    return Statement(s.name, s.iters, s.target, s.index, zero(s.value.dtype))


def _given(p: Param, number: int) -> Param:
    """The parameter as an element of an input."""
    return replace(p, value=Load(SIZES, (affine(number),), "int64"), exit=None)
