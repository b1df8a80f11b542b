# SPDX-License-Identifier: Apache-2.0
"""Wavefronts: recurrences that follow each other step by step become one loop.

    for t < T:  h[t + 1] from h[t]              for s < T + 1:
    for all t:  z[t] from h[t + 1]         ->     in one phase  h[s + 1] from h[s]
    for t < T:  g[t + 1] from g[t], z[t]                        z[s - 1], g[s] from g[s - 1]

Program -> Program: iterators of time get one name, and each a shift. The idea is Lamport's, "The
Parallel Execution of DO Loops" (CACM 1974); a shift for each statement, and not for each iteration,
is what loops need that are statements, and no dimension. isl knows the distances of dependences:
where one has none that is known, there is no wavefront.

What lies between two recurrences leaves the wide product over all steps for one of a step at a
time. So this pays where waiting is dear, and where a step reads what stays near the workers: for
blocks of a GPU. To threads of a CPU half of the barriers of two independent loops were worth
nothing, and a product for all steps is worth more than a barrier for each.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.dtypes import numpy_dtype
from sirius_tf.ir.program import Iter, Program, Statement
from sirius_tf.ir.rewrite import fresh, map_iters, map_statements, substitute_in
from sirius_tf.ir.scc import components
from sirius_tf.poly.dependence import Flow, least_distance
from sirius_tf.schedule.cpu_costs import ROWS
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import work


@dataclass(frozen=True)
class _Wave:
    """Recurrences of `steps` iterations, what lies between them included: for each statement the
    iterator of its time, and how many steps later than in a loop of its own an iteration runs."""

    steps: Affine
    times: Mapping[str, str]
    shifts: Mapping[str, int]

    @property
    def last(self) -> int:
        """Steps that there are more than iterations."""
        return max(self.shifts.values())


def wavefronts(program: Program, flows: Sequence[Flow], machine: Machine) -> Program:
    """The program with recurrences in wavefronts, where that pays.

    `flows` are the program's, whose loops are those that recurrences need (`fuse.release`).
    """
    if machine.wavefronts is False:
        return program
    finder = _Finder(program, flows, machine)
    waves = list[_Wave]()
    for names in finder.recurrences:
        wave = finder.alone(names)
        if wave is None:
            continue
        joined = finder.joined(waves[-1], wave) if waves else None
        waves[-1 if joined else len(waves) :] = [joined or wave]
    for number, wave in enumerate(w for w in waves if w.last or finder.several(w)):
        taken = {i.name for s in program.statements for i in s.all_iters} | program.hints.keys()
        program = _shifted(program, wave, fresh(f"wave{number}", taken))
    return program


def members(statements: Iterable[Statement]) -> list[list[str]]:
    """The statements of every wavefront."""
    found = dict[str, list[str]]()
    for s in statements:
        for i in s.iters:
            if i.shift is not None:
                found.setdefault(i.name, []).append(s.name)
    return list(found.values())


class _Finder:
    def __init__(self, program: Program, flows: Sequence[Flow], machine: Machine) -> None:
        self.program, self.machine, self.hints = program, machine, program.hints
        self.statements = {s.name: s for s in program.statements}
        self.flows = [f for f in flows if f.source != f.sink]
        edges = [(f.source, f.sink) for f in flows]
        cyclic = {a for a, b in edges if a == b}
        found = components(list(self.statements), edges)
        self.place = {n: k for k, names in enumerate(found) for n in names}
        self.recurrences = [names for names in found if len(names) > 1 or names[0] in cyclic]
        self.recurrent = {n for names in self.recurrences for n in names}
        self.after = {n: list[str]() for n in self.statements}
        self.before = {n: list[str]() for n in self.statements}
        for source, sink in dict.fromkeys(edges):
            self.after[source].append(sink)
            self.before[sink].append(source)

    def alone(self, names: Sequence[str]) -> _Wave | None:
        """A recurrence by itself; None if it is not the counted loop of all its statements."""
        first = self.statements[names[0]]
        for i in (i for i in first.iters if i.loop):
            if all(i in self.statements[n].iters for n in names):
                exits = self.program.exits
                ends = {str(go.index[0]) for go in exits.values()}
                if i.name in ends or not exits.keys().isdisjoint(i.extent.names()):
                    return None
                return _Wave(i.extent, dict.fromkeys(names, i.name), dict.fromkeys(names, 0))
        return None

    def several(self, wave: _Wave) -> bool:
        """Whether a wave is more than one recurrence."""
        return sum(names[0] in wave.times for names in self.recurrences) > 1

    def joined(self, wave: _Wave, own: _Wave) -> _Wave | None:
        """A wave and a recurrence behind it, or beside it, as one; None if that is not possible,
        or does not pay."""
        between = _reached(wave.times, self.after) & _reached(own.times, self.before)
        between -= wave.times.keys() | own.times.keys()
        if own.steps != wave.steps or between & self.recurrent:
            return None
        later = wave
        for name in sorted(between, key=self.place.__getitem__):
            extents = {i.name: i.extent for i in self.statements[name].iters}
            times = (i for i in extents if extents[i] == wave.steps)
            found = [w for i in times if (w := self.placed(later, {name: i}))]
            if not found:
                return None
            later = min(found, key=lambda w: w.shifts[name])
        joined = self.placed(later, own.times)
        pays = joined and (self.machine.wavefronts or self.pays(wave, joined, between))
        return joined if pays else None

    def placed(self, wave: _Wave, times: Mapping[str, str]) -> _Wave | None:
        """The wave with statements that share a time as early as their dependences allow; None if
        there is no such time."""
        shift = 0
        for f in self.flows:
            if f.source in wave.times and f.sink in times:
                distance = self.distance(f, wave.times, times)
                if distance is None:
                    return None
                wait = 0 if self.in_tile(f, times) else 1
                shift = max(shift, wave.shifts[f.source] + wait - distance)
        shifts = {**wave.shifts, **dict.fromkeys(times, shift)}
        return _Wave(wave.steps, {**wave.times, **times}, shifts)

    def distance(
        self, f: Flow, of_source: Mapping[str, str], of_sink: Mapping[str, str]
    ) -> int | None:
        """By how many iterations at least a dependence goes forward."""
        source, sink = (
            [i.name for i in self.statements[name].iters].index(times[name])
            for name, times in ((f.source, of_source), (f.sink, of_sink))
        )
        return least_distance(f, source, sink)

    def in_tile(self, f: Flow, times: Mapping[str, str]) -> bool:
        """Whether the reader of an element can be in its writer's tile, hence in the same step: one
        needs the other alone, and nothing else of that step."""
        others = [g for g in self.flows if g.sink == f.sink and g.source in times]
        alone = all(self.distance(g, times, times) != 0 for g in others)
        return alone and f.relation.is_bijective()

    def pays(self, wave: _Wave, joined: _Wave, between: Collection[str]) -> bool:
        """Whether the barriers that are saved, at least one for each step, are worth more than what
        is lost: rows that share what a product loads. All that steps read must stay near."""
        if self.machine.target == "cpu":
            return False
        saved = wave.steps.evaluate(self.hints) - (joined.last - wave.last)
        sums = (self.statements[n] for n in between if self.statements[n].reduce)
        lost = sum(work(s, self.hints) for s in sums) * (1 - 1 / ROWS) / self.machine.workers
        if lost >= saved * self.machine.worth_a_barrier:
            return False
        loads = {load.tensor for n in joined.times for load in self.statements[n].loads}
        return sum(map(self.bytes, loads)) <= self.machine.workers * self.machine.shared

    def bytes(self, name: str) -> int:
        """The size of a constant."""
        t = self.program.tensor[name]
        if t.role != "constant":
            return 0
        return math.prod(e.const for e in t.shape) * numpy_dtype(t.dtype).itemsize


def _reached(starts: Iterable[str], edges: Mapping[str, Sequence[str]]) -> set[str]:
    """Every name that edges lead to from `starts`."""
    found, stack = set[str](), list(starts)
    while stack:
        new = set(edges[stack.pop()]) - found
        found |= new
        stack += new
    return found


def _shifted(program: Program, wave: _Wave, name: str) -> Program:
    """The program with one loop for a wave, whose iterator is called `name` in all statements."""

    def moved(s: Statement) -> Statement:
        if s.name not in wave.times:
            return s
        time, shift = wave.times[s.name], wave.shifts[s.name]
        s = substitute_in(s, {time: symbol(name)})
        return map_iters(s, lambda i: Iter(name, i.extent, True, shift) if i.name == time else i)

    return map_statements(program, moved)
