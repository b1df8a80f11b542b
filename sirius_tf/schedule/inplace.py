# SPDX-License-Identifier: Apache-2.0
"""Updates in place: what a statement leaves of an element that it finds where it would store.

    x[t + 1, r, j] = select(r = p[t], u[t, j], x[t, r, j]), x kept as x[t mod 1, r, j]
    ->  only row r = p[t] is computed: everywhere else an element is stored where it was loaded

That x[t] and x[t + 1] may share memory is said by dependences (storage.py); which points are left
by the conditions of selects. Neither asks what made the statement.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from sirius_tf.ir.affine import Affine
from sirius_tf.ir.expr import Call, Expr, Index, Load, loads, names_in
from sirius_tf.ir.program import Program, Statement
from sirius_tf.schedule.storage import Storage

Pins = tuple[Mapping[str, Expr], ...]


def passed_on(s: Statement) -> Load | None:
    """The element of its own target that a statement passes on; it reads no other of them."""
    own = [load for load in s.loads if load.tensor == s.target]
    return own[0] if len(own) == 1 and passes_on(s, own[0]) else None


def passes_on(s: Statement, old: Load) -> bool:
    """Whether a statement leaves an element as it is, or replaces it; or computes it from what it
    was, at points that one condition pins: those would be computed twice where two hold."""
    if s.reduce is not None or old not in loads(s.value):
        return False
    if any(old in loads(condition) for condition in _conditions(s.value)):
        return False
    if not accumulates(s, old):
        return True
    found = pins(s, old, [i.name for i in s.iters if not i.loop], None)
    return found is not None and len(found) == 1


def accumulates(s: Statement, old: Load) -> bool:
    """Whether an element is computed from what it was: then no point may be computed twice in
    place, as the ends of vectors are."""
    return any(old != value and old in loads(value) for value in _results(s.value))


def _results(value: Expr) -> Iterator[Expr]:
    """Every value that nested selects choose from."""
    match value:
        case Call("select", (_, a, b)):
            yield from _results(a)
            yield from _results(b)
        case _:
            yield value


def _conditions(value: Expr) -> Iterator[Expr]:
    """Every condition that nested selects choose by."""
    match value:
        case Call("select", (condition, a, b)):
            yield condition
            yield from _conditions(a)
            yield from _conditions(b)


def in_place(program: Program, s: Statement, storage: Storage) -> Load | None:
    """The element that a statement passes on, if it lies where the statement stores."""
    old = passed_on(s)
    if old is None:
        return None
    window = storage.window(program.tensor[s.target])
    for stored, loaded, slots in zip(s.index, old.index, window, strict=True):
        distance = stored - loaded if isinstance(loaded, Affine) else None
        if distance is None or not distance.is_const:
            return None
        if distance.const % slots if slots else distance.const:
            return None
    return old


def pins(s: Statement, old: Load, names: Collection[str], lanes: str | None) -> Pins | None:
    """Values of iterators among `names`: all points that do not pass on `old` have those of one
    entry. None if such points are everywhere.

    Every entry has the same iterators, and the values depend on none of these, nor on `lanes`.
    """
    found = [_pinned(conditions) for conditions in _replacing(s.value, old)]
    fixed: list[str] = []
    for name in names:
        values = [entry[name] for entry in found if name in entry]
        needed = {n for value in values for n in names_in(value)}
        held = {n for kept in fixed for entry in found for n in names_in(entry[kept])}
        if len(values) == len(found) and not needed & {name, lanes, *fixed} and name not in held:
            fixed.append(name)
    if found and not fixed:
        return None
    return tuple({name: entry[name] for name in fixed} for entry in found)


def _replacing(value: Expr, old: Load) -> tuple[tuple[Expr, ...], ...]:
    """Conjunctions: where the value is not `old`, one of them holds."""
    match value:
        case Load() if value == old:
            return ()
        case Call("select", (condition, a, b)):
            taken = tuple((condition, *others) for others in _replacing(a, old))
            return (*taken, *_replacing(b, old))
    return ((),)


def _pinned(conditions: Collection[Expr]) -> dict[str, Expr]:
    """For each iterator that a conjunction compares with another value, that value."""
    found: dict[str, Expr] = {}
    for condition in conditions:
        match condition:
            case Call("and", args):
                found |= _pinned(args)
            case Call("eq", (a, b)):
                for own, other in ((a, b), (b, a)):
                    match own:
                        case Index(Affine(((str(name), 1),), 0)):
                            found[name] = other
            case _:
                pass
    return found
