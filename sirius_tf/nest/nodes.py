# SPDX-License-Identifier: Apache-2.0
"""LoopNest: what a printer walks. No isl object is left in it.

Loop t = 0 .. T
    Phase
        parallel Loop b = 0 .. B by 8
            Tile
                Loop i = b .. min(B, b + 8)
                    Run cell[t, i]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sirius_tf.ir import program as ir
from sirius_tf.ir.affine import Affine
from sirius_tf.ir.expr import Load
from sirius_tf.ir.printer import show_expr


@dataclass(frozen=True)
class Bound:
    """The minimum (of an upper bound) or maximum (of a lower bound) of `terms`."""

    terms: tuple[Affine, ...]


@dataclass(frozen=True)
class Loop:
    """`for var in lower .. upper (exclusive), step`; a parallel one runs in any order.

    With `trips`, it runs while `go` (subscripted by `var`) holds, and that parameter is the value
    of `var` afterwards.
    """

    var: str
    lower: Bound
    upper: Bound
    step: int
    parallel: bool
    body: LoopNest
    go: Load | None = None
    trips: str = ""


@dataclass(frozen=True)
class Guard:
    """The body where every condition is >= 0; `otherwise`, if any, elsewhere."""

    conditions: tuple[Affine, ...]
    body: LoopNest
    otherwise: LoopNest | None = None


@dataclass(frozen=True)
class When:
    """The body where every guard holds, which is the same for all workers."""

    guards: tuple[ir.Guard, ...]
    body: LoopNest


@dataclass(frozen=True)
class Block:
    """The parts one after the other."""

    parts: tuple[LoopNest, ...]


@dataclass(frozen=True)
class Phase:
    """Its parallel loops are divided among the workers; it ends with a barrier.

    `number`: its place among the phases of a region, from 1, once they are numbered.
    """

    body: LoopNest
    number: int = 0


@dataclass(frozen=True)
class Tile:
    """The part that one worker runs at one point of the parallel loops around it.

    isl may take a loop of a single iteration apart, a statement at a time: pieces of one `cluster`
    are the same worker's.
    """

    body: LoopNest
    cluster: str = ""


@dataclass(frozen=True)
class Run:
    """One instance of a statement: the values of its iterators."""

    statement: str
    iters: tuple[Affine, ...]


@dataclass(frozen=True)
class Range:
    """An iterator of a box: `low` is the C argument `<name>_lo`, or a constant; so is the size.

    `aligned`: the low end is a multiple of PANEL. `most`: the size is no more, if that is known.
    """

    name: str
    low: int | None
    size: int | None
    aligned: bool
    most: int | None = None

    @property
    def lo(self) -> str:
        """C of the low end."""
        return str(self.low) if self.low is not None else f"{self.name}_lo"

    @property
    def n(self) -> str:
        """C of the number of values."""
        return str(self.size) if self.size is not None else f"{self.name}_n"

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the C arguments that the caller passes."""
        given = ((self.low, f"{self.name}_lo"), (self.size, f"{self.name}_n"))
        return tuple(name for known, name in given if known is None)

    @property
    def capacity(self) -> int:
        """The size, or the most it can be; 0 if nobody knows."""
        return self.size or self.most or 0


@dataclass(frozen=True)
class Box:
    """A statement in loops that run nothing else: `ranges` of the iterators these go through.

    It is all of a leaf, which is printed as a function (nest/boxes.py makes them of loops).
    """

    run: Run
    loops: tuple[Loop, ...]
    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class Wait:
    """The threads of a worker wait for each other, for a reason that people are told."""

    reason: str


LoopNest = Loop | Guard | When | Block | Phase | Tile | Run | Box | Wait


def parts_of(nest: LoopNest) -> tuple[LoopNest, ...]:
    """The nodes directly inside."""
    match nest:
        case Block(parts):
            return parts
        case Guard(_, body, otherwise):
            return (body, otherwise) if otherwise else (body,)
        case Run() | Wait():
            return ()
        case Box(run, loops):
            return loops[:1] or (run,)
    return (nest.body,)


