# SPDX-License-Identifier: Apache-2.0
"""Integer polynomials over parameters: the values of shape arithmetic, in canonical form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.expr import Call, Const, Expr, Load, names_in
from sirius_tf.ir.polynomial import NotAffineError, Poly, PolyLike, poly
from sirius_tf.ir.program import UNBOUNDED, UNLIMITED, Param
from sirius_tf.ir.rewrite import fresh

_TRIPS = 16  # of a loop, as long as nothing is known
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

    def given(self, value: Poly) -> bool:
        """Whether a number that a request may choose freely occurs, and no size alone."""
        free = {p.name for p in self.defined if p.minimum == UNBOUNDED}
        return any(name in free for monomial, _ in value.terms for name in monomial)

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
        return fresh(stem, {p.name for p in self.defined})

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
                whole = left.multiples(right.const)
                if whole.terms:
                    rest = self.opaque(fn, left - whole, right)
                    part = whole.exact_div(right)
                    assert part is not None
                    return rest + part if fn == "floordiv" else rest
            nonnegative = fn == "floormod" or self.at_least(left, 0)
            low = 0 if nonnegative and self.at_least(right, 1) else UNBOUNDED
        hint = _OPAQUE[fn](left.evaluate(self.hints), right.evaluate(self.hints))
        call = Call(fn, (left.to_expr(), right.to_expr()), "int64")
        return self.define(f"{fn}{len(self.defined)}", call, hint, low)

    def _minimum_of(self, fn: str, left: Poly, right: Poly) -> int:
        bounds = [b for b in map(self.lower_bound, (left, right)) if b is not None]
        if fn == "max":
            return max(bounds, default=UNBOUNDED)
        return min(bounds) if len(bounds) == 2 else UNBOUNDED
