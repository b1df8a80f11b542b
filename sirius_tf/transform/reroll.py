# SPDX-License-Identifier: Apache-2.0
"""Re-rolling: statements that are the iterations of an unrolled loop become one with an iterator.

    u0[i] = sum over k of x[0, k] * w[k, i]
    u1[i] = sum over k of x[1, k] * w[k, i]      for t < T:
    ...                                     ->     u[t, i] = sum over k of x[t, k] * w[k, i]
    h0[i] = tanh(u0[i] + z[i])                   h[0, i] = z[i]
    h1[i] = tanh(u1[i] + h0[i])                  for t < T in order:
    ...                                            h[t + 1, i] = tanh(u[t, i] + h[t, i])

A chain of temporaries (see align.py) becomes an array, which is another name for the same elements.
Then a run of statements whose subscripts all advance by constant steps is a single statement. What
a loop starts from, if it is no member of the chain, is copied into an element before the first. A
recurrence is a loop, run in order; what is not, as x * w above, gets a dimension like any other.

Iterations that differ stay single statements that write their elements of the arrays, and so does
all that cannot be ordered, or is better off, as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise

from sirius_tf.ir.affine import Affine, AffineLike, affine, symbol
from sirius_tf.ir.expr import Expr, Load, loads, names_in, substitute
from sirius_tf.ir.order import components
from sirius_tf.ir.program import Iter, Program, Statement
from sirius_tf.ir.rewrite import move, numbered, rename_loads
from sirius_tf.transform.align import LEAST, Chains, align, equal_constants
from sirius_tf.transform.runs import Element, Run, differences, find_runs, shifted

PEELED = 2
"""So many elements of an array may be defined, or read, by statements that are in no loop."""


def reroll(program: Program) -> Program:
    """The program with its unrolled loops rolled; without any, the program itself."""
    chains = align(program)
    roller = _Roller(program, chains)
    roller.settle()
    return roller.result() if roller.runs else program


class _Roller:
    """`sliced` statements have elements of arrays in place of temporaries: that of a member of a
    chain is `array[k, ...]`. `initial`: what is to be copied in front of arrays, and for whom."""

    def __init__(self, program: Program, chains: Chains) -> None:
        self.program = program
        self.members = {chain[0]: chain for chain in chains.tensors}
        self.place = {name: (c[0], k) for c in chains.tensors for k, name in enumerate(c)}
        self.initial: dict[Element, Statement] = {}
        self.wanted: dict[Element, list[tuple[Run, int]]] = {}
        self.writers: dict[str, list[str]] = {}
        self.readers: dict[str, list[str]] = {}
        for s in program.statements:
            self.writers.setdefault(s.target, []).append(s.name)
            for name in dict.fromkeys(load.tensor for load in loads(s.value)):
                self.readers.setdefault(name, []).append(s.name)
        same = equal_constants(program) if chains.statements else {}
        self.runs: list[Run] = []
        for chain in chains.statements:
            members = (rename_loads(s, same) for s in chain)
            sliced = tuple(self.sliced(s, self.members) for s in members)
            self.runs += self._found(sliced, chains.rank[chain[0].name])
        taken = {i.name for s in program.statements for i in s.all_iters} | program.hints.keys()
        self.names = list(islice(numbered("t", taken), len(self.runs) + 1))

    def _found(self, chain: tuple[Statement, ...], rank: int) -> list[Run]:
        found = list(find_runs(chain, rank))
        for run, end in zip(found, [0, *(run.end for run in found)], strict=False):
            while run.first > end and self._starts(run):
                run.first -= 1
        return found

    def sliced(
        self, s: Statement, arrays: Collection[str], shift: Mapping[str, int] | None = None
    ) -> Statement:
        """A statement on elements of some arrays, of which member 0 is element `shift`."""

        def element(load: Load) -> Load:
            array, k = self.place[load.tensor]
            if array not in arrays:
                return load
            return Load(array, (affine(k + (shift or {}).get(array, 0)), *load.index), load.dtype)

        return move(s, self.place, element)

    # What a recurrence starts from

    def _starts(self, run: Run) -> bool:
        """Whether the member before a run is like it, but for elements in front of arrays.

        These are then to be copied there.
        """
        want, have = run.at(run.first - 1), run.chain[run.first - 1]
        found = differences(want.value, have.value)
        if not found or want.index != have.index or want.target != have.target:
            return False
        copies: dict[Element, Statement] = {}
        for load, value in found:
            copy = self._copy(load, value, have)
            if copy is None:
                return False
            element = (copy.target, copy.index[0].const)
            before = copies.get(element) or self.initial.get(element, copy)
            if (before.iters, before.value) != (copy.iters, copy.value):
                return False
            copies[element] = before
        for element, copy in copies.items():
            self.initial[element] = copy
            self.wanted.setdefault(element, []).append((run, run.first - 1))
        return True

    def _copy(self, load: Load, value: Expr, reader: Statement) -> Statement | None:
        """The definition of the elements of which `load` is one, from its `value` in a reader.

        h[k - 1, i] for k = 0 is z[0, i]:   h[-1, i0] = z[0, i0]
        """
        k, *subscripts = load.index
        if load.tensor not in self.members or not isinstance(k, Affine) or k.const >= 0:
            return None
        shape = self.program.tensor[load.tensor].shape
        iters = tuple(Iter(f"i{n}", extent) for n, extent in enumerate(shape))
        own = tuple(symbol(i.name) for i in iters)
        name = f"{reader.name}_{load.tensor}_{-k.const}"
        if isinstance(value, Load) and value.index == tuple(subscripts):
            source = self.program.tensor[value.tensor]
            if source.shape == shape:
                whole = replace(value, index=own)
                return Statement(name, iters, load.tensor, (k, *own), whole, None, reader.origin)
        extents = {symbol(i.name): i.extent for i in reader.all_iters}
        renaming: dict[str, AffineLike] = {}
        for place, extent, i in zip(subscripts, shape, own, strict=True):
            if extent == affine(1) and place == affine(0):
                continue
            if not isinstance(place, Affine) or extents.get(place) != extent:
                return None
            renaming.setdefault(str(place), i)
        if len(set(map(str, renaming.values()))) < len(renaming):
            return None
        if names_in(value) & {i.name for i in reader.all_iters} - renaming.keys():
            return None
        index = (k, *own)
        value = substitute(value, renaming)
        return Statement(name, iters, load.tensor, index, value, None, reader.origin)

    # What can be ordered

    def settle(self) -> None:
        """Cut runs, or give them up, until each recurrence is a loop over all its statements."""
        while True:
            before = [(run, run.first, run.end) for run in self.runs]
            rolled = {s.name for run in self.runs for s in run.members}
            for run in self.runs:
                self._feed(run, rolled)
            if self._kept() == before:
                heads = {run.chain[run.first].name: run for run in self.runs}
                for group, cyclic in components(
                    self.program, self._statements(rolled), self.program.hints
                ):
                    runs = [heads[s.name] for s in group if s.name in heads]
                    if runs:  # else it is one statement, or a loop of the graph
                        self._arrange(runs, {s.name for s in group}, cyclic, rolled)
            self.runs = [run for run in self.runs if run.end - run.first >= LEAST]
            if self._kept() == before:
                return

    def _kept(self) -> list[tuple[Run, int, int]]:
        return [(run, run.first, run.end) for run in self.runs]

    def _statements(self, rolled: set[str]) -> list[Statement]:
        """The program on elements of all arrays."""
        singles = [s for s in self.program.statements if s.name not in rolled]
        return [
            *(run.rolled(self.names[0]) for run in self.runs),
            *(self.sliced(s, self.members) for s in singles),
            *self._copies(),
        ]

    def _copies(self) -> list[Statement]:
        """The statements that copy initial values in front of arrays, where a run reads them."""
        return [
            copy
            for element, copy in self.initial.items()
            if any(run in self.runs and run.first <= k for run, k in self.wanted[element])
        ]

    def _feed(self, run: Run, rolled: Collection[str]) -> None:
        """Cut a run to where what it reads of arrays is made by runs, but for a few elements."""
        strange: dict[Element, list[int]] = {}
        for number, s in enumerate(run.members, run.first):
            for array, k in self._elements(s):
                makers = self.writers.get(self.members[array][k], ()) if k >= 0 else ()
                if any(maker not in rolled for maker in makers):
                    strange.setdefault((array, k), []).append(number)
        counts = Counter(array for array, _ in strange)
        if max(counts.values(), default=0) > PEELED:
            unfed = sorted({number for numbers in strange.values() for number in numbers})
            ends = [run.first - 1, *unfed, run.end]
            before, after = max(pairwise(ends), key=lambda pair: pair[1] - pair[0])
            run.first, run.end = before + 1, after

    def _elements(self, s: Statement) -> Iterator[Element]:
        """The elements of arrays that a sliced statement reads."""
        for load in loads(s.value):
            if load.tensor in self.members and isinstance(load.index[0], Affine):
                yield load.tensor, load.index[0].const

    def _arrange(
        self, runs: Sequence[Run], group: set[str], cyclic: bool, rolled: set[str]
    ) -> None:
        """Make a loop of the runs that need each other; one that needs only others needs none."""
        if not cyclic:
            for run in runs:
                run.loop = None
                if not self._read_by_runs(run, rolled):
                    run.give_up()
            return
        copied = [e for e, copy in self.initial.items() if copy.name in group]
        if copied:  # what a loop starts from comes out of the loop
            for run, k in (wanted for element in copied for wanted in self.wanted[element]):
                run.first = max(run.first, k + 1)
            return
        offsets = self._offsets(runs)
        start = max((offset + run.first for run, offset in offsets.items()), default=0)
        end = min((offset + run.end for run, offset in offsets.items()), default=0)
        complete = all((o + r.first, o + r.end) == (start, end) for r, o in offsets.items())
        if end - start < LEAST or (complete and len(runs) < len(group)):
            max(runs, key=lambda run: (run.rank, -len(run.members))).give_up()
            return
        for run, offset in offsets.items():
            run.first, run.end, run.loop = start - offset, end - offset, min(group)

    def _read_by_runs(self, run: Run, rolled: set[str]) -> bool:
        """Whether what a run makes is read by runs, but for a few elements.

        What is cheap would else be kept from becoming a part of each of its readers.
        """
        if run.pattern.reduce or run.pattern.target not in self.members:
            return True
        made = (self.members[s.target][s.index[0].const] for s in run.members)
        strange = [name for name in made if not rolled.issuperset(self.readers.get(name, ()))]
        return len(strange) <= PEELED

    def _offsets(self, runs: Sequence[Run]) -> dict[Run, int]:
        """The iteration of the loop that member 0 of each run belongs to, such that all is defined
        before it is read: longest paths (Bellman-Ford). None of them where there is no such loop.
        """
        k = self.names[0]
        at = {run: run.at(symbol(k)) for run in runs}
        writers: dict[str, list[Run]] = {}
        for run, s in at.items():
            writers.setdefault(s.target, []).append(run)
        lags: list[tuple[Run, Run, int]] = []
        for run, s in at.items():
            for load in loads(s.value):
                for writer in writers.get(load.tensor, ()):
                    place, made = load.index[0], at[writer].index[0]
                    if load.tensor not in self.members or not isinstance(place, Affine):
                        return {}
                    lag = place - made
                    if not lag.is_const or place.coefficient(k) != 1:
                        return {}
                    if run.first + lag.const < writer.end and writer.first < run.end + lag.const:
                        lags.append((run, writer, lag.const))
        offsets = dict.fromkeys(runs, 0)
        for _ in range(len(runs) + 1):
            before = dict(offsets)
            for run, writer, lag_ in lags:
                offsets[run] = max(offsets[run], offsets[writer] + lag_)
            if offsets == before:
                return offsets
        return {}

    # The program

    def result(self) -> Program:
        """The program with the runs rolled."""
        copies, rolled = self._copies(), {s.name for run in self.runs for s in run.members}
        patterns = [run.pattern for run in self.runs]
        used = {s.target for s in (*patterns, *copies)}
        used |= {load.tensor for s in (*patterns, *copies) for load in loads(s.value)}
        arrays = used & self.members.keys()
        shift = dict.fromkeys(arrays, 0)
        for copy in copies:
            shift[copy.target] = max(shift[copy.target], -copy.index[0].const)
        loops = {loop: None for run in self.runs if (loop := run.loop)}
        iterators = dict(zip([None, *loops], self.names, strict=False))
        heads = {
            run.chain[run.first].name: shifted(run.rolled(iterators[run.loop]), shift)
            for run in self.runs
        }
        statements = [
            heads.get(s.name) or self.sliced(s, arrays, shift)
            for s in self.program.statements
            if s.name in heads or s.name not in rolled
        ]
        tensors = []
        for tensor in self.program.tensors:
            array, k = self.place.get(tensor.name, ("", 0))
            if array in arrays and k == 0:
                extent = affine(len(self.members[array]) + shift[array])
                tensor = replace(tensor, shape=(extent, *tensor.shape))
            if array not in arrays or k == 0:
                tensors.append(tensor)
        made = (*(shifted(copy, shift) for copy in copies), *statements)
        return replace(self.program, tensors=tuple(tensors), statements=made)
