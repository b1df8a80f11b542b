# SPDX-License-Identifier: Apache-2.0
"""Runs: statements in a row whose subscripts advance by constant steps, as one with an iterator.

a[0, i] = x[3, i];  a[1, i] = x[5, i];  a[2, i] = x[7, i]   ->   a[t, i] = x[2 t + 3, i]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sirius_tf.ir.affine import Affine, AffineLike, affine, symbol
from sirius_tf.ir.expr import Call, Expr, Load
from sirius_tf.ir.program import Iter, Statement
from sirius_tf.ir.rewrite import along, map_affines, move
from sirius_tf.transform.align import LEAST

Element = tuple[str, int]  # array, and position in the chain; negative ones come before it


@dataclass(eq=False)
class Run:
    """Members first <= k < end of a chain, of which `pattern` is the one for k = 0, and `steps`
    is what each affine expression grows by. `loop` is the iterator of a recurrence."""

    chain: tuple[Statement, ...]
    first: int
    end: int
    pattern: Statement
    steps: tuple[int, ...]
    rank: int
    loop: str | None = None

    @property
    def members(self) -> tuple[Statement, ...]:
        """The statements that are one."""
        return self.chain[self.first : self.end]

    def at(self, k: AffineLike) -> Statement:
        """Member `k` by the pattern."""
        steps = iter(self.steps)
        return map_affines(self.pattern, lambda a: a + affine(k) * next(steps))

    def give_up(self) -> None:
        """Leave all members as they are."""
        self.end = self.first

    def rolled(self, iterator: str) -> Statement:
        """All members as one statement, under the name of the first."""
        s, first = self.at(symbol(iterator) + self.first), self.chain[self.first]
        it = Iter(iterator, affine(self.end - self.first), loop=self.loop is not None)
        return replace(s, name=first.name, origin=first.origin, iters=(it, *s.iters))


def _split(s: Statement) -> tuple[Statement, tuple[int, ...]]:
    """A statement without the constants of its affine expressions, and these."""
    constants: list[int] = []

    def without(a: Affine) -> Affine:
        constants.append(a.const)
        return replace(a, const=0)

    return map_affines(replace(s, name="", origin=()), without), tuple(constants)


def find_runs(chain: tuple[Statement, ...], rank: int) -> Iterator[Run]:
    """The maximal runs of members that advance by constant steps."""
    parts = [_split(s) for s in chain]
    first = 0
    while first + LEAST <= len(chain):
        (kind, here), (_, there) = parts[first : first + 2]
        steps = tuple(b - a for a, b in zip(here, there, strict=False))
        end = first + 1
        while end < len(chain) and parts[end][0] == kind:
            if parts[end][1] != tuple(a + b for a, b in zip(parts[end - 1][1], steps, strict=True)):
                break
            end += 1
        if end - first < LEAST:
            first += 1
            continue
        origin = iter([a - first * step for a, step in zip(here, steps, strict=True)])
        pattern = map_affines(kind, lambda a, origin=origin: a + next(origin))  # type: ignore[misc]
        yield Run(chain, first, end, pattern, steps, rank)
        first = end


def differences(want: Expr, have: Expr) -> list[tuple[Load, Expr]] | None:
    """The pairs of a Load in `want` and of what stands in its place in `have`; None if they differ
    in more than that."""
    match want, have:
        case _ if want == have:
            return []
        case Load(), _:
            return [(want, have)]
        case Call(f, x, t), Call(g, y, u) if (f, t, len(x)) == (g, u, len(y)):
            parts = [differences(a, b) for a, b in zip(x, y, strict=True)]
            return [pair for part in parts for pair in part or ()] if None not in parts else None
    return None


def shifted(s: Statement, shift: Mapping[str, int]) -> Statement:
    """A sliced statement where member 0 of an array is its element `shift`."""
    return move(s, shift, lambda x: along(x, 0, lambda k: k + shift[x.tensor]))
