# SPDX-License-Identifier: Apache-2.0
"""Polynomials of parameters with integer coefficients, of which affine expressions are some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd, prod

from sirius_tf.ir.affine import Affine, FloorDiv, affine, symbol
from sirius_tf.ir.expr import Call, Const, Expr, Index

Monomial = tuple[str, ...]  # sorted names, repeated for powers; () is the constant


class NotAffineError(ValueError):
    """A polynomial of degree two or more where an affine expression is needed."""


@dataclass(frozen=True)
class Poly:
    """`sum(coefficient * monomial)`; `terms` is sorted and has no zero coefficient.

    Build one with `poly(...)` and the operators, never with the constructor.
    """

    terms: tuple[tuple[Monomial, int], ...] = ()

    def __add__(self, other: PolyLike) -> Poly:
        sums = dict(self.terms)
        for monomial, coefficient in poly(other).terms:
            sums[monomial] = sums.get(monomial, 0) + coefficient
        return _make(sums)

    def __radd__(self, other: PolyLike) -> Poly:
        return self + other

    def __neg__(self) -> Poly:
        return self * -1

    def __sub__(self, other: PolyLike) -> Poly:
        return self + poly(other) * -1

    def __rsub__(self, other: PolyLike) -> Poly:
        return poly(other) - self

    def __mul__(self, other: PolyLike) -> Poly:
        theirs = poly(other).terms
        for number, terms in ((theirs, self.terms), (self.terms, theirs)):
            if len(number) == 1 and not number[0][0]:  # most often: the order stays
                return Poly(tuple((m, c * number[0][1]) for m, c in terms))
        sums: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in theirs:
                monomial = tuple(sorted(left + right))
                sums[monomial] = sums.get(monomial, 0) + a * b
        return _make(sums)

    def __rmul__(self, other: PolyLike) -> Poly:
        return self * other

    @property
    def is_const(self) -> bool:
        """Whether no parameter occurs."""
        return all(not monomial for monomial, _ in self.terms)

    @property
    def is_name(self) -> bool:
        """Whether it is one parameter alone."""
        return [(len(monomial), c) for monomial, c in self.terms] == [(1, 1)]

    @property
    def const(self) -> int:
        """The constant term."""
        return dict(self.terms).get((), 0)

    @property
    def degree(self) -> int:
        """Greatest number of factors in a term; 0 for constants."""
        return max((len(monomial) for monomial, _ in self.terms), default=0)

    def exact_div(self, other: PolyLike) -> Poly | None:
        """The quotient if `other` divides this polynomial over the integers, else None."""
        divisor = poly(other)
        if not divisor.terms:
            return None
        lead, scale = divisor.terms[-1]
        rest, quotient = self, poly(0)
        while rest.terms:
            monomial, coefficient = rest.terms[-1]
            left = _without(monomial, lead)
            if left is None or coefficient % scale:
                return None
            step = _make({left: coefficient // scale})
            quotient, rest = quotient + step, rest - step * divisor
        return quotient

    def multiples(self, divisor: int) -> Poly:
        """The sum of the terms with a parameter whose coefficients `divisor` divides."""
        return _make({m: c for m, c in self.terms if m and c % divisor == 0})

    def to_affine(self) -> Affine:
        """The same value as an Affine; NotAffineError if a product of parameters occurs."""
        if self.degree > 1:
            raise NotAffineError(f"{self} is not affine")
        result = affine(self.const)
        for monomial, coefficient in self.terms:
            if monomial:
                result = result + symbol(monomial[0]) * coefficient
        return result

    def substitute(self, values: Mapping[str, PolyLike]) -> Poly:
        """Replace names by polynomials, all at once."""
        result = poly(0)
        for monomial, coefficient in self.terms:
            term = poly(coefficient)
            for name in monomial:
                term = term * (poly(values[name]) if name in values else poly(symbol(name)))
            result = result + term
        return result

    def evaluate(self, values: Mapping[str, int]) -> int:
        """The integer for given names; KeyError if one is missing."""
        return sum(c * prod(values[name] for name in monomial) for monomial, c in self.terms)

    def factors(self) -> tuple[Affine, ...]:
        """Affine atoms with this product, parameters first; NotAffineError if there are none."""
        if self.degree <= 1:
            return () if self == poly(1) else (self.to_affine(),)
        common = self.terms[0][0]
        for monomial, _ in self.terms:
            common = tuple(_common(common, monomial))
        content = gcd(*(c for _, c in self.terms))
        rest = self.exact_div(_make({common: content}))
        assert rest is not None
        last = rest * content
        names = tuple(symbol(name) for name in common)
        return names if last == poly(1) else (*names, last.to_affine())

    def to_expr(self, dtype: str = "int64") -> Expr:
        """The same value as an integer expression of parameters."""
        if self.degree <= 1:
            return Index(self.to_affine(), dtype)
        total: Expr | None = None
        for monomial, coefficient in self.terms:
            term: Expr = Const(coefficient, dtype)
            for name in monomial:
                factor = Index(symbol(name), dtype)
                term = factor if term == Const(1, dtype) else Call("mul", (term, factor), dtype)
            total = term if total is None else Call("add", (total, term), dtype)
        assert total is not None
        return total

    def __str__(self) -> str:
        texts = ["*".join((str(c), *m)) if c != 1 or not m else "*".join(m) for m, c in self.terms]
        return " + ".join(reversed(texts)) or "0"


PolyLike = Poly | Affine | int


def _degree_order(monomial: Monomial) -> tuple[int, Monomial]:
    """Graded lexicographic order, which multiplication preserves."""
    return len(monomial), tuple(reversed(monomial))


def _make(sums: Mapping[Monomial, int]) -> Poly:
    kept = [(m, c) for m, c in sums.items() if c]
    if len(kept) > 1:
        kept.sort(key=lambda term: _degree_order(term[0]))
    return Poly(tuple(kept))


def _without(monomial: Monomial, divisor: Monomial) -> Monomial | None:
    rest = list(monomial)
    for name in divisor:
        if name not in rest:
            return None
        rest.remove(name)
    return tuple(rest)


def _common(left: Monomial, right: Monomial) -> list[str]:
    return sorted((Counter(left) & Counter(right)).elements())


def poly(value: PolyLike) -> Poly:
    """An integer or affine expression (without floors) as a Poly; a Poly as itself."""
    if isinstance(value, Poly):
        return value
    if not isinstance(value, Affine) or not value.terms:
        number = value.const if isinstance(value, Affine) else int(value)
        return Poly((((), number),) if number else ())
    sums: dict[Monomial, int] = {(): value.const}
    for key, coefficient in value.terms:
        if isinstance(key, FloorDiv):
            raise NotAffineError(f"{key} is no polynomial: give it a parameter")
        sums[(key,)] = coefficient
    return _make(sums)
