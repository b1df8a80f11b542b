# SPDX-License-Identifier: Apache-2.0
"""Quasi-affine integer expressions over iterators and parameters.

    a ::= c + sum of  k * symbol   where symbol is a name or floor(a / d); integers c, k and d > 0

Modulo needs no node of its own: `a % d` is `a - d * floor(a / d)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import total_ordering


@dataclass(frozen=True)
class FloorDiv:
    """floor(numerator / divisor), rounding toward minus infinity; `divisor` is positive."""

    numerator: Affine
    divisor: int

    def __str__(self) -> str:
        return f"floor(({self.numerator})/{self.divisor})"


Symbol = str | FloorDiv


@total_ordering
@dataclass(frozen=True)
class Affine:
    """`const + sum(coefficient * symbol)`; `terms` is sorted and has no zero coefficient.

    Build one with `affine(...)`, `symbol(...)` and the operators, never with the constructor.
    """

    terms: tuple[tuple[Symbol, int], ...] = ()
    const: int = 0

    def __add__(self, other: AffineLike) -> Affine:
        other = affine(other)
        sums = dict(self.terms)
        for key, coefficient in other.terms:
            sums[key] = sums.get(key, 0) + coefficient
        return _make(sums, self.const + other.const)

    def __radd__(self, other: AffineLike) -> Affine:
        return self + other

    def __neg__(self) -> Affine:
        return self * -1

    def __sub__(self, other: AffineLike) -> Affine:
        return self + affine(other) * -1

    def __rsub__(self, other: AffineLike) -> Affine:
        return affine(other) - self

    def __mul__(self, factor: int) -> Affine:
        return _make({key: c * factor for key, c in self.terms}, self.const * factor)

    def __rmul__(self, factor: int) -> Affine:
        return self * factor

    def __floordiv__(self, divisor: int) -> Affine:
        """Exact multiples of `divisor` leave the floor: floor((d*x + y) / d) = x + floor(y / d)."""
        if divisor <= 0:
            raise ValueError(f"divisor must be positive, got {divisor}")
        if divisor == 1:
            return self
        whole = {key: c // divisor for key, c in self.terms if c % divisor == 0}
        rest = {key: c for key, c in self.terms if c % divisor}
        quotient, remainder = divmod(self.const, divisor)
        if rest:
            inner = FloorDiv(_make(rest, remainder), divisor)
            whole[inner] = whole.get(inner, 0) + 1
        return _make(whole, quotient)

    def __mod__(self, divisor: int) -> Affine:
        return self - (self // divisor) * divisor

    def __lt__(self, other: Affine) -> bool:
        return str(self) < str(other)

    @property
    def is_const(self) -> bool:
        """Whether no symbol occurs."""
        return not self.terms

    def coefficient(self, name: str) -> int:
        """Coefficient of `name` outside any floor."""
        return dict(self.terms).get(name, 0)

    def names(self) -> Iterator[str]:
        """Every name that occurs, inside floors too; may repeat."""
        for key, _ in self.terms:
            if isinstance(key, FloorDiv):
                yield from key.numerator.names()
            else:
                yield key

    def substitute(self, values: Mapping[str, AffineLike]) -> Affine:
        """Replace names by expressions, all at once."""
        if not any(name in values for name in self.names()):
            return self
        result = affine(self.const)
        for key, coefficient in self.terms:
            if isinstance(key, FloorDiv):
                replaced = key.numerator.substitute(values) // key.divisor
            else:
                replaced = affine(values[key]) if key in values else symbol(key)
            result = result + replaced * coefficient
        return result

    def evaluate(self, values: Mapping[str, int]) -> int:
        """The integer for given names; KeyError if one is missing."""
        total = self.const
        for key, coefficient in self.terms:
            if isinstance(key, FloorDiv):
                total += coefficient * (key.numerator.evaluate(values) // key.divisor)
            else:
                total += coefficient * values[key]
        return total

    def __str__(self) -> str:
        """In isl's syntax, so that the text of a Program can be pasted into isl."""
        text = ""
        for key, coefficient in self.terms:
            sign = "-" if coefficient < 0 else "+"
            factor = "" if abs(coefficient) == 1 else f"{abs(coefficient)}*"
            text += f" {sign} {factor}{key}" if text else f"{sign.strip('+')}{factor}{key}"
        if not text:
            return str(self.const)
        if self.const:
            text += f" {'-' if self.const < 0 else '+'} {abs(self.const)}"
        return text


AffineLike = Affine | int


def _make(terms: Mapping[Symbol, int], const: int) -> Affine:
    kept = sorted(((k, c) for k, c in terms.items() if c), key=lambda term: str(term[0]))
    return Affine(tuple(kept), const)


def affine(value: AffineLike) -> Affine:
    """An integer as an Affine; an Affine as itself."""
    return value if isinstance(value, Affine) else Affine((), int(value))


def symbol(name: str) -> Affine:
    """The iterator or parameter `name`."""
    return Affine(((name, 1),), 0)
