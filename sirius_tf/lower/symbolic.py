# SPDX-License-Identifier: Apache-2.0
"""Integer polynomials over parameters: the values of shape arithmetic, in canonical form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import gcd, prod

from sirius_tf.ir.affine import Affine, FloorDiv, affine, symbol
from sirius_tf.ir.expr import Call, Const, Expr, Index, Load, names_in
from sirius_tf.ir.program import UNLIMITED, Param

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
        sums: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in poly(other).terms:
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

    def to_affine(self) -> Affine:
        """As an Affine; NotAffineError if a product of parameters occurs."""
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
        """As an integer expression of parameters."""
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


_TRIPS = 16  # of a loop, as long as nothing is known
UNBOUNDED = -(2**63)  # the minimum of a parameter of which nothing is known
_OPAQUE: Mapping[str, Callable[[int, int], int]] = {
    "min": min,
    "max": max,
    "floordiv": lambda a, b: a // b if b else 0,
    "floormod": lambda a, b: a % b if b else 0,
}


@dataclass
class Params:
    """The parameters of a program under construction, in order of definition.

    `loops` are the loops that are being lowered, outer ones first: iterator and trip count (None
    while the condition is read). An iterator may occur in polynomials, but not in a parameter; nor
    may a trip count that data decides, which is in `late` with its upper bound.
    """

    defined: list[Param] = field(default_factory=list)
    loops: dict[str, Poly | None] = field(default_factory=dict)
    late: dict[str, Poly] = field(default_factory=dict)
    _by_value: dict[Expr, str] = field(default_factory=dict)

    @property
    def hints(self) -> dict[str, int]:
        """Parameter values on the sample inputs, in the first iteration of every loop."""
        return {p.name: p.hint for p in self.defined} | dict.fromkeys(self.loops, 0)

    def vary(self, expr: Expr) -> bool:
        """Whether an expression depends on the iteration of a loop, or on how many it had."""
        return any(name in self.loops or name in self.late for name in names_in(expr))

    def iterates(self, value: Poly) -> bool:
        """Whether the iterator of a loop occurs."""
        return any(name in self.loops for monomial, _ in value.terms for name in monomial)

    def depends(self, value: PolyLike) -> bool:
        """Whether a trip count that data decides occurs."""
        return any(name in self.late for monomial, _ in poly(value).terms for name in monomial)

    def define(self, stem: str, value: Expr, hint: int, minimum: int = 0) -> Poly:
        """The parameter with definition `value`; the existing one if there is one."""
        if self.vary(value):
            raise NotAffineError("a size or position is not affine in the iteration of a loop")
        if value not in self._by_value:
            self._by_value[value] = self._fresh(stem)
            self.defined.append(Param(self._by_value[value], value, minimum, hint))
        return poly(symbol(self._by_value[value]))

    def define_trips(self, loop: str, go: Load, bound: Poly | None) -> Poly:
        """The trip count of a loop that goes on while `go` holds, `bound` times at most."""
        limit = Const(UNLIMITED, "int64")
        value: Expr = limit if bound is None else bound.to_expr()
        bound = self.define(f"{loop}_most", limit, _TRIPS) if bound is None else bound
        name = self._fresh(f"{loop}_trips")
        self.defined.append(Param(name, value, 0, bound.evaluate(self.hints), go))
        self.late[name] = bound
        return poly(symbol(name))

    def _fresh(self, stem: str) -> str:
        used, name = {p.name for p in self.defined}, stem
        while name in used:
            name = f"{stem}_{len(self.defined)}"
            stem += "_"
        return name

    def most(self, extent: Affine) -> Affine:
        """An extent with the trip counts that data decides at their bounds: what is allocated."""
        known = {name: bound for name, bound in self.late.items() if extent.coefficient(name)}
        ends = {n: bound if extent.coefficient(n) > 0 else poly(0) for n, bound in known.items()}
        return poly(extent).substitute(ends).to_affine() if ends else extent

    def limited(self, extent: Affine) -> bool:
        """Whether an extent is largest at the bounds of trip counts, and these are bounded."""
        endless = {str(bound) for bound in self.late.values()}
        endless &= {p.name for p in self.defined if p.unlimited}
        late = {name: self.late[name] for name in extent.names() if name in self.late}
        return all(
            extent.coefficient(name) > 0 and str(bound) not in endless
            for name, bound in late.items()
        )

    def least(self, value: PolyLike) -> Poly | None:
        """A bound below `value` in every iteration: a linear function is least at an end.

        None if the sign of a slope is not known.
        """
        value = poly(value)
        for name, trips in reversed(self.loops.items()):
            first = value.substitute({name: 0})
            slope = (value - first).exact_div(symbol(name))
            assert slope is not None
            if not slope.terms:
                continue
            if self.at_least(slope, 0):
                value = first
            elif trips is not None and slope == slope.substitute({name: 0}):
                if not self.at_least(-slope, 0):
                    return None
                value = first + slope * (trips - 1)
            else:
                return None
        for name, bound in reversed(self.late.items()):
            first = value.substitute({name: 0})
            slope = (value - first).exact_div(symbol(name))
            if slope is None or not slope.is_const:
                return None
            value = first if slope.const >= 0 else value.substitute({name: bound})
        return value

    def greatest(self, value: PolyLike) -> Poly | None:
        """A bound above `value` in every iteration, if one is known."""
        below = self.least(-poly(value))
        endless = {p.name for p in self.defined if p.unlimited}
        if below is None or any(endless.intersection(names) for names, _ in below.terms):
            return None
        return -below

    def lower_bound(self, value: PolyLike) -> int | None:
        """A constant that `value` is never below, from the parameters' minima; None if unknown."""
        minima = {p.name: p.minimum for p in self.defined}
        least = self.least(value) if self.loops or self.late else poly(value)
        if least is None:
            return None
        value = least
        negative = any(c < 0 for m, c in value.terms if m)
        if negative or any(minima.get(n, -1) < 0 for m, _ in value.terms for n in m):
            return None
        return value.evaluate(minima)

    def at_least(self, value: PolyLike, bound: PolyLike) -> bool:
        """Whether `value >= bound` follows from the parameters' minima."""
        low = self.lower_bound(poly(value) - bound)
        return low is not None and low >= 0

    def opaque(self, fn: str, left: PolyLike, right: PolyLike) -> Poly:
        """min, max, floordiv or floormod of polynomials: simplified, else a fresh parameter."""
        left, right = poly(left), poly(right)
        if left.is_const and right.is_const and (right.const or fn in ("min", "max")):
            return poly(_OPAQUE[fn](left.const, right.const))
        if fn in ("min", "max"):
            if left == right or self.at_least(left, right):
                return right if fn == "min" else left
            if self.at_least(right, left):
                return left if fn == "min" else right
            low = self._minimum_of(fn, left, right)
        else:
            quotient = left.exact_div(right)
            if quotient is not None and (right.const > 0 or not right.is_const):
                return quotient if fn == "floordiv" else poly(0)
            if right.is_const and right.const > 0:
                whole = _make({m: c for m, c in left.terms if m and c % right.const == 0})
                if whole.terms:
                    rest = self.opaque(fn, left - whole, right)
                    part = whole.exact_div(right)
                    assert part is not None
                    return rest + part if fn == "floordiv" else rest
            positive = (self.lower_bound(right) or 0) > 0
            low = (
                0
                if positive and (fn == "floormod" or (self.lower_bound(left) or 0) >= 0)
                else UNBOUNDED
            )
        hint = _OPAQUE[fn](left.evaluate(self.hints), right.evaluate(self.hints))
        call = Call(fn, (left.to_expr(), right.to_expr()), "int64")
        return self.define(f"{fn}{len(self.defined)}", call, hint, low)

    def _minimum_of(self, fn: str, left: Poly, right: Poly) -> int:
        bounds = [b for b in map(self.lower_bound, (left, right)) if b is not None]
        if fn == "max":
            return max(bounds, default=UNBOUNDED)
        return min(bounds) if len(bounds) == 2 else UNBOUNDED
