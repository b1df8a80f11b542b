# SPDX-License-Identifier: Apache-2.0
"""Sliding sums of three by three taps with fewer multiplications: Winograd's F(2x2, 3x3).

    y[h, w, k] = sum over r, s, c of x[h + r, w + s, c] * g[r, s, c, k]     36 multiplications for
                                                                           2 x 2 results and each c
    v[a, b, h, w, c] = (B'dB)[a, b],  d = x[2h .. 2h + 3, 2w .. 2w + 3, c]  sums of four
    m[a, b, h, w, k] = sum over c of v[a, b, h, w, c] * u[a, b, c, k]       16 multiplications
    y[2h + p, 2w + q, k] = (A'mA)[p, q]                                     sums of nine

u = G g G' is computed here, in double precision (Lavin and Gray 2016, "Fast Algorithms for
Convolutional Neural Networks"; Winograd 1980). The result differs from that of the sum by a few
units in the last place of its greatest term, and an infinity spreads to the results beside it. So
it is an option, and checked as all of a model is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Call, Expr, Load, names_in, substitute
from sirius_tf.ir.grids import elements
from sirius_tf.ir.program import Iter, Program, Reduce, Statement, Tensor
from sirius_tf.ir.rewrite import finished, fresh, substitute_in

_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B'
_FILTER = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # G
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))  # A'
Array = npt.NDArray[np.generic]

FEWEST_CHANNELS = 32  # summed over, or produced: fewer do not repay the sums around them
FEWEST_ROWS = 36  # of 2 x 2 results, which all weights are read for


@dataclass(frozen=True)
class _Sliding:
    """A statement whose image moves with `rows + taps[0]` and `columns + taps[1]`."""

    statement: Statement
    image: Load
    weights: Load
    places: tuple[str, str]
    taps: tuple[str, str]


def winograd(program: Program) -> Program:
    """The program with sums over three by three taps in that form, where it pays."""
    statements: list[Statement] = []
    tensors = list(program.tensors)
    for s in program.statements:
        found = _sliding(program, s)
        if found is None or not _pays(program, found):
            statements.append(s)
            continue
        made, parts = _rewritten(program, found)
        tensors += made
        statements += parts
    read = {load.tensor for s in statements for load in s.loads}
    kept = tuple(t for t in tensors if t.role != "constant" or t.name in read)
    return replace(program, tensors=kept, statements=tuple(statements))


def _sliding(program: Program, s: Statement) -> _Sliding | None:
    """The statement as a sum of an image times constant weights over neighbouring places."""
    if s.guards or s.reduce is None or s.reduce.op != "add" or any(i.loop for i in s.iters):
        return None
    match s.value:
        case Call("mul", (Load() as image, Load() as weights), "float32"):
            pass
        case _:
            return None
    if program.tensor[image.tensor].role == "constant":
        image, weights = weights, image
    if program.tensor[weights.tensor].role != "constant":
        return None
    loads = (image, weights, *s.finish_loads)
    if not all(isinstance(i, Affine) for load in loads for i in load.index):
        return None
    taps = {i.name for i in s.reduce.iters if i.extent == affine(3)}
    moves = {i: m for i in image.index if isinstance(i, Affine) and (m := _move(i, taps))}
    names = [name for move in moves.values() for name in move]
    rest = {n for i in image.index if isinstance(i, Affine) and i not in moves for n in i.names()}
    if len(moves) != 2 or len(set(names)) != 4 or rest & set(names):
        return None
    (h, r), (w, t) = moves.values()
    if {h, w} & names_in(weights) or not {h, w} <= {i.name for i in s.iters}:
        return None
    return _Sliding(s, image, weights, (h, w), (r, t))


def _move(index: Affine, taps: set[str]) -> tuple[str, str] | None:
    """The iterators of a subscript place + tap, up to a constant."""
    names = [key for key, coefficient in index.terms if coefficient == 1 and isinstance(key, str)]
    found = [name for name in names if name in taps]
    if len(names) != 2 or len(index.terms) != 2 or len(found) != 1:
        return None
    (place,) = set(names) - taps
    return place, found[0]


def _pays(program: Program, found: _Sliding) -> bool:
    """Whether there are channels and results enough, and places in pairs along both axes."""
    s = found.statement
    assert s.reduce is not None
    extents = {i.name: i.extent for i in s.iters}
    if any(not extents[p].is_const or extents[p].const % 2 for p in found.places):
        return False
    sizes = {i.name: i.extent.evaluate(program.hints) for i in s.all_iters}
    summed = prod(sizes[i.name] for i in s.reduce.iters) // 9
    own = names_in(found.weights) - names_in(found.image)
    made = prod(sizes[name] for name in own & set(extents))
    rows = prod(sizes[name] for name in set(extents) - names_in(found.weights)) // 4
    return min(summed, made) >= FEWEST_CHANNELS and rows >= FEWEST_ROWS


def _rewritten(program: Program, found: _Sliding) -> tuple[list[Tensor], list[Statement]]:
    """The tensors and statements of the three steps."""
    s, reduce = found.statement, found.statement.reduce
    assert reduce is not None
    inner = tuple(i for i in reduce.iters if i.name not in found.taps)
    halves = tuple(_halved(i) if i.name in found.places else i for i in s.iters)
    square = (Iter(f"{s.name}_a", affine(4)), Iter(f"{s.name}_b", affine(4)))
    tiles = tuple(i for i in (*halves, *inner) if i.name in names_in(found.image))
    taken = tuple(i for i in (*s.iters, *inner) if i.name in names_in(found.weights))
    names = (fresh(f"{s.target}_{s.name}_{which}", program.tensor) for which in "vmu")
    boxes = ((*square, *tiles), (*square, *halves), (*square, *taken))
    v, m, u = (Tensor(n, _shape(*box), "float32") for n, box in zip(names, boxes, strict=True))
    u = replace(u, role="constant", value=_filters(program, found, taken))
    parts = []
    for x, y in product(range(4), range(4)):
        value = _combined(_INPUT[x], _INPUT[y], lambda k, n: _moved(found, k, n))
        index = (affine(x), affine(y), *_at(tiles))
        parts.append(Statement(f"{s.name}_v{x}{y}", tiles, v.name, index, value, origin=s.origin))
    places = ((v, (*square, *tiles)), (u, (*square, *taken)))
    factors = tuple(Load(t.name, _at(iters), "float32") for t, iters in places)
    box, value, sums = (*square, *halves), Call("mul", factors, "float32"), Reduce("add", inner)
    parts.append(Statement(f"{s.name}_m", box, m.name, _at(box), value, sums, s.origin))
    for p, q in product(range(2), range(2)):
        made = _combined(
            _OUTPUT[p],
            _OUTPUT[q],
            lambda x, y: Load(m.name, (affine(x), affine(y), *_at(halves)), "float32"),
        )
        parts.append(_result(found, f"{s.name}_y{p}{q}", halves, made, (p, q)))
    return [v, m, u], parts


def _halved(i: Iter) -> Iter:
    return replace(i, extent=affine(i.extent.const // 2))


def _shape(*iters: Iter) -> tuple[Affine, ...]:
    return tuple(i.extent for i in iters)


def _at(iters: Sequence[Iter]) -> tuple[Affine, ...]:
    return tuple(symbol(i.name) for i in iters)


def _moved(found: _Sliding, k: int, n: int) -> Expr:
    """Element (k, n) of a square of four by four of the image."""
    (h, w), (r, t) = found.places, found.taps
    places = {h: 2 * symbol(h), w: 2 * symbol(w), r: affine(k), t: affine(n)}
    return substitute(found.image, places)


def _combined(
    rows: Sequence[int], columns: Sequence[int], element: Callable[[int, int], Expr]
) -> Expr:
    """The sum of elements with signs rows[i] * columns[j], positive ones first."""
    pairs = list(product(enumerate(rows), enumerate(columns)))
    terms = [(a * b, element(i, j)) for (i, a), (j, b) in pairs if a * b]
    (_, total), *rest = sorted(terms, key=lambda term: -term[0])
    for sign, term in rest:
        total = Call("add" if sign > 0 else "sub", (total, term), "float32")
    return total


def _filters(program: Program, found: _Sliding, taken: Sequence[Iter]) -> Array:
    """G g G' for every filter, over the iterators `taken`."""
    weights = program.tensor[found.weights.tensor].value
    assert weights is not None
    box = dict.fromkeys(found.taps, 3) | {i.name: i.extent.const for i in taken}
    taps = elements(weights, found.weights, box).astype(np.float64)
    made = np.einsum("ar,bt,rt...->ab...", _FILTER, _FILTER, taps)
    return np.ascontiguousarray(made.astype(np.float32))


def _result(
    found: _Sliding, name: str, iters: tuple[Iter, ...], made: Expr, corner: tuple[int, int]
) -> Statement:
    """The results at one corner of all squares, finished."""
    s = found.statement
    pairs = zip(found.places, corner, strict=True)
    s = substitute_in(s, {place: 2 * symbol(place) + offset for place, offset in pairs})
    return Statement(name, iters, s.target, s.index, finished(s, made), origin=s.origin)
