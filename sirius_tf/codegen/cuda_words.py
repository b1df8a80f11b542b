# SPDX-License-Identifier: Apache-2.0
"""Loops whose blocks exchange words (codegen/cuda_exchange.py): the program, and what is printed.

    for t:  tile i:  h[t + 1, i] = ... h[t, k] ...          h_words: 64 bits for an element
    ->  for t:  tile i:  h_near[t, k] = h_words[t, k];  h[t + 1, i] = ... h_near[t, k] ...

Of what a tile awaits it makes a copy of its own, once, before all else; so a leaf that reads it is
one that reads what its tile has made. Who defines an element stores its word, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from sirius_tf.codegen import scalar
from sirius_tf.codegen.cuda_exchange import AT_ONCE, EVERY, Exchange, Near
from sirius_tf.codegen.cuda_leaf import Points, ThreadPrinter, capacity
from sirius_tf.codegen.entry import Scheduled
from sirius_tf.codegen.function import indented
from sirius_tf.codegen.nest import Block, Bound, Guard, Loop, LoopNest, Run, Tile
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Expr, Load, rewrite
from sirius_tf.ir.program import Iter, Program, Statement, Tensor
from sirius_tf.schedule.storage import Storage, Words


@dataclass(frozen=True)
class Awaited:
    """The copy of what a tile awaits: its tensor `name` of `count` elements, and the statement that
    makes it."""

    near: Near
    name: str
    statement: Statement
    nest: LoopNest
    count: int


def with_words(kernel: Scheduled, found: Sequence[Exchange]) -> tuple[Scheduled, frozenset[str]]:
    """The kernel of which blocks exchange words in some loops, and the names of the tensors that a
    tile has of others' elements."""
    program, storage = kernel.program, kernel.storage
    names = {x: _fresh(program, f"{x}_words") for e in found for x in e.words}
    awaited = list[Awaited]()
    for e in found:
        for near in e.nears:
            name = _fresh(program, f"{near.tensor}_near{len(awaited)}")
            time = e.words[near.tensor].time
            awaited.append(_awaited(program, near, name, names[near.tensor], time))
    times = {x: one.time for e in found for x, one in e.words.items()}
    tensors = {t.name: t for t in program.tensors}
    more = [replace(tensors[x], name=name, dtype="int64") for x, name in names.items()]
    more += [replace(tensors[a.near.tensor], name=a.name) for a in awaited]
    statements = [_reading(s, awaited) for s in program.statements]
    windows, private = dict(storage.windows), dict(storage.private)
    for e in found:
        for x, one in e.words.items():
            windows[names[x]] = _along(tensors[x], one.time, one.window)
    for a in awaited:
        windows[a.name] = _along(tensors[a.near.tensor], times[a.near.tensor], 1)
        private[a.name] = tuple(part and part[1] for part in a.near.along)
    slots = dict(storage.slots)
    for name in names.values():
        slots[name] = len(set(slots.values()))
    slots |= _shared(awaited, len(set(slots.values())))
    program = replace(
        program,
        tensors=(*program.tensors, *more),
        statements=(*statements, *(a.statement for a in awaited)),
    )
    words = {x: Words(name, times[x]) for x, name in names.items()}
    copies = dict[str, list[LoopNest]]()
    for a in awaited:
        copies.setdefault(a.near.cluster, []).append(a.nest)
    nest = _awaiting(kernel.nest, copies)
    storage = Storage(windows, private, slots, words)
    made = frozenset(a.name for a in awaited)
    return replace(kernel, program=program, nest=nest, storage=storage), made


def _shared(awaited: Sequence[Awaited], first: int) -> dict[str, int]:
    """Slots, from number `first` on, of what tiles await: each tile has all of them."""
    slots, clusters = dict[str, int](), dict[str, list[Awaited]]()
    for a in awaited:
        clusters.setdefault(a.near.cluster, []).append(a)
    for found in clusters.values():
        found.sort(key=lambda a: -a.count)
        slots |= {a.name: first + k for k, a in enumerate(found)}
    return slots


def _fresh(program: Program, name: str) -> str:
    used = program.tensor.keys() | {s.name for s in program.statements}
    while name in used:
        name += "_"
    return name


def _along(t: Tensor, time: int, count: int) -> tuple[int | None, ...]:
    return tuple(count if k == time else None for k in range(len(t.shape)))


def _awaited(program: Program, near: Near, name: str, words: str, time: int) -> Awaited:
    """The copy of the part of a tensor that a tile awaits, and the loops around it."""
    t = program.tensor[near.tensor]
    iters = tuple(Iter(f"w{k}", extent) for k, extent in enumerate(t.shape))
    index = tuple(symbol(i.name) for i in iters)
    s = Statement(name, iters, name, index, Load(words, index, "int64"))
    values, loops, count = list[Affine](), list[Loop](), 1
    for k, (extent, part) in enumerate(zip(t.shape, near.along, strict=True)):
        if k == time or (part and part[1] == 1):
            values.append(near.at if k == time else symbol(part[0] if part else ""))
            continue
        first = symbol(part[0]) if part else affine(0)
        count *= part[1] if part else extent.const
        divides = part and extent.is_const and extent.const % part[1] == 0
        ends = [] if divides else [extent]
        ends += [first + part[1]] if part else []
        loops.append(Loop(f"w{k}", Bound((first,)), Bound(tuple(ends)), 1, False, Block(())))
        values.append(symbol(f"w{k}"))
    nest: LoopNest = Run(name, tuple(values))
    for loop in reversed(loops):
        nest = replace(loop, body=nest)
    return Awaited(near, name, s, nest, count)


