# SPDX-License-Identifier: Apache-2.0
"""Sums in pieces, where workers are blocks of threads, and a sum by itself has no tiles for all.

    y[i] = f(sum over k < 3072 of a[i, k] * b[k])
    ->  part[p, i] = sum over k < 384 of a[i, 384*p + k] * b[384*p + k],  0 <= p < 8
        y[i] = f(sum over p < 8 of part[p, i])

Each block then has larger tiles of fewer terms, whose rows and lanes share more. In return all
blocks wait for each other once more, and the parts go through memory. What does not divide evenly
leaves a statement for the rest. Parts are added in a fixed order. (Split-K; Osama et al. 2023,
"Stream-K", says when it pays.) All costs are a model's guesses for speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.defuse import Uses
from sirius_tf.ir.dtypes import HALF
from sirius_tf.ir.expr import Call, Load, loads, names_in
from sirius_tf.ir.program import Iter, Program, Reduce, Statement, Tensor
from sirius_tf.ir.rewrite import fresh, substitute_in
from sirius_tf.schedule.cluster import Cluster, key
from sirius_tf.schedule.gpu_costs import FEWEST, GAIN, MATRIX_UNITS, MOST_WRITTEN, MOVED, READ
from sirius_tf.schedule.layout import Wishes
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import Plan, choose
from sirius_tf.schedule.tile import block_tile_sizes, of_thread, warps_of_point

UNIT = 16  # terms: pieces are multiples of it, as chunks that a block stages
COUNTS = tuple(n for k in range(1, 9) for n in (2**k, 3 * 2 ** (k - 1)))  # of pieces


@dataclass(frozen=True)
class Choice:
    """A reduction's number of pieces (1: it stays whole), and what the model says of it.

    `tiles` and `steps`, the time in points of a thread, are of the whole, and then of its pieces
    and their sum.
    """

    count: int
    tiles: tuple[int, int]
    steps: tuple[float, float]


def in_pieces(program: Program, machine: Machine) -> Program:
    """The program with sums in pieces where that is faster; itself if there are none."""
    found = choices(program, machine)
    for s in program.statements:
        if s.name in found and found[s.name].count > 1:
            program = divided(program, s, found[s.name].count)
    return program


def choices(program: Program, machine: Machine) -> dict[str, Choice]:
    """The choice for each reduction, by name; equal reductions are looked at once."""
    uses, known, found = Uses(program), dict[str, Choice](), dict[str, Choice]()
    for s in (s for s in program.statements if s.reduce):
        loops = [i.name for i in s.iters if i.loop]
        alike = key(uses, Cluster((s.name,), ()), loops, machine.threads)
        if alike not in known:
            known[alike] = _choice(program, s, machine)
        found[s.name] = known[alike]
    return found


def _choice(program: Program, s: Statement, machine: Machine) -> Choice:
    tiles, steps = _phase(program, s, machine)
    costs = {n: _cost(divided(program, s, n), s.name, machine) for n in _counts(program, s)}
    best = min(costs, key=lambda n: costs[n][1], default=None)
    if best is None or costs[best][1] >= GAIN * steps:
        return Choice(1, (tiles, tiles), (steps, steps))
    return Choice(best, (tiles, costs[best][0]), (steps, costs[best][1]))


def stays_apart(uses: Uses, s: Statement) -> bool:
    """Whether a statement is a piece of a sum, or adds pieces up, and so shares no loops.

    Pieces under the loops of another statement would be computed by one worker, one after the
    other; a sum of these has to wait for all workers.
    """
    return any(_adds_pieces(uses, one) for one in (s, *uses.readers.get(s.target, ())))


def _adds_pieces(uses: Uses, s: Statement) -> bool:
    """Whether it only adds up what other reductions of its kind have made."""
    if s.reduce is None or not isinstance(s.value, Load):
        return False
    writers = uses.writers.get(s.value.tensor, [])
    made = {w.reduce.op if w.reduce and not w.finish else None for w in writers}
    return made == {s.reduce.op}


def _counts(program: Program, s: Statement) -> list[int]:
    """The numbers of pieces that a reduction may have; none if it must stay whole."""
    if s.reduce is None or s.target in program.conditions:
        return []
    k, terms = _longest(s), prod(i.extent.evaluate(program.hints) for i in s.reduce.iters)
    if k is None or k.extent.const <= UNIT:
        return []
    counts = {_pieces(k.extent.const, n) for n in COUNTS} - {1}
    extents = [i.extent for i in s.iters if not i.loop]
    row = prod(e.const for e in extents if e.is_const)
    known = all(e.is_const for e in extents)
    return sorted(n for n in counts if known or n * row <= MOST_WRITTEN * terms)


def _longest(s: Statement) -> Iter | None:
    """The longest iterator of a reduction of those of constant sizes."""
    fixed = [i for i in (s.reduce.iters if s.reduce else ()) if i.extent.is_const]
    return max(fixed, key=lambda i: i.extent.const, default=None)


def _length(size: int, count: int) -> int:
    """Terms of all pieces but the last one."""
    return -(-size // (count * UNIT)) * UNIT


def _pieces(size: int, count: int) -> int:
    """The number of pieces that there are if about `count` are wanted."""
    return -(-size // _length(size, count))


def divided(program: Program, s: Statement, count: int) -> Program:
    """The program with a reduction in that many pieces, the last of which may be shorter."""
    k, p = _longest(s), f"{s.name}_p"
    assert s.reduce is not None
    assert k is not None
    length = _length(k.extent.const, count)
    whole, rest = divmod(k.extent.const, length)
    loops, box = [i for i in s.iters if i.loop], [i for i in s.iters if not i.loop]

    def at(piece: Affine) -> tuple[Affine, ...]:
        return (*(symbol(i.name) for i in loops), piece, *(symbol(i.name) for i in box))

    shape = (*(i.extent for i in loops), affine(count), *(i.extent for i in box))
    part = Tensor(fresh(f"{s.target}_{s.name}_parts", program.tensor), shape, s.value.dtype)
    pieces = replace(
        _piece(s, k, symbol(p) * length, length, part, at(symbol(p))),
        name=f"{s.name}_parts",
        iters=(*loops, Iter(p, affine(whole)), *box),
    )
    last = replace(
        _piece(s, k, affine(whole * length), rest, part, at(affine(whole))), name=f"{s.name}_rest"
    )
    added = replace(
        s,
        value=Load(part.name, at(symbol(p)), part.dtype),
        reduce=Reduce(s.reduce.op, (Iter(p, affine(count)),)),
    )
    made = (pieces, last, added) if rest else (pieces, added)
    where = program.statements.index(s)
    statements = (*program.statements[:where], *made, *program.statements[where + 1 :])
    return replace(program, tensors=(*program.tensors, part), statements=statements)


def _piece(
    s: Statement, k: Iter, first: Affine, terms: int, part: Tensor, index: tuple[Affine, ...]
) -> Statement:
    """The reduction of some terms along `k`, stored as an element of `part`."""
    assert s.reduce is not None
    iters = tuple(replace(i, extent=affine(terms)) if i == k else i for i in s.reduce.iters)
    reduce = replace(s.reduce, iters=iters)
    s = substitute_in(s, {k.name: first + symbol(k.name)})
    return replace(s, target=part.name, index=index, reduce=reduce, finish=None)


# Costs, in points of a thread of every block. A barrier is 1.5 us of an H100 (mapping/launch.py):
# a block then gets 4 kilofloats from memory, or 8 by way of the second-level cache.


def _cost(program: Program, name: str, machine: Machine) -> tuple[int, float]:
    """The tiles of all pieces of a reduction; what they take, a barrier, and to add them up."""
    s = next(s for s in program.statements if s.name == name)
    assert isinstance(s.value, Load)
    pieces = [w for w in program.statements if w.target == s.value.tensor]
    phases = [_phase(program, one, machine) for one in (*pieces, s)]
    steps = sum(steps for _, steps in phases)
    moved = 2 * _elements(program, s.value.tensor) / machine.workers * MOVED
    tiles = sum(tiles for tiles, _ in phases[:-1])
    return tiles, steps + (moved + machine.worth_a_barrier) / machine.threads


def _phase(program: Program, s: Statement, machine: Machine) -> tuple[int, float]:
    """The tiles of a reduction, and what it takes, as a phase of its own, in each iteration of the
    loops around it."""
    plan = choose(program, s, machine, Wishes(program, {}))
    free = {i.name: max(i.extent.evaluate(program.hints), 1) for i in s.iters if not i.loop}
    loops = [{s.name: symbol(name)} for name in free]
    found = block_tile_sizes(program, {s.name: plan}, (s,), loops, machine)
    sizes = {name: min(n, size) for (name, n), size in zip(free.items(), found, strict=True)}
    tiles = prod(-(-n // sizes[name]) for name, n in free.items())
    terms = prod(i.extent.evaluate(program.hints) for i in s.reduce.iters) if s.reduce else 1
    read = sum(_read(program, s, load) for load in set(loads(s.value)))
    least = 0 if any(i.loop for i in s.iters) else read * READ / machine.busy_threads
    waves = -(-tiles // machine.workers)
    return tiles, max(waves * _steps_of_tile(s, machine, plan, sizes, terms), least)


def _read(program: Program, s: Statement, load: Load) -> int:
    """Elements that differ of a Load."""
    names = names_in(load)
    points = prod(i.extent.evaluate(program.hints) for i in s.all_iters if i.name in names)
    return min(points, _elements(program, load.tensor))


def _elements(program: Program, tensor: str) -> int:
    return prod(e.evaluate(program.hints) for e in program.tensor[tensor].shape)


def _steps_of_tile(
    s: Statement, machine: Machine, plan: Plan, sizes: Mapping[str, int], terms: int
) -> float:
    """The time of a thread for a tile, in points: terms of sums, while operands are copied, and
    what ends a sum."""
    points = prod(sizes.values())
    if plan.across:
        warps = machine.threads // machine.warp
        share = max(warps_of_point(points, terms, machine), 1)
        return -(-points // (warps // share)) * (terms / (machine.warp * share) + 1)
    rows, lanes = (sizes.get(str(name), 1) for name in (plan.rows, plan.lanes))
    others = points // (rows * lanes)
    copied = others * (rows + lanes) * MOVED / machine.threads
    if min(rows, lanes) >= FEWEST and _for_matrix_units(s, machine):
        rounds = max(points / machine.threads, 1)
        return terms * max(rounds / MATRIX_UNITS, copied) + rounds
    r, j = of_thread(rows, lanes, others, machine.threads)
    rounds = -(-others * -(-rows // r) * -(-lanes // j) // machine.threads)
    return terms * max(rounds * (r + j) / 2, copied) + rounds * r * j


def _for_matrix_units(s: Statement, machine: Machine) -> bool:
    """Whether a reduction may be one of products of matrices that these multiply."""
    match s.value:
        case Call("mul", (x, y), "float32"):
            stored = {next(loads(factor)).dtype for factor in (x, y) if isinstance(factor, Call)}
            return machine.precision != "strict" or (len(stored) == 1 and stored <= set(HALF))
    return False
