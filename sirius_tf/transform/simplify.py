# SPDX-License-Identifier: Apache-2.0
"""Program -> equal Program with less in it: classical whole-program optimizations.

    y[i] = relu(x[i]);  z[i] = y[i] + 1        ->  z[i] = relu(x[i]) + 1           inlining
    s[c] * rsqrt(v[c] + eps),  s and v constant  ->  f[c], computed here           folding
    out[i] = y[i]                              ->  y is the output                 forwarding

No floating-point operation is reordered; a division by a power of two becomes a product, exactly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.defuse import Uses, inside, places, under_guards
from sirius_tf.ir.dtypes import is_float
from sirius_tf.ir.expr import Call, Const, Expr, Index, Load, loads, rewrite, substitute, walk
from sirius_tf.ir.program import Iter, Program, Statement
from sirius_tf.ir.rewrite import (
    map_exprs,
    map_loads,
    map_statements,
    rename_loads,
    rename_tensors,
    replace_loads,
    substitute_in,
)
from sirius_tf.transform.fold import fold_subtrees, fold_tensors, total

LARGEST_EXPRESSION = 96  # nodes; inlining stops there
LARGEST_UNTAKEN = 8  # nodes of a branch that are evaluated whether it is taken or not


def simplify(program: Program) -> Program:
    """The program after forwarding, folding, sharing and inlining, until nothing changes."""
    program = map_statements(
        _unify_sizes(program), lambda s: map_exprs(s, lambda e: rewrite(e, _arithmetic))
    )
    program = _forward_outputs(program)
    while True:
        before = program
        program = _inline(_share(fold_subtrees(fold_tensors(program))))
        program = _drop_dead(_forward_outputs(program))
        if program.statements == before.statements:
            return program


def points(iters: Iterable[Iter], hints: Mapping[str, int]) -> int:
    """Size of a box on the sample inputs."""
    return math.prod(i.extent.evaluate(hints) for i in iters)


def _unify_sizes(program: Program) -> Program:
    """Sizes that a check on entry makes equal get one name."""
    order = {p.name: k for k, p in enumerate(program.params)}
    same: dict[str, Affine] = {}
    for check in program.checks:
        match check.condition:
            case Call("eq", (Index(a, _), Index(b, _)), _):
                a, b = a.substitute(same), b.substitute(same)
                names = [s for s in (a, b) if s.terms and s == symbol(str(s.terms[0][0]))]
                old = max(names, key=lambda s: order.get(str(s), -1), default=None)
                if old is None or a == b or str(old) not in order:
                    continue
                renamed = {str(old): b if old == a else a}
                same = {n: s.substitute(renamed) for n, s in same.items()} | renamed
    tensors = tuple(
        replace(t, shape=tuple(e.substitute(same) for e in t.shape)) for t in program.tensors
    )
    return map_statements(replace(program, tensors=tensors), lambda s: substitute_in(s, same))


def _arithmetic(expr: Expr) -> Expr | None:
    """The same value from a cheaper function."""
    match expr:
        case Call("div", (x, Const(value)), dtype) if is_float(dtype) and value:
            if math.frexp(abs(float(value)))[0] == 0.5:  # a power of two
                return (
                    _arithmetic(product := Call("mul", (x, Const(1.0 / value, dtype)), dtype))
                    or product
                )
        case Call("mul", (x, Const(value)), dtype) | Call("mul", (Const(value), x), dtype):
            return x if value == 1 and x.dtype == dtype else None
        case Call("max" | "min" as fn, (x, Const(value)), dtype) if value == value:
            return Call(fn, (Const(value, dtype), x), dtype)  # a NaN can then only be the other
        case Call("pow", (x, Const(value)), dtype) if value in (1.0, 2.0):
            return x if value == 1.0 else Call("mul", (x, x), dtype)
    return None


# Outputs


def _forward_outputs(program: Program) -> Program:
    """A temporary that is copied to an output as it is becomes the output."""
    uses = Uses(program)
    for s in program.statements:
        target, value = program.tensor[s.target], s.value
        if target.role != "output" or s.reduce or not isinstance(value, Load):
            continue
        source = program.tensor[value.tensor]
        if value.index != s.index or source.role != "temp" or source.shape != target.shape:
            continue
        if source.name in program.conditions:
            continue
        if len(uses.writers[s.target]) == 1 and s.target not in uses.readers:
            names = {source.name: target.name}
            kept = (other for other in program.statements if other is not s)
            tensors = (t for t in program.tensors if t is not source)
            statements = tuple(rename_tensors(other, names) for other in kept)
            program = replace(program, tensors=tuple(tensors), statements=statements)
            return _forward_outputs(program)
    return program


# Equal and dead statements


def _share(program: Program) -> Program:
    """Share equal definitions: of temporaries that are defined alike, readers read the first."""
    seen: dict[tuple[object, ...], str] = {}
    same: dict[str, str] = {}
    for name, s in Uses(program).definitions.items():
        key = (s.iters, s.value, s.reduce, program.tensor[name].dtype, s.guards)
        if (first := seen.setdefault(key, name)) != name:
            same[name] = first
    return map_statements(program, lambda s: rename_loads(s, same))


def _drop_dead(program: Program) -> Program:
    """Only what an output needs, and what must hold; parameters and checks stay, they are part of
    the interface.

    Trip counts that data decides are no part of it: they go with their loops.
    """
    needed = {o.tensor for o in program.outputs}
    needed |= {s.target for s in program.statements if s.demands}
    writers = Uses(program).writers
    stack = list(needed)
    while stack:
        for s in writers.get(stack.pop(), ()):
            for load in program.needs(s):
                if load.tensor not in needed:
                    needed.add(load.tensor)
                    stack.append(load.tensor)
    statements = tuple(s for s in program.statements if s.target in needed)
    entry = {load.tensor for p in program.params for load in loads(p.value)}
    kept = needed | entry | set(program.inputs)
    dead = {trips for trips, go in program.exits.items() if go.tensor not in kept}
    return replace(
        program,
        params=tuple(p for p in program.params if p.name not in dead),
        context=tuple(fact for fact in program.context if dead.isdisjoint(fact.names())),
        statements=statements,
        tensors=tuple(t for t in program.tensors if t.name in kept),
    )


# Inlining


def _inline(program: Program) -> Program:
    """Substitute a definition into its reader where that computes nothing twice.

    One sweep in order of definition, so that chains collapse.
    """
    uses = Uses(program)
    inlined = {
        name: s
        for name, s in uses.definitions.items()
        if s.reduce is None and not s.demands and _worth_inlining(program, s, _sites(uses, s))
    }
    values: dict[str, Expr] = {}

    def definition(load: Load) -> Expr:
        source = inlined[load.tensor]
        if load.tensor not in values:
            values[load.tensor] = replace_loads(source.value, inlined, definition)
        return substitute(values[load.tensor], places(source, load))

    while may_fail := [
        name
        for name, s in inlined.items()
        if s.guards
        and not _harmless(program, map_loads(s, inlined, definition))
        and not all(under_guards(s, *site) for site in _sites(uses, s))
    ]:
        for name in may_fail:
            del inlined[name]
        values.clear()
    statements = []
    for s in program.statements:
        new = map_loads(s, inlined, definition)
        if _size(new.value) > max(LARGEST_EXPRESSION, _size(s.value)):
            new = s  # its sources are not dead then, and stay
        elif new.value != s.value:
            origin = [
                n
                for load in loads(s.value)
                if load.tensor in inlined
                for n in inlined[load.tensor].origin
            ]
            new = replace(new, origin=tuple(dict.fromkeys((*s.origin, *origin))))
        statements.append(new)
    return replace(program, statements=tuple(statements))


def _harmless(program: Program, s: Statement) -> bool:
    """Whether it can be run where its guards do not hold."""
    return total(s.value) and inside(program, s)


def _size(expr: Expr) -> int:
    return sum(1 for _ in walk(expr))


def _sites(uses: Uses, s: Statement) -> list[tuple[Statement, Load]]:
    """The readers of what a statement defines, and what of it they load."""
    return [
        (reader, load)
        for reader in uses.readers.get(s.target, ())
        for load in dict.fromkeys(loads(reader.value))
        if load.tensor == s.target
    ]


def _worth_inlining(
    program: Program, s: Statement, sites: Sequence[tuple[Statement, Load]]
) -> bool:
    if not sites:
        return False
    if any(not isinstance(i, Affine) for _, load in sites for i in load.index):
        return False
    if not any(isinstance(e, Call) for e in walk(s.value)):
        return True  # a copy
    if s.guards and not all(_guarded_alike(s, r, load) for r, load in sites):
        return False
    readers = list({reader.name: reader for reader, _ in sites}.values())
    if len(readers) > 1:
        return False
    occurrences = Counter(load for load in loads(readers[0].value) if load.tensor == s.target)
    if max(occurrences.values()) > 2 and _size(s.value) > 8:
        return False
    reads = len(sites) * points(readers[0].all_iters, program.hints)
    return reads <= points(s.iters, program.hints) and not _injects_index(s, readers[0])


def _guarded_alike(s: Statement, reader: Statement, load: Load) -> bool:
    """Whether a guarded definition is run for nothing in no reader, or costs next to nothing."""
    cheap = total(s.value) and _size(s.value) <= LARGEST_UNTAKEN
    return cheap or under_guards(s, reader, load)


def _injects_index(s: Statement, reader: Statement) -> bool:
    """Whether a data-dependent subscript would come into a reduction's inner loop."""
    inner = any(isinstance(e, Call) and e.fn == "bounded" for e in walk(s.value))
    return inner and reader.reduce is not None