def _reading(s: Statement, awaited: Iterable[Awaited]) -> Statement:
    """The statement that reads what its tile has awaited."""
    places = {
        load: Load(a.name, load.index, load.dtype)
        for a in awaited
        for name, load in a.near.loads
        if name == s.name
    }

    def leaf(expr: Expr) -> Expr | None:
        return places.get(expr) if isinstance(expr, Load) else None

    if not places:
        return s
    return replace(s, value=rewrite(s.value, leaf), finish=s.finish and rewrite(s.finish, leaf))


def _awaiting(nest: LoopNest, copies: dict[str, list[LoopNest]]) -> LoopNest:
    """The loops in which the first tile of each point makes the copies of its cluster."""
    match nest:
        case Tile(body, cluster):
            first = copies.pop(cluster, ())
            return Tile(Block((*first, body)), cluster) if first else nest
        case Block(parts):
            return Block(tuple(_awaiting(part, copies) for part in parts))
        case Guard(_, body, otherwise):
            body = _awaiting(body, copies)
            return replace(nest, body=body, otherwise=otherwise and _awaiting(otherwise, copies))
        case Run():
            return nest
    return replace(nest, body=_awaiting(nest.body, copies))


# What is printed


class AwaitPrinter(ThreadPrinter):
    """The leaf that copies words: threads look for some at once, so that these travel together, and
    then again for those that were not there."""

    def body(self) -> list[str]:
        """A loop over the words of this thread."""
        n = self.numbers({}, list(self.box))
        to, words = self.address(self.s.target), self.address(_words_of(self.s))
        most = self.most_points()
        count = min(-(-most // self.machine.threads), AT_ONCE) if most else AT_ONCE
        time = self.ctx.integer(self.s.index[self.time])
        if count == 1:
            found = f"sirius_load_relaxed({words[1]})"
            lines = [*to[0], *words[0], f"sirius_await({to[1]}, {words[1]}, {found}, {time});"]
            return self.over({}, "threadIdx.x", "blockDim.x", lines)
        stride = f"{count} * blockDim.x"
        check = f"if ({n.type} point = first + k * blockDim.x; point < {n.total}) "
        return [
            *n.before,
            f"const auto word = [&]({n.type} point) {{",
            *indented([*n.places, *words[0], f"return {words[1]};"]),
            "};",
            f"for ({n.type} first = threadIdx.x; first < {n.total}; first += {stride}) {{",
            f"  uint64_t found[{count}];",
            "  #pragma unroll",
            f"  for (int k = 0; k < {count}; ++k) {{",
            f"    {check}found[k] = sirius_load_relaxed(word(point));",
            "  }",
            "  #pragma unroll",
            f"  for (int k = 0; k < {count}; ++k) {{",
            f"    {check}{{",
            *indented(indented(indented([*n.places, *to[0]]))),
            f"      sirius_await({to[1]}, word(point), found[k], {time});",
            "    }",
            "  }",
            "}",
        ]

    @property
    def time(self) -> int:
        """The dimension of time: the one that is folded."""
        window = self.ctx.storage.window(self.program.tensor[_words_of(self.s)])
        return next(k for k, w in enumerate(window) if w is not None)

    def most_points(self) -> int:
        """How many words there are at most; 0 if that is not known."""
        return prod(capacity(r) for r in self.box.values())

    def address(self, tensor: str) -> tuple[list[str], str]:
        """The lines before, and the address of a point's element."""
        block = Points(self.ctx, 1, 1, {}, ())
        pointer, offset = block.address(tensor, self.s.index, 0, 0)
        return block.before, f"{pointer} + {offset}"


def _words_of(s: Statement) -> str:
    return s.loads[0].tensor


def cleared(kernel: Scheduled, e: Exchange, pointers: Mapping[str, str]) -> list[str]:
    """C that forgets the words of earlier calls, but for where statements before the loop publish;
    `pointers` to the words by tensor."""
    lines = list[str]()
    for name, one in e.words.items():
        shape = kernel.storage.shape(kernel.program.tensor[kernel.storage.words[name].name])
        inner = " * ".join(["1", *(scalar.index(extent) for extent in shape[one.time + 1 :])])
        size = " * ".join(scalar.index(extent) for extent in shape)
        slots = (f"e / ({inner}) % {one.window} != {at}" for at in one.before)
        test = f"if ({' && '.join(slots)}) " if one.before else ""
        lines += [
            f"for (int64_t e = block * blockDim.x + threadIdx.x; e < {size}; "
            "e += blocks * blockDim.x) {",
            f"  {test}{pointers[name]}[e] = 0;",
            "}",
        ]
    return lines


def end_of_iteration(e: Exchange, barrier: str) -> list[str]:
    """C at the end of an iteration: a barrier, now and then."""
    if not e.words:
        return []
    return [
        f"// words are kept for {EVERY} iterations: no block may be further ahead",
        f"if (({e.var} + 1) % {EVERY} == 0) {barrier}",
    ]


def reason(e: Exchange, made: Iterable[str]) -> str:
    """Why a phase ends without a barrier, as a comment."""
    sent = [name for name in made if name in e.words]
    rest = "what is read here was made by the same block"
    if not sent:
        return f"// No barrier of the grid: {rest}"
    return f"// No barrier of the grid: {', '.join(sent)} travels in words; of the rest, {rest}"
