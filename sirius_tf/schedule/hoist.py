# SPDX-License-Identifier: Apache-2.0
"""Loop distribution: a loop is left by all that it does not carry."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise

from sirius_tf.ir.program import Program
from sirius_tf.ir.rewrite import map_iters, map_statements
from sirius_tf.ir.scc import components
from sirius_tf.poly.dependence import Flow


def release(program: Program, flows: Sequence[Flow]) -> Program:
    """The program with loops only where they carry something.

    x[t] W for all t is a contraction like any other: t may run along rows, lanes or workers.
    """
    names = [s.name for s in program.statements]
    edges = [(f.source, f.sink) for f in flows]
    whole = whole_loops(program, names) + demanded(program, names, edges)
    found = components(names, edges + whole)
    cyclic = {f.source for f in flows if f.source == f.sink}
    cyclic.update(n for component in found if len(component) > 1 for n in component)
    return map_statements(
        program,
        lambda s: s if s.name in cyclic else map_iters(s, lambda i: replace(i, loop=False)),
    )


def whole_loops(
    program: Program, names: Sequence[str], hoist: bool = True
) -> list[tuple[str, str]]:
    """Edges that keep the statements of some loops together: of all loops, unless `hoist`.

    What leaves a loop needs all iterations at once of what it reads there: there is no memory for
    those of a loop whose length nothing bounds.
    """
    endless = {p.name for p in program.params if p.exit and p.unlimited}
    inside: dict[str, list[str]] = {}
    kept = set(names)
    for s in program.statements:
        for i in s.iters:
            if s.name in kept and i.loop and (not hoist or str(i.extent) in endless):
                inside.setdefault(i.name, []).append(s.name)
    return [pair for group in inside.values() for pair in ring(group)]


def demanded(
    program: Program,
    names: Sequence[str],
    edges: Sequence[tuple[str, str]],
    entered: Collection[str] = (),
) -> list[tuple[str, str]]:
    """Edges that keep in a recurrence what is there only to tell whether something holds.

    Behind the loop it would need all iterations at once of what is carried.
    """
    statements = {s.name: s for s in program.statements}
    only = {n for n in names if statements[n].demands}
    if not only:
        return []
    readers = dict[str, set[str]]()
    for source, sink in edges:
        readers.setdefault(source, set()).add(sink)
    while more := {n for n in names if n in readers and readers[n] <= only} - only:
        only |= more
    inside = {n: {i.name for i in statements[n].iters if i.loop} - {*entered} for n in names}
    kept = {n for group in components(names, edges) if len(group) > 1 for n in group}
    kept |= {source for source, sink in edges if source == sink}
    found = list[tuple[str, str]]()
    while more_edges := [
        (sink, source)
        for source, sink in edges
        if source in kept
        and sink in only - kept
        and inside[source]
        and inside[source] <= inside[sink]
    ]:
        found += more_edges
        kept |= {sink for sink, _ in more_edges}
    return found


def ring(names: Sequence[str]) -> list[tuple[str, str]]:
    """Edges that make a strongly connected component of some statements."""
    return list(pairwise([*names, names[0]]))
