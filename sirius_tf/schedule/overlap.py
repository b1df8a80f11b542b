# SPDX-License-Identifier: Apache-2.0
"""Overlapped tiling: what is slid over once is defined a tile at a time, and the few rows that two
tiles need are computed for both (Krishnamoorthy et al. 2007, "Effective automatic parallelization
of stencil computations").

    e[h] = f(h), 0 <= h < H;   y[h] = sum over r < 3 of e[h + r]
    ->  e[u, l] = f(4*u + l), 0 <= l < 6;   y[h] = sum over r < 3 of e[floor(h/4), h mod 4 + r]

Iterations u of e and floor(h/4) of y are one loop then, and a tile of e stays in a near cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain
from math import prod
from typing import TypeVar

from sirius_tf.ir.affine import Affine, FloorDiv, affine, symbol
from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.dtypes import numpy_dtype, zero
from sirius_tf.ir.expr import (
    Call,
    Const,
    Index,
    Load,
    call,
    index,
    loads,
    names_in,
    walk,
)
from sirius_tf.ir.program import Iter, Program, Statement, Tensor, Tiles
from sirius_tf.ir.rewrite import along, define_elsewhere, map_loads, move, substitute_in
from sirius_tf.schedule.cpu_costs import CACHE, HIDING, OPERATION, READ, WRITTEN

T = TypeVar("T")


@dataclass(frozen=True)
class _Sliding:
    """`user` slides along `axis` over what `made` defines; `fills` define a constant border.

    It reads at `step * place`, and up to `reach` elements further.
    """

    tensor: Tensor
    axis: int
    made: Statement
    rows: Iter  # of `made`, along the axis
    fills: tuple[Statement, ...]
    user: Statement
    load: Load
    place: Iter
    step: int
    reach: int

    @property
    def rows_needed(self) -> tuple[int, int]:
        """The first and the last row that the user reads, counted from the first of the inside."""
        first = self.made.index[self.axis].const
        return -first, self.step * (self.place.extent.const - 1) + self.reach - first

    def length(self, size: int) -> int:
        """Elements along the axis that `size` places need."""
        return self.step * (size - 1) + self.reach + 1


def overlap(program: Program, workers: int) -> Program:
    """The program with temporaries in overlapping tiles, where that is worth the repeated work."""
    uses = Uses(program)
    for name in program.tensor:
        found = _sliding(uses, name)
        size = found and _tile_size(uses.program, found, workers)
        if found and size:
            uses = Uses(_tiled(uses.program, found, size))
    return uses.program


def _sliding(uses: Uses, name: str) -> _Sliding | None:
    """The temporary as one that a sum slides over: defined by one reduction and constant borders,
    and read by one statement; None if it is not.

    A temporary that takes longer to make than to store in a far cache would gain nothing.
    """
    tensor = uses.program.tensor[name]
    writers, users = uses.writers.get(name, []), uses.readers.get(name, [])
    made = [s for s in writers if s.reduce]
    fills = tuple(s for s in writers if isinstance(s.value, Const))
    if tensor.role != "temp" or len(made) != 1 or len(users) != 1 or users[0] in made:
        return None
    if len(made) + len(fills) != len(writers) or len({s.value for s in fills}) > 1:
        return None
    if any(s.guards or any(i.loop for i in s.iters) for s in (*writers, *users)):
        return None
    user = users[0]
    read = {x for x in loads(user.value) if x.tensor == tensor.name}
    if len(read) != 1 or user.reduce is None or read & set(user.finish_loads):
        return None
    (load,) = read
    for axis in range(len(tensor.shape)):
        found = _along_axis(tensor, axis, made[0], fills, user, load)
        if found:
            return found if _movable(uses.program, found) else None
    return None


def _along_axis(
    tensor: Tensor,
    axis: int,
    made: Statement,
    fills: tuple[Statement, ...],
    user: Statement,
    load: Load,
) -> _Sliding | None:
    """The temporary as one that its reader slides over along an axis: at step * place + taps, all
    of known extents; None if it does not."""
    i, rows = load.index[axis], _iter(made, made.index[axis])
    if not isinstance(i, Affine) or rows is None or user.reduce is None:
        return None
    taps = {x.name: x.extent for x in user.reduce.iters}
    places = [x for x in user.iters if x.name in set(i.names())]
    spread = [(i.coefficient(n), taps[n]) for n in i.names() if n in taps]
    if len(places) != 1 or not spread or len(i.terms) != len(spread) + 1 or i.const:
        return None
    step = i.coefficient(places[0].name)
    extents = (places[0].extent, rows.extent, *(e for _, e in spread))
    if not all(e.is_const for e in extents) or min(step, *(c for c, _ in spread)) <= 0:
        return None
    if not all(_whole(f, axis, made, rows) or _outside(f, axis, made, rows) for f in fills):
        return None
    reach = sum(c * (e.const - 1) for c, e in spread)
    return _Sliding(tensor, axis, made, rows, fills, user, load, places[0], step, reach)


def _iter(s: Statement, i: Affine) -> Iter | None:
    """The iterator of a subscript that is one, up to a constant."""
    found = [x for x in s.iters if i - symbol(x.name) == affine(i.const)]
    return found[0] if found else None


def _movable(program: Program, found: _Sliding) -> bool:
    """Whether it can be any row: only subscripts tell which, and where not all rows are those of
    the inside, they are of tensors that can have some more."""
    made, rows, (low, high) = found.made, found.rows, found.rows_needed
    inside = low >= 0 and high < rows.extent.const
    for node in chain(walk(made.value), walk(made.finish) if made.finish else ()):
        match node:
            case Index(value, _) if rows.name in set(value.names()):
                return False
            case Load(tensor, subscripts, _) if node != made.result and rows.name in names_in(node):
                affines = [i for i in subscripts if isinstance(i, Affine)]
                floors = any(isinstance(key, FloorDiv) for i in affines for key, _ in i.terms)
                steps = [i.coefficient(rows.name) for i in affines]
                if floors or min(steps) < 0 or not (inside or _can_widen(program, tensor)):
                    return False
            case _:
                pass
    return True


def _can_widen(program: Program, tensor: str) -> bool:
    """Whether a tensor is ours, made outside of loops, and no subscript of it depends on data."""
    indices = (index for s in program.statements for name, index in s.accesses if name == tensor)
    affine_only = all(isinstance(i, Affine) for index in indices for i in index)
    loops = any(i.loop for s in program.statements if s.target == tensor for i in s.iters)
    return affine_only and not loops and program.tensor[tensor].role == "temp"


def _whole(fill: Statement, axis: int, made: Statement, rows: Iter) -> bool:
    """Whether a part of the border goes along all rows of the inside."""
    first, own = fill.index[axis].const, _iter(fill, fill.index[axis])
    low = made.index[axis].const
    if own is None or not own.extent.is_const:
        return False
    return first <= low and first + own.extent.const >= low + rows.extent.const


def _outside(fill: Statement, axis: int, made: Statement, rows: Iter) -> bool:
    """Whether a part of the border is before, or after, all rows of the inside."""
    first, own = fill.index[axis].const, _iter(fill, fill.index[axis])
    count = own.extent if own else affine(1)
    low = made.index[axis].const
    if not count.is_const or (own is None and not fill.index[axis].is_const):
        return False
    return first + count.const <= low or first >= low + rows.extent.const


def _tile_size(program: Program, found: _Sliding, workers: int) -> int | None:
    """Places of a tile, or None if it is better to define the whole tensor first.

    Per element: what is computed twice, what idle workers could have computed, and what does not
    stay near although it is a tile, against a way to the far caches and back.
    """
    hints = program.hints
    shape = [e.evaluate(hints) for e in found.tensor.shape]
    itemsize = numpy_dtype(found.tensor.dtype).itemsize
    row, outer = prod(shape[found.axis + 1 :]) * itemsize, prod(shape[: found.axis])
    if prod(shape) * itemsize <= workers * CACHE:
        return None
    made, places = _cost(found.made, hints), found.place.extent.const
    missed = READ + max(WRITTEN - made / HIDING, 0)
    used = _cost(found.user, hints) * prod(i.extent.evaluate(hints) for i in found.user.iters)

    def cost(size: int) -> float:
        count = places // size
        twice = count * found.length(size) / shape[found.axis] - 1
        idle = -(-count * outer // workers) * workers / (count * outer) - 1
        far = missed if row * found.length(size) > CACHE else 0
        return twice * made + idle * (made + used / prod(shape)) + far

    best = min((size for size in range(1, places) if places % size == 0), key=cost, default=0)
    return best if best and cost(best) < missed else None


def _cost(s: Statement, hints: Mapping[str, int]) -> float:
    """Multiplications that take as long as an element of a statement."""
    iters = s.reduce.iters if s.reduce else ()
    calls = {e for e in walk(s.finish) if isinstance(e, Call)} if s.finish else set()
    return prod(i.extent.evaluate(hints) for i in iters) + OPERATION * len(calls)


def _tiled(program: Program, found: _Sliding, size: int) -> Program:
    """The program with the tensor in tiles for `size` places each."""
    tensor, axis, h = found.tensor, found.axis, symbol(found.place.name)
    program = _with_margins(program, found)
    made, user = (_named(program, s.name) for s in (found.made, found.user))
    count, length = affine(found.place.extent.const // size), affine(found.length(size))
    tile, inside = Iter(f"{found.rows.name}u", count), Iter(f"{found.rows.name}l", length)
    slid = found.load.index[axis]
    assert isinstance(slid, Affine)
    within = (h // size, slid - h // size * (size * found.step))
    load = replace(found.load, index=_replaced(found.load.index, axis, within))
    parts = {user.name: [map_loads(user, {tensor.name}, lambda x: load if x == found.load else x)]}
    parts[made.name] = [_made(made, found, size, tile, inside)]
    for s in found.fills:
        own = _iter(s, s.index[axis])
        kept = _whole(s, axis, found.made, found.rows)
        parts[s.name] = [_along(s, axis, own, tile, inside)] if own and kept else []
    statements = tuple(s for old in program.statements for s in parts.get(old.name, [old]))
    shape = _replaced(tensor.shape, axis, (count, length))
    tiled = replace(tensor, shape=shape, layout=Tiles(axis, size))
    tensors = tuple(tiled if t is tensor else t for t in program.tensors)
    return replace(program, tensors=tensors, statements=statements)


def _named(program: Program, name: str) -> Statement:
    return next(s for s in program.statements if s.name == name)


def _made(s: Statement, found: _Sliding, size: int, tile: Iter, inside: Iter) -> Statement:
    """The statement that defines the tiles. A row outside of those of the tensor has the border's
    value."""
    rows, (low, high) = found.rows, found.rows_needed
    row = symbol(tile.name) * (found.step * size) + symbol(inside.name) + low
    tests = [call("lt", index(row), index(0), dtype="bool")] if low < 0 else []
    if high >= rows.extent.const:
        tests.append(call("ge", index(row), index(rows.extent), dtype="bool"))
    new = _along(substitute_in(s, {rows.name: row}), found.axis, rows, tile, inside)
    if not tests:
        return new
    test, border = reduce(lambda a, b: call("or", a, b), tests), found.fills[0].value
    return replace(new, finish=call("select", test, border, new.finish or new.result))


def _with_margins(program: Program, found: _Sliding) -> Program:
    """The program with rows around what is read, so that all rows of the tiles can be computed."""
    rows, (low, high) = found.rows, found.rows_needed
    margins: dict[tuple[str, int], tuple[int, int]] = {}
    for x in found.made.loads:
        for axis, i in enumerate(x.index):
            step = i.coefficient(rows.name) if isinstance(i, Affine) else 0
            needed = (max(-low, 0) * step, max(high - rows.extent.const + 1, 0) * step)
            old = margins.get((x.tensor, axis), (0, 0))
            margins[x.tensor, axis] = max(old[0], needed[0]), max(old[1], needed[1])
    for (tensor, axis), (before, after) in margins.items():
        if before or after:
            program = _widened(program, program.tensor[tensor], axis, before, after)
    return program


def _widened(program: Program, tensor: Tensor, axis: int, before: int, after: int) -> Program:
    """The program with zeros before and after the elements of a tensor along an axis."""

    def widened(load: Load) -> Load:
        return along(load, axis, lambda i: i + before)

    statements = [move(s, {tensor.name}, widened) for s in program.statements]
    extent = tensor.shape[axis]
    iters = tuple(Iter(f"i{k}", e) for k, e in enumerate(tensor.shape))
    for count, first in ((before, affine(0)), (after, extent + before)):
        own = _replaced(iters, axis, (replace(iters[axis], extent=affine(count)),))
        index = tuple(symbol(i.name) for i in own)
        name = f"{tensor.name}_margin{axis}_{len(statements)}"
        fill = Statement(
            name,
            own,
            tensor.name,
            _replaced(index, axis, (index[axis] + first,)),
            zero(tensor.dtype),
        )
        statements += [fill] if count else []
    wider = replace(tensor, shape=_replaced(tensor.shape, axis, (extent + (before + after),)))
    tensors = tuple(wider if t is tensor else t for t in program.tensors)
    return replace(program, tensors=tensors, statements=tuple(statements))


def _along(s: Statement, axis: int, rows: Iter, tile: Iter, inside: Iter) -> Statement:
    """A statement that defines an element for every row of every tile."""
    place = _replaced(s.index, axis, (symbol(tile.name), symbol(inside.name)))
    iters = _replaced(s.iters, s.iters.index(rows), (tile, inside))
    return replace(define_elsewhere(s, s.target, place), iters=iters)


def _replaced(items: tuple[T, ...], k: int, new: tuple[T, ...]) -> tuple[T, ...]:
    return (*items[:k], *new, *items[k + 1 :])
