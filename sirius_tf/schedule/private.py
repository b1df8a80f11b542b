# SPDX-License-Identifier: Apache-2.0
"""Privatization: what a tile alone defines and uses has no place in memory but its worker's.

    parallel i by 56:  in sequence  c[i, j] = sum over k ...;  y[i, j] = c[i, j] * sigmoid(c[i, j])
    ->  c is 56 rows for each worker, which stay in its cache

Workers run other tiles at the same time, hence a copy for each; that no other tile needs the
elements is what makes the loops parallel, and is verified as such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sirius_tf.ir.affine import Affine, FloorDiv, affine
from sirius_tf.ir.expr import Expr
from sirius_tf.ir.program import Program, Statement
from sirius_tf.schedule.storage import Window
from sirius_tf.schedule.tree import Band, Filter, Node, Phase, Sequence, Tile

Sizes = dict[str, dict[str, int]]  # of a cluster: that of the tile by statement and iterator


def private(program: Program, root: Node) -> dict[str, Window]:
    """The sizes of a tile along the dimensions of each temporary that one tile alone needs."""
    users: dict[str, set[str]] = {}
    for s in program.statements:
        for name in {s.target, *(load.tensor for load in program.needs(s))}:
            users.setdefault(name, set()).add(s.name)
    temps = {t.name for t in program.tensors if t.role == "temp"} - program.conditions
    found: dict[str, Window] = {}
    for tile in _tiles(root):
        statements = [s for s in program.statements if s.name in tile]
        for name in temps & {s.target for s in statements}:
            if users[name] <= tile.keys():
                window = _window(program, name, statements, tile)
                if any(w is not None for w in window):
                    found[name] = window
    return found


def _tiles(node: Node | None) -> Iterator[Sizes]:
    """The tiles of all clusters that share a loop."""
    match node:
        case Sequence(children):
            for child in children:
                yield from _tiles(child)
        case Band(members, Tile()):
            tile: Sizes = {}
            for member in members:
                for statement, value in member.items():
                    tile.setdefault(statement, {}).update(_size(value))
            yield tile
        case Filter(_, child) | Band(_, child) | Phase(child) | Tile(child):
            yield from _tiles(child)


def _size(value: Affine) -> dict[str, int]:
    """The iterator, and the size, of a loop over tiles: size * floor(iterator / size).

    A multiple of an iterator that is the size fixes the iterator.
    """
    ((key, size),) = value.terms
    return {str(key.numerator): size} if isinstance(key, FloorDiv) else {key: 1}


def _window(program: Program, name: str, statements: list[Statement], tile: Sizes) -> Window:
    """Along a dimension the size of a tile, if every access is at the place of the same loop."""
    sizes: list[set[int | None]] = [set() for _ in program.tensor[name].shape]
    for s in statements:
        for index in (index for tensor, index in s.accesses if tensor == name):
            for k, i in enumerate(index):
                sizes[k].add(_along(i, tile[s.name]))
    return tuple(
        _smaller(only.pop() if len(only) == 1 else None, extent)
        for only, extent in zip(sizes, program.tensor[name].shape, strict=True)
    )


def _along(index: Affine | Expr, sizes: Mapping[str, int]) -> int | None:
    match index:
        case Affine(((FloorDiv(numerator, divisor), 1),), 0):
            size = sizes.get(str(numerator), 0)
            return size // divisor if size and size % divisor == 0 else None
        case Affine():
            return sizes.get(str(index))
    return None


def _smaller(size: int | None, extent: Affine) -> int | None:
    return None if size is None or affine(size) == extent else size
