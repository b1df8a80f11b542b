# SPDX-License-Identifier: Apache-2.0
"""Alignment: the statements of a program that are the iterations of an unrolled loop.

A loop is recognized by its *successor map*: what statement a is in one iteration, b is in the next.
The map is an isomorphism of data flow, so that one pair gives others:

    a = f(w, p)   b = f(w, q)     w is the same in both         p -> q, and the statements they are
    r = g(a)      s = g(b)        the only readers of a kind    r -> s

The first pairs are statements that read the same constants or inputs, in the order in which they
need each other or, where they do not, of their subscripts. Nothing here decides whether a pair is
right: of the chains that the map makes, reroll.py takes what a loop can compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sirius_tf.ir.affine import Affine
from sirius_tf.ir.expr import Call, Const, Expr, Index, Load, loads
from sirius_tf.ir.program import Program, Statement, Tensor
from sirius_tf.ir.rewrite import map_affines, rename_loads
from sirius_tf.ir.scc import strongly_connected

LEAST = 4
"""Iterations that make a loop; fewer stay as they are."""

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Chains:
    """Statements, and temporaries of one shape, each followed by its successor.

    `rank` of a statement: how many first pairs were tried, surer ones first, until it was found.
    """

    statements: tuple[tuple[Statement, ...], ...]
    tensors: tuple[tuple[str, ...], ...]
    rank: Mapping[str, int]


def align(program: Program) -> Chains:
    """The chains of at least LEAST iterations. Statements of loops are in none."""
    aligner = _Aligner(program)
    for rank, members in enumerate(aligner.seeds()):
        if not any(s.name in aligner.rank for s in members):
            names = [s.name for s in members]
            aligner.propagate(list(pairwise(names)), rank)
    depth, writers = aligner.depth, aligner.writers
    statements = [
        tuple(aligner.statements[name] for name in _forward(chain, depth))
        for chain in _chains(aligner.after)
    ]
    made = {name: max(depth[s.name] for s in found) for name, found in writers.items()}
    tensors = [_forward(chain, made) for chain in _chains(aligner.after_tensor)]
    place = {s.name: k for k, s in enumerate(program.statements)}
    statements.sort(key=lambda chain: place[chain[0].name])
    return Chains(tuple(statements), tuple(tensors), aligner.rank)


def _forward(chain: tuple[str, ...], depth: Mapping[str, int]) -> tuple[str, ...]:
    """A chain in the order in which its members need each other.

    What two recurrences in opposite directions read gives one of them the order of the other.
    """
    return chain[::-1] if depth.get(chain[0], 0) > depth.get(chain[-1], 0) else chain


def equal_constants(program: Program) -> dict[str, str]:
    """For each constant the first one of equal shape and value."""
    kinds: dict[object, list[Tensor]] = {}
    same: dict[str, str] = {}
    for tensor in program.tensors:
        if tensor.value is None:
            continue
        flat = tensor.value.reshape(-1)
        some = flat[:: max(1, flat.size // 16)].tobytes()
        alike = kinds.setdefault((tensor.shape, tensor.dtype, some), [])
        first = next((t for t in alike if _value(t).tobytes() == tensor.value.tobytes()), tensor)
        if first is tensor:
            alike.append(tensor)
        same[tensor.name] = first.name
    return same


def _value(tensor: Tensor) -> npt.NDArray[np.generic]:
    assert tensor.value is not None
    return tensor.value


def _chains(after: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """The maximal chains of an injective map; its cycles are no chains."""
    inside = set(after.values())
    for head in after:
        if head not in inside:
            chain = [head]
            while chain[-1] in after:
                chain.append(after[chain[-1]])
            if len(chain) >= LEAST:
                yield tuple(chain)


@dataclass
class _Alike:
    """Temporaries that correspond if two statements do; `exact` where nothing else differs.

    `common`: how many operands correspond.
    """

    target: tuple[str, str] | None = None
    reads: Pairs = field(default_factory=list)
    exact: bool = True
    common: int = 0


class _Aligner:
    def __init__(self, program: Program) -> None:
        self.tensor, self.conditions = program.tensor, program.conditions
        self.same = equal_constants(program)
        found = [s for s in program.statements if _plain(program, s)]
        self.statements = {s.name: s for s in found}
        self.loads = {s.name: tuple(loads(s.value)) for s in found}
        self.writers: dict[str, list[Statement]] = {}
        self.readers: dict[str, list[tuple[Statement, int]]] = {}
        for s in found:
            self.writers.setdefault(s.target, []).append(s)
            for position, load in enumerate(self.loads[s.name]):
                self.readers.setdefault(load.tensor, []).append((s, position))
        kinds: dict[Statement, int] = {}
        self.kind = {s.name: kinds.setdefault(self._abstract(s), len(kinds)) for s in found}
        self.depth = self._depths()
        self.after: dict[str, str] = {}
        self.before: dict[str, str] = {}
        self.after_tensor: dict[str, str] = {}
        self.before_tensor: dict[str, str] = {}
        self.rank: dict[str, int] = {}

    def _temporary(self, name: str) -> bool:
        return self.tensor[name].role == "temp" and name not in self.conditions

    def _abstract(self, s: Statement) -> Statement:
        """A statement as all iterations have it: without temporaries, and without constants in
        subscripts."""
        read = {x.tensor for x in self.loads[s.name]}
        names = {n: "" if self._temporary(n) else self.same.get(n, n) for n in read}
        target = s.target if not self._temporary(s.target) else ""
        s = replace(rename_loads(s, names), name="", origin=(), target=target)
        return map_affines(s, lambda a: replace(a, const=0))

    # The first pairs

    def seeds(self) -> list[list[Statement]]:
        """Statements of one kind in the order of their iterations, the surest kinds first.

        Large constants tell loops apart. The order of subscripts says less than what needs what:
        the recurrence that reads them may run backward.
        """
        kinds: dict[int, list[Statement]] = {}
        for s in self.statements.values():
            kinds.setdefault(self.kind[s.name], []).append(s)
        found = []
        for members in kinds.values():
            if len(members) < LEAST:
                continue
            needs: dict[tuple[int, ...], Statement] = {(self.depth[s.name],): s for s in members}
            places = {place: s for s, place in self._places(members)}
            if max(len(needs), len(places)) == len(members):
                ordered = needs if len(needs) == len(members) else places
                sure = (ordered is places, -self._weight(members[0]))
                found.append((sure, [ordered[key] for key in sorted(ordered)]))
        return [members for _, members in sorted(found, key=lambda pair: pair[0])]

    def _depths(self) -> dict[str, int]:
        """For each statement the length of the longest chain of statements that it needs."""
        names = list(self.statements)
        number = {name: n for n, name in enumerate(names)}
        sources = [
            [number[w.name] for x in self.loads[n] for w in self.writers.get(x.tensor, ())]
            for n in names
        ]
        depth: dict[str, int] = {}
        for group in strongly_connected(sources):
            before = [names[s] for n in group for s in sources[n]]
            deepest = max((depth[s] for s in before if s in depth), default=-1)
            depth |= {names[n]: deepest + 1 for n in group}
        return depth

    def _places(self, members: Sequence[Statement]) -> Iterator[tuple[Statement, tuple[int, ...]]]:
        """The constants in the subscripts of what all members read, or write parts of."""
        read = [[self.same.get(x.tensor, x.tensor) for x in self.loads[s.name]] for s in members]
        common = [len(set(names)) == 1 for names in zip(*read, strict=True)]
        for s in members:
            shared = (x for x, all_ in zip(self.loads[s.name], common, strict=True) if all_)
            places = [i for x in shared for i in x.index if isinstance(i, Affine)]
            yield s, tuple(i.const for i in (*places, *s.index))

    def _weight(self, s: Statement) -> int:
        """Elements of the constants that a statement reads."""
        values = (self.tensor[x.tensor].value for x in self.loads[s.name])
        return sum(value.size for value in values if value is not None)

    # What follows from them

    def propagate(self, pairs: Pairs, rank: int) -> None:
        """Add pairs of statements to the map, and all that follow; none that contradict it.

        What an iteration starts from may look like something else of the iteration before it. So
        pairs which differ there wait until the others are known, and pairs of temporaries until it
        is known which statements define the next ones.
        """
        unlike: Pairs = []
        tensors: Pairs = []
        while pairs or unlike or tensors:
            if not pairs and not unlike:
                pairs = self._paired(*tensors.pop())
                continue
            sure = bool(pairs)
            a, b = (pairs or unlike).pop()
            if a == b or a in self.after or b in self.before:
                continue
            found = self._alike(self.statements[a], self.statements[b])
            if found is None:
                continue
            if sure and not found.exact:
                unlike.append((a, b))
                continue
            self.after[a], self.before[b] = b, a
            self.rank.setdefault(a, rank)
            self.rank.setdefault(b, rank)
            for p, q in found.reads:
                pairs += self._writers_paired(p, q)
            if found.target:
                pairs += self._paired(*found.target)
            tensors += found.reads

    def _paired(self, p: str, q: str) -> Pairs:
        """The statements that are pairs because two temporaries are; they may be pairs already."""
        if p == q or p in self.after_tensor or q in self.before_tensor:
            return []
        self.after_tensor[p], self.before_tensor[q] = q, p
        a, b = self._only_readers(p), self._only_readers(q)
        readers = [(a[key], b[key]) for key in a if key in b]
        return readers + self._writers_paired(p, q)

    def _writers_paired(self, p: str, q: str) -> Pairs:
        a, b = ({s.index: s.name for s in self.writers.get(n, ())} for n in (p, q))
        return [(a[index], b[index]) for index in a if index in b]

    def _only_readers(self, name: str) -> dict[object, str]:
        """Readers by kind and place of reading, where these tell them apart."""
        found: dict[object, list[str]] = {}
        for s, position in self.readers.get(name, ()):
            key = (self.kind[s.name], position, self.loads[s.name][position].index)
            found.setdefault(key, []).append(s.name)
        return {key: names[0] for key, names in found.items() if len(names) == 1}

    def _alike(self, a: Statement, b: Statement) -> _Alike | None:
        """The correspondence of two statements, or None."""
        if (a.iters, a.reduce) != (b.iters, b.reduce) or not _parallel(a.index, b.index):
            return None
        found = _Alike()
        if a.target != b.target:
            if not self._one_type(a.target, b.target):
                return None
            found.target = (a.target, b.target)
        if not self._match(a.value, b.value, found):
            return None
        copies = not isinstance(a.value, Call)
        return found if found.exact or found.common or copies else None

    def _one_type(self, p: str, q: str) -> bool:
        """Whether two tensors are temporaries that can be slices of one."""
        first, second = self.tensor[p], self.tensor[q]
        same = (first.shape, first.dtype) == (second.shape, second.dtype)
        return same and self._temporary(p) and self._temporary(q)

    def _match(self, a: Expr, b: Expr, found: _Alike) -> bool:
        """Whether two expressions correspond, but for what a recurrence may start from."""
        match a, b:
            case Load(p, i), Load(q, j):
                if self.same.get(p, p) == self.same.get(q, q):
                    found.common += 1
                    return self._match_index(i, j, found)
                if self._one_type(p, q):
                    found.common += 1
                    found.reads.append((p, q))
                    return self._match_index(i, j, found)
                found.exact = False
                return a.dtype == b.dtype and (self._temporary(p) or self._temporary(q))
            case Call(f, x, t), Call(g, y, u):
                same = (f, t, len(x)) == (g, u, len(y))
                return same and all(self._match(*two, found) for two in zip(x, y, strict=True))
            case Index(v, t), Index(w, u):
                return t == u and v.terms == w.terms
            case (Load(p), Const()) | (Const(), Load(p)):
                found.exact = False
                return a.dtype == b.dtype and self._temporary(p)
        return a == b

    def _match_index(
        self, a: Sequence[Affine | Expr], b: Sequence[Affine | Expr], found: _Alike
    ) -> bool:
        def one(x: Affine | Expr, y: Affine | Expr) -> bool:
            if isinstance(x, Affine) or isinstance(y, Affine):
                return isinstance(x, Affine) and isinstance(y, Affine) and x.terms == y.terms
            return self._match(x, y, found)

        return len(a) == len(b) and all(one(x, y) for x, y in zip(a, b, strict=True))


def _plain(program: Program, s: Statement) -> bool:
    """Whether a statement is in no loop, and nothing but its operands decides that it runs."""
    decided = s.guards or program.needs(s) != s.loads
    return not decided and not any(i.loop for i in s.iters)


def _parallel(a: Sequence[Affine], b: Sequence[Affine]) -> bool:
    """Whether subscripts differ in constants only."""
    return [i.terms for i in a] == [i.terms for i in b]
