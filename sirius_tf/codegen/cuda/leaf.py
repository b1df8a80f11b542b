# SPDX-License-Identifier: Apache-2.0
"""One statement over a box, as a CUDA function that all threads of a block call together.

    for my points of the box (lanes are neighbouring threads):
        sums of some rows and lanes = identity;  for reduction: sums op= value;  store

What is a vector to a CPU is a point of each thread here. Where there are fewer points than threads,
the lanes of a warp divide the terms of a sum; where there are fewer than warps, several warps do.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sirius_tf.codegen.block import Block
from sirius_tf.codegen.context import Context, Isa
from sirius_tf.codegen.cuda.scalar import CUDA
from sirius_tf.codegen.function import LeafPrinter, indented
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.mapping.micro import Micro, Staged, Threads, plan_of, shared_words
from sirius_tf.mapping.occupancy import WARP
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.nest.nodes import Range
from sirius_tf.nest.scheduled import Scheduled

_THREAD = Isa(1, 1, {1: 1})
_TURNS = 16  # of a loop over the terms of a lane, whose loads are all on their way at once


class Points(Block):
    """The points of one thread: `rows` neighbours, and `lanes` of them `steps` apart.

    Of an iterator in `ragged`, the last points may lie outside of the box: they are computed where
    the last ones inside are, and are not stored.
    """

    def __init__(
        self,
        ctx: Context,
        rows: int,
        lanes: int,
        steps: Mapping[str, Affine],
        ragged: Sequence[str],
    ) -> None:
        super().__init__(ctx, rows, lanes, False, affine(0))
        self.steps, self.ragged = steps, ragged

    def in_vector(self, names: Collection[str]) -> bool:
        """Never: a thread is scalar."""
        return False

    def placed(self, value: Affine, r: int, j: int) -> Affine:
        """The expression at row r and lane j of the thread."""
        at = {}
        for name, k in ((self.plan.rows, r), (self.plan.lanes, j)):
            if name is not None and k:
                exact = symbol(name) + self.steps[name] * k
                at[name] = symbol(f"{name}_{k}") if name in self.ragged else exact
        return value.substitute(at)

    def store(self, r: int, j: int, value: tuple[str, bool]) -> None:
        """Store an element, and its word if others await it, if it lies in the box."""
        pointer, offset = self.address(self.s.target, self.s.index, r, j)
        places = ((self.plan.rows, r), (self.plan.lanes, j))
        tests = [f"{n}_{k}_in" for n, k in places if k and n in self.ragged]
        test = f"if ({' && '.join(tests)}) " if tests else ""
        self.before.append(f"{test}{pointer}[{offset}] = {value[0]}{self.going};")
        if words := self.ctx.storage.words.get(self.s.target):
            pointer, offset = self.address(words.name, self.s.index, r, j)
            at = self.ctx.integer(self.placed(self.s.index[words.time], r, j))
            text = f"sirius_publish({pointer} + {offset}, {value[0]}, {at});"
            self.before.append(test + text)


@dataclass(frozen=True)
class Numbers:
    """Numbers of points, below `total`, and the iterators' values that follow from `point`.

    `type`: that of C; int64_t takes long to divide. `before`: what is declared before.
    """

    type: str
    before: tuple[str, ...]
    total: str
    places: tuple[str, ...]


class ThreadPrinter(LeafPrinter):
    """Points of the box are divided among the threads."""

    reports = "SiriusFailure *failure"
    target = "{c_type} *{alias}"
    unrolled = "#pragma unroll"

    def __init__(self, kernel: Scheduled, leaf: Leaf, how: Micro) -> None:
        plan = plan_of(kernel, leaf)
        super().__init__(kernel.program, leaf, plan, kernel.storage, _THREAD, CUDA)
        self.staged = shared_words(kernel, leaf, how)
        self.warps, counts = 1, list[tuple[str | None, int]]()
        if isinstance(how, Threads | Staged):
            counts = [(plan.rows, how.rows), (plan.lanes, how.lanes)]
        if isinstance(how, Threads):
            self.warps = how.warps
        #: sums of a thread along its rows and lanes, where there are several
        self.per = {name: count for name, count in counts if name and count > 1}

    def body(self) -> list[str]:
        """A loop over the points of this thread, or of its warp."""
        if self.warps > 1:
            return self.sum_by_block()
        if self.plan.across:
            lines = self.sum_across()
            return self.over(f"threadIdx.x / {WARP}", f"blockDim.x / {WARP}", lines)
        return self.over("threadIdx.x", "blockDim.x", self.one_thread())

    # Which points

    def slots(self, r: Range) -> str:
        """C of how many threads share a range."""
        count = self.per.get(r.name, 1)
        if r.size is not None:
            return str(-(-r.size // count))
        return f"{r.name}_slots" if count > 1 else r.n

    def ragged(self) -> list[str]:
        """The iterators of which a thread may have fewer values than others."""
        return [n for n, count in self.per.items() if (self.box[n].size or 1) % count]

    def over(self, first: str, step: str, lines: list[str]) -> list[str]:
        """A loop over the numbers of points."""
        order = sorted(self.box, key=lambda n: (n == self.plan.lanes, n == self.plan.rows))
        n = self.numbers(order)
        head = f"for ({n.type} point = {first}; point < {n.total}; point += {step}) {{"
        return [*n.before, head, *indented([*n.places, *self.ends(), *lines]), "}"]

    def numbers(self, order: Sequence[str]) -> Numbers:
        """Numbers of the points of some iterators; those of the last one are neighbours."""
        ranges = [self.box[n] for n in order]
        before = [
            f"const int64_t {r.name}_slots = ({r.n} + {self.per[r.name] - 1}) / {self.per[r.name]};"
            for r in ranges
            if r.size is None and r.name in self.per
        ]
        slots = [self.slots(r) for r in ranges]
        known = all(r.size is not None for r in ranges)
        small = known and math.prod(r.capacity for r in ranges) < 1 << 30
        places = []
        for k, r in enumerate(ranges):
            inner = " * ".join(slots[k + 1 :])
            place = f"point / ({inner})" if inner else "point"
            place = f"{place} % {slots[k]}" if k else place
            neighbours = r.name == self.plan.rows and r.name in self.per
            factor = f" * {self.per[r.name]}" if neighbours else ""
            places.append(f"const int64_t {r.name} = {r.lo} + {place}{factor};")
        total = " * ".join(slots) or "1"
        return Numbers("int" if small else "int64_t", tuple(before), total, tuple(places))

    def ends(self) -> list[str]:
        """C for ragged iterators: whether further values lie in the box, and values that do."""
        lines = []
        for name in self.ragged():
            r, step = self.box[name], self.steps()[name]
            for k in range(1, self.per[name]):
                value = self.ctx.integer(symbol(name) + step * k)
                lines.append(f"const bool {name}_{k}_in = {value} < {r.lo} + {r.n};")
                lines.append(f"const int64_t {name}_{k} = {name}_{k}_in ? {value} : {name};")
        return lines

    def steps(self) -> dict[str, Affine]:
        """The distance between a thread's values of an iterator: neighbouring threads have
        neighbouring lanes."""
        found = dict.fromkeys(self.per, affine(1))
        if self.plan.lanes in self.per:
            r = self.box[str(self.plan.lanes)]
            slots = self.slots(r)
            found[r.name] = affine(int(slots)) if r.size is not None else symbol(slots)
        return found

    # What a thread does

    def points(self) -> Points:
        """The points of one thread."""
        rows = self.per.get(str(self.plan.rows), 1)
        lanes = self.per.get(str(self.plan.lanes), 1)
        return Points(self.ctx, rows, lanes, self.steps(), self.ragged())

    def one_thread(self) -> list[str]:
        """All of the points of one thread, one at a time or as sums in registers."""
        block = self.points()
        if self.s.reduce is None:
            block.store(0, 0, block.value(self.s.value, 0, 0))
            return block.before
        lines = self.summed(block, self.loops(self.reduced, self.terms(block)))
        block.before = []
        for r, j in block.places:
            block.store(r, j, block.finished((f"acc_{r}_{j}", False), r, j))
        return lines + block.before

    def sum_across(self) -> list[str]:
        """The lanes of a warp along a reduction; then the first one has the sum."""
        lines = self.sum_of_warp(f"threadIdx.x % {WARP}", str(WARP))
        end = self.points()
        early = self.asked_early(end)
        for r, j in end.places:
            end.store(r, j, end.finished((f"acc_{r}_{j}", False), r, j))
        return [*early, *lines, f"if (threadIdx.x % {WARP} == 0) {{", *indented(end.before), "}"]

    def asked_early(self, end: Points) -> list[str]:
        """Loads of what is done with a sum, which are on their way while it is added up."""
        for load in self.s.finish_loads:
            for r, j in end.places:
                end.value(load, r, j)
        early, end.before = end.before, []
        return early

    def sum_of_warp(self, first: str, step: str) -> list[str]:
        """The sums of the terms that a warp has, in every lane."""
        assert self.s.reduce is not None
        lanes = next(i for i in self.reduced if i.name == self.plan.lanes)
        others = [i for i in self.reduced if i is not lanes]
        block, name = self.points(), lanes.name
        size, turns = self.ctx.integer(lanes.extent), -(-lanes.extent.const // WARP)
        head = [f"for (int64_t {name} = {first}; {name} < {size}; {name} += {step}) {{"]
        if lanes.extent.is_const and step == str(WARP) and turns <= _TURNS:
            head = [self.unrolled, f"for (int turn = 0; turn < {turns}; ++turn) {{"]
            head.append(f"  const int64_t {name} = {first} + {WARP} * turn;")
            head += [f"  if ({name} >= {size}) continue;"] * (lanes.extent.const % WARP > 0)
        inner = [*head, *indented(self.terms(block)), "}"]
        lines = self.summed(block, self.loops(others, inner))
        sums = [f"acc_{r}_{j}" for r, j in block.places]
        return [*lines, *(f"{s} = sirius_warp_reduce_{self.s.reduce.op}({s});" for s in sums)]

    def sum_by_block(self) -> list[str]:
        """Some warps for each point; the first of them adds up what they have, in their order."""
        assert self.s.reduce is not None
        n, end = self.numbers(list(self.box)), self.points()
        early = self.asked_early(end)
        first = f"threadIdx.x % {WARP} + {WARP} * part"
        lines = self.sum_of_warp(first, f"{WARP} * share")
        op = self.s.reduce.op
        total = CUDA.apply(op, ["acc_0_0", "staged[warp + other * beside]"], self.dtype)
        end.store(0, 0, end.finished(("acc_0_0", False), 0, 0))
        return [
            f"const int warp = threadIdx.x / {WARP}, warps = blockDim.x / {WARP};",
            f"const int share = min({self.warps}, warps), beside = warps / share;",
            "const int part = warp / beside;",
            *n.before,
            f"for ({n.type} first = 0; first < {n.total}; first += beside) {{",
            f"  const {n.type} own = first + warp % beside;",
            f"  const {n.type} point = own < {n.total} ? own : {n.total} - 1;",
            *indented([*n.places, *early, *lines]),
            f"  if (threadIdx.x % {WARP} == 0) staged[warp] = acc_0_0;",
            "  __syncthreads(); // other warps have summed up their part",
            f"  if (part == 0 && own < {n.total} && threadIdx.x % {WARP} == 0) {{",
            f"    for (int other = 1; other < share; ++other) acc_0_0 = {total};",
            *indented(indented(end.before)),
            "  }",
            "  __syncthreads(); // what is staged next takes the place of this",
            "}",
        ]

    def terms(self, block: Points) -> list[str]:
        """The lines inside of the reduction loops, which add the terms."""
        for r, j in block.places:
            block.inside.append(block.accumulate(f"acc_{r}_{j}", self.s.value, r, j, False))
        return block.inside

    def summed(self, block: Points, loops: list[str]) -> list[str]:
        """Sums from their start to their end."""
        assert self.s.reduce is not None
        c_type, starts = CUDA.types[self.dtype], []
        for r, j in block.places:
            identity = CUDA.identity(self.s.reduce.op, self.dtype)
            start = identity if self.plan.across else block.start(r, j, False)
            starts.append(f"{c_type} acc_{r}_{j} = {start};")
        return [*block.before, *starts, *loops]
