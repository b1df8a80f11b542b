# SPDX-License-Identifier: Apache-2.0
"""Microkernels: how the threads of a block compute a leaf together, chosen from its accesses.

    products   a warp multiplies small matrices (mma.sync), whose operands are staged
    staged     a thread has some rows and lanes, whose operands are staged
    threads    likewise, or a warp, or several, have a point; operands come from where they are
    awaits     threads copy the words of other blocks

A leaf is a statement over a box (nest/boxes.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sirius_tf.ir.affine import Affine
from sirius_tf.ir.expr import Call, Expr, Load, loads, names_in
from sirius_tf.ir.program import Iter, Program, Statement
from sirius_tf.mapping.exchange import AT_ONCE
from sirius_tf.mapping.operand import Operand, place, stored
from sirius_tf.mapping.tiling import Format, Tiling, apart, choose_format, choose_tiling, tilings
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.nest.nodes import Range
from sirius_tf.nest.scheduled import Scheduled
from sirius_tf.schedule.gpu_costs import FILLED, LEAST_SHARING, LEAST_TERMS, MOST_STAGED
from sirius_tf.schedule.plan import PANEL, Plan
from sirius_tf.schedule.tile import of_thread, warps_of_point

STEP = 8  # words of 32 bits of a row that one mma sums up: 16 elements of 16 bits, or 8 of tf32
PANEL_OF_TILES = 64  # values of an iterator that are staged together: tiles of up to 32, aligned
DEPTH = 16  # terms of a chunk of staged operands
_CHUNKS = (32, 16)  # words of a row that are staged together, for products
_VECTOR = 4  # floats that may be copied at once


@dataclass(frozen=True)
class Threads:
    """Each thread, or warp, has `rows` times `lanes` sums; or `warps` have a point together."""

    rows: int = 1
    lanes: int = 1
    warps: int = 1


@dataclass(frozen=True)
class Staged:
    """Each thread has `rows` times `lanes` sums, of operands in shared memory."""

    rows: int
    lanes: int


@dataclass(frozen=True)
class Products:
    """Warps have tiles of products of matrices, `words` of each row staged together."""

    form: Format
    tiling: Tiling
    words: int


@dataclass(frozen=True)
class Awaits:
    """Each thread looks for `at_once` words of other blocks at a time."""

    at_once: int


Micro = Threads | Staged | Products | Awaits


@dataclass(frozen=True)
class Panel(Range):
    """A few values of a range at a time: `<name>_left` of them from `<name>_from` on."""

    @property
    def lo(self) -> str:
        """C of the low end."""
        return f"{self.name}_from"

    @property
    def n(self) -> str:
        """C of the number of values."""
        return f"{self.name}_left"


def is_warps(program: Program, s: Statement, plan: Plan) -> bool:
    """Whether a warp can sum up what a plan wants it to."""
    dtype = program.tensor[s.target].dtype
    summed = s.reduce is not None and s.reduce.op in ("add", "max", "min") and dtype == "float32"
    return summed or not plan.across


def plan_of(kernel: Scheduled, leaf: Leaf) -> Plan:
    """The plan of a leaf: lanes that do not run in it are none."""
    plan = kernel.plans[leaf.statement.name]
    runs = plan.across or plan.lanes in {r.name for r in leaf.box}
    return plan if runs else replace(plan, lanes=None)


def choose_micro(kernel: Scheduled, leaf: Leaf, kept: bool = False) -> Micro:
    """The microkernel of a leaf; `kept`: of a tile that has constants in shared memory already."""
    if _is_copy_of_words(kernel, leaf):
        return _awaits(kernel, leaf)
    found: Micro | None = None
    if not kept:
        found = _products(kernel, leaf) or _staged(kernel, leaf)
    return found or _threads(kernel, leaf)


def is_possible(kernel: Scheduled, leaf: Leaf, how: Micro, kept: bool = False) -> bool:
    """Whether a leaf may be computed so, be that fast or not."""
    if _is_copy_of_words(kernel, leaf):
        return isinstance(how, Awaits) and how.at_once > 0
    match how:
        case Awaits():
            return False
        case Threads(rows, lanes, warps) if warps > 1:
            most = kernel.machine.threads // kernel.machine.warp
            return plan_of(kernel, leaf).across and (rows, lanes) == (1, 1) and warps <= most
        case Threads(rows, lanes):
            return _are_sums(kernel, leaf, rows, lanes)
        case Staged(rows, lanes):
            stages = not kept and _can_stage(kernel, leaf) and _fits(kernel, leaf, how)
            return stages and _are_sums(kernel, leaf, rows, lanes)
        case Products(_, tiling, words):
            found = None if kept else _matrices(kernel, leaf)
            if found is None or words not in found.chunks or how.form != found.form:
                return False
            return tiling in found.tilings(words) and _fits(kernel, leaf, how)


def _are_sums(kernel: Scheduled, leaf: Leaf, rows: int, lanes: int) -> bool:
    """Whether a thread can have so many rows and lanes."""
    plan, names = plan_of(kernel, leaf), {r.name for r in leaf.box}
    names = names if leaf.statement.reduce else set()
    counts = ((plan.rows, rows), (None if plan.across else plan.lanes, lanes))
    return all(n == 1 or (n in (2, 4) and name in names) for name, n in counts)


def _fits(kernel: Scheduled, leaf: Leaf, how: Micro) -> bool:
    return shared_words(kernel, leaf, how) <= MOST_STAGED


def _is_copy_of_words(kernel: Scheduled, leaf: Leaf) -> bool:
    words = {w.name for w in kernel.storage.words.values()}
    return any(load.tensor in words for load in leaf.statement.loads[:1])


def shared_words(kernel: Scheduled, leaf: Leaf, how: Micro) -> int:
    """Words of static shared memory that a leaf needs."""
    warps = kernel.machine.threads // kernel.machine.warp
    match how:
        case Threads():
            return warps if how.warps > 1 else 0
        case Staged():
            return sum(o.words for o in staged_operands(kernel, leaf))
        case Products():
            staged = sum(o.words for o in product_operands(kernel, leaf, how))
            return max(staged, warps * how.tiling.words)
        case Awaits():
            return 0


def most_of(program: Program, leaf: Leaf) -> dict[str, int]:
    """The size of each range, or a guess."""
    extents = {i.name: i.extent for i in leaf.statement.iters}

    def most(r: Range) -> int:
        if r.size is not None:
            return max(r.size, 1)
        guess = extents[r.name].evaluate(program.hints)
        return max(guess if r.most is None else min(guess, r.most), 1)

    return {r.name: most(r) for r in leaf.box}


# Threads


def _awaits(kernel: Scheduled, leaf: Leaf) -> Awaits:
    most = math.prod(r.capacity for r in leaf.box)  # 0 if that is not known
    return Awaits(min(-(-most // kernel.machine.threads), AT_ONCE) if most else AT_ONCE)


def _threads(kernel: Scheduled, leaf: Leaf) -> Threads:
    if plan_of(kernel, leaf).across:
        points = math.prod(r.capacity for r in leaf.box)
        extents = [i.extent.evaluate(kernel.program.hints) for i in _reduced(leaf)]
        warps = warps_of_point(points, math.prod(extents), kernel.machine)
        if warps > 1:
            return Threads(warps=warps)
    return Threads(*_sums_of_thread(kernel, leaf))


def _sums_of_thread(kernel: Scheduled, leaf: Leaf) -> tuple[int, int]:
    """The rows and lanes of the sums that a thread, or a warp, has."""
    if leaf.statement.reduce is None:
        return 1, 1
    most, machine, plan = most_of(kernel.program, leaf), kernel.machine, plan_of(kernel, leaf)
    names = (plan.rows, None if plan.across else plan.lanes)
    others = math.prod(n for name, n in most.items() if name not in names)
    busy = machine.threads // (machine.warp if plan.across else 1)
    rows, lanes = (str(n) for n in names)
    best = of_thread(most.get(rows, 1), most.get(lanes, 1), others, busy)
    return best[0] if rows in most else 1, best[1] if lanes in most else 1


def _reduced(leaf: Leaf) -> Sequence[Iter]:
    return leaf.statement.reduce.iters if leaf.statement.reduce else ()


def _sides(kernel: Scheduled, leaf: Leaf) -> tuple[Range, Range] | None:
    """The ranges of rows and lanes of a sum, if both run in the leaf."""
    box, reduce = {r.name: r for r in leaf.box}, leaf.statement.reduce
    plan = kernel.plans[leaf.statement.name]
    rows, lanes = box.get(plan.rows or ""), box.get(plan.lanes or "")
    if reduce is None or reduce.op != "add" or rows is None or lanes is None or plan.across:
        return None
    return rows, lanes


# Staged operands


def _staged(kernel: Scheduled, leaf: Leaf) -> Staged | None:
    """None if no two operands are shared by several threads, or rows and lanes alone do not keep
    the threads busy, beside others."""
    sides, program = _sides(kernel, leaf), kernel.program
    if sides is None or not _can_stage(kernel, leaf):
        return None
    enough = _reduced(leaf)[-1].extent.evaluate(program.hints) >= 2 * DEPTH
    if not enough or min(r.capacity for r in sides) < LEAST_SHARING:
        return None
    busy = math.prod(most_of(program, leaf)[r.name] for r in sides) >= kernel.machine.threads
    how = Staged(*_sums_of_thread(kernel, leaf))
    return how if _fits(kernel, leaf, how) and (busy or len(leaf.box) == 2) else None


def _can_stage(kernel: Scheduled, leaf: Leaf) -> bool:
    """Whether rows and lanes, of known sizes, share an operand each."""
    sides = _sides(kernel, leaf)
    return (
        sides is not None
        and all(r.capacity for r in sides)
        and len(_shared_loads(leaf.statement, *sides)) == 2
    )


def _shared_loads(s: Statement, rows: Range, lanes: Range) -> list[tuple[Load, Range]]:
    """Operands that all rows share, or all lanes, with what they go along."""
    assert s.reduce is not None
    depth, found = s.reduce.iters[-1], list[tuple[Load, Range]]()
    for along, other in ((rows, lanes), (lanes, rows)):
        for load in loads(s.value):
            names = names_in(load)
            plain = load.dtype == "float32" and all(isinstance(i, Affine) for i in load.index)
            if plain and {along.name, depth.name} <= names and other.name not in names:
                found.append((load, along))
                break
    return found


def staged_operands(kernel: Scheduled, leaf: Leaf) -> tuple[Operand, ...]:
    """The operands that threads stage, one behind the other."""
    sides, s, first, found = _sides(kernel, leaf), leaf.statement, 0, list[Operand]()
    assert sides is not None
    for load, r in _shared_loads(s, *sides):
        count, scalar = -(-r.capacity // _VECTOR) * _VECTOR, r is sides[1]
        found.append(place(kernel, s, load, r, _reduced(leaf)[-1], count, DEPTH, first, scalar))
        first += found[-1].words
    return tuple(found)


# Products of matrices


@dataclass(frozen=True)
class _Matrices:
    """The points along rows and lanes of a product that warps may multiply, its format, and words
    that may be staged together."""

    rows: int
    lanes: int
    form: Format
    chunks: tuple[int, ...]
    warps: int

    def tilings(self, words: int) -> list[Tiling]:
        """The tilings of the box."""
        return tilings(self.rows, self.lanes, self.warps, words // STEP, self.form.split)


def _matrices(kernel: Scheduled, leaf: Leaf) -> _Matrices | None:
    """None if it is no product of matrices, or its factors are not to be rounded."""
    sides, machine = _sides(kernel, leaf), kernel.machine
    pair = _pair(leaf.statement, *sides) if sides else None
    form = choose_format(pair, machine.precision) if pair else None
    if sides is None or form is None:
        return None
    rows, lanes = (_panel(r).capacity for r in sides)
    short = _terms(kernel, leaf) <= _CHUNKS[-1] * form.per_word
    return _Matrices(rows, lanes, form, _CHUNKS[short:], machine.threads // machine.warp)


def _terms(kernel: Scheduled, leaf: Leaf) -> int:
    return max(i.extent.evaluate(kernel.program.hints) for i in _reduced(leaf))


def _products(kernel: Scheduled, leaf: Leaf) -> Products | None:
    """None if it is no product of matrices that is worth the while of a warp: tiles keep half of
    the warps busy, are not mostly outside of the box, and fit."""
    found = _matrices(kernel, leaf)
    if found is None or _terms(kernel, leaf) < LEAST_TERMS:
        return None
    box, split = (found.rows, found.lanes, found.warps), found.form.split
    best = (Products(found.form, choose_tiling(*box, n // STEP, split), n) for n in found.chunks)
    how = next((how for how in best if _fits(kernel, leaf, how)), None)
    if how is None:
        return None
    sides, most, t = _sides(kernel, leaf), most_of(kernel.program, leaf), how.tiling
    sizes = zip(sides or (), (found.rows, found.lanes), strict=True)
    inside = math.prod(min(most[r.name], size) for r, size in sizes)
    busy = len(leaf.box) == 2 or t.tiles * t.groups >= found.warps // 2
    return how if busy and inside >= FILLED * t.points else None


def _pair(s: Statement, rows: Range, lanes: Range) -> tuple[Expr, Expr] | None:
    """The factors of rows and lanes."""
    match s.value:
        case Call("mul", (x, y), "float32"):
            pairs = ((x, y), (y, x))
            return next((p for p in pairs if apart(p, rows.name, lanes.name)), None)
    return None


def _panel(r: Range) -> Range:
    """The range, or panels of it if it is long, or nobody knows."""
    if 0 < r.capacity <= PANEL_OF_TILES:
        return r
    aligned = r.aligned or (r.low is not None and r.low % PANEL == 0)
    return Panel(r.name, None, None, aligned, PANEL_OF_TILES)


def depth_of(program: Program, leaf: Leaf) -> Iter:
    """The iterator of the reduction that is cut into chunks."""
    return max(reversed(_reduced(leaf)), key=lambda i: i.extent.evaluate(program.hints))


def product_operands(kernel: Scheduled, leaf: Leaf, how: Products) -> tuple[Operand, Operand]:
    """The operands along m and n, whose chunks have a number of words."""
    sides, t, form, s = _sides(kernel, leaf), how.tiling, how.form, leaf.statement
    pair = _pair(s, *sides) if sides else None
    assert sides and pair
    factors = list(zip(map(_panel, sides), pair, strict=True))
    terms, depth = how.words * form.per_word, depth_of(kernel.program, leaf)
    (m, left), (n, right) = factors[::-1] if t.by_lanes else factors
    counts = (t.m * t.along[0], t.n * t.along[1])
    first = place(kernel, s, stored(left, form.dtype), m, depth, counts[0], terms, 0)
    second = place(kernel, s, stored(right, form.dtype), n, depth, counts[1], terms, first.words)
    return first, second