def map_parts(nest: LoopNest, fn: Callable[[LoopNest], LoopNest]) -> LoopNest:
    """The node with `fn` of its parts."""
    match nest:
        case Block(parts):
            return Block(tuple(map(fn, parts)))
        case Guard(conditions, body, otherwise):
            return Guard(conditions, fn(body), fn(otherwise) if otherwise else None)
        case Loop() | When() | Phase() | Tile():
            return replace(nest, body=fn(nest.body))
    return nest


def walk(nest: LoopNest) -> Iterator[LoopNest]:
    """The nest and everything inside, in order."""
    yield nest
    for part in parts_of(nest):
        yield from walk(part)


def chain_of(nest: LoopNest) -> tuple[list[Loop], LoopNest]:
    """Loops right inside of each other, and what the innermost runs."""
    loops = []
    while isinstance(nest, Loop):
        loops.append(nest)
        nest = nest.body
    return loops, nest


def rectangle_of(outermost: Loop) -> tuple[list[Loop], LoopNest]:
    """Loops right inside of each other, of which none bounds another, and what they run."""
    loops, bound = list[Loop](), set[str]()
    nest: LoopNest = outermost
    while isinstance(nest, Loop) and not bound & bound_names(nest):
        loops.append(nest)
        bound.add(nest.var)
        nest = nest.body
    return loops, nest


def is_box(chain: list[Loop], run: Run) -> bool:
    """Every loop is one iterator of the statement, and no bound depends on another of them."""
    names = {loop.var for loop in chain}
    if any(names & bound_names(loop) or loop.step != 1 for loop in chain):
        return False
    used = [v for v in run.iters if names & set(v.names())]
    return sorted(map(str, used)) == sorted(names)


def bound_names(loop: Loop) -> set[str]:
    """The names on which the bounds of a loop depend."""
    return {n for t in (*loop.lower.terms, *loop.upper.terms) for n in t.names()}


def show(nest: LoopNest, depth: int = 0) -> str:
    """Text a person can read, one line per node."""
    pad = "  " * depth
    match nest:
        case Loop(var, lower, upper, step, parallel, body, go, trips):
            kind = "parallel for" if parallel else "for"
            by = "" if step == 1 else f" by {step}"
            span = f"{_bound('max', lower)} .. {_bound('min', upper)}{by}"
            if go:
                span = f"0 .. {trips}, while {show_expr(go)}"
            return f"{pad}{kind} {var} in {span}\n" + show(body, depth + 1)
        case When(guards, body):
            texts = [f"{'' if g.holds else 'not '}{show_expr(g.condition)}" for g in guards]
            return f"{pad}when {' and '.join(texts)}\n" + show(body, depth + 1)
        case Guard(conditions, body, otherwise):
            tests = " and ".join(f"{c} >= 0" for c in conditions)
            rest = f"{pad}else\n" + show(otherwise, depth + 1) if otherwise else ""
            return f"{pad}if {tests}\n" + show(body, depth + 1) + rest
        case Block(parts):
            return "".join(show(part, depth) for part in parts)
        case Phase(body, _):
            return f"{pad}phase\n" + show(body, depth + 1)
        case Tile(body, _):
            return f"{pad}tile\n" + show(body, depth + 1)
        case Run(statement, iters):
            return f"{pad}{statement}[{', '.join(map(str, iters))}]\n"
        case Box():
            return "".join(show(part, depth) for part in parts_of(nest))
        case Wait(reason):
            return f"{pad}wait: {reason}\n"


def _bound(function: str, bound: Bound) -> str:
    texts = [str(t) for t in bound.terms]
    return texts[0] if len(texts) == 1 else f"{function}({', '.join(texts)})"


def pieces(nest: LoopNest) -> Iterator[Loop | Tile]:
    """The outermost loops over tiles, and the single tiles, of a phase."""
    if isinstance(nest, Loop | Tile):
        yield nest
        return
    for part in parts_of(nest):
        yield from pieces(part)
