# SPDX-License-Identifier: Apache-2.0
"""A contraction over a box, whose operands a block stages in shared memory.

    for chunks of the reduction:
        wait for this chunk of both operands;  copy the next one (cp.async)
        for this chunk: sums of some rows and lanes += rows of one operand * lanes of the other

A row of one operand is used by the threads of all lanes, a lane of the other by those of all rows.
Two chunks are kept, so that one is copied while the other is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sirius_tf.codegen.context import Range
from sirius_tf.codegen.cuda.leaf import Points, ThreadPrinter, capacity
from sirius_tf.codegen.cuda.operand import Operand, copy, place
from sirius_tf.codegen.function import Function, Leaf, indented
from sirius_tf.ir.affine import Affine, symbol
from sirius_tf.ir.expr import Load, loads, names_in
from sirius_tf.ir.program import Program
from sirius_tf.schedule.machine import Machine
from sirius_tf.schedule.plan import Plan
from sirius_tf.schedule.storage import Storage

DEPTH = 16  # of a chunk
_MOST = 11 << 10  # floats of a block's shared memory
_LEAST = 8  # rows, and lanes, that share an operand
_VECTOR = 4  # floats that may be copied at once


def print_leaf(
    program: Program, leaf: Leaf, plan: Plan, storage: Storage, machine: Machine
) -> Function | None:
    """The leaf with staged operands, or None if no two operands are shared by several threads."""
    box = {r.name: r for r in leaf.box}
    s, rows, lanes = leaf.statement, box.get(plan.rows or ""), box.get(plan.lanes or "")
    if s.reduce is None or s.reduce.op != "add" or rows is None or lanes is None or plan.across:
        return None
    depth = s.reduce.iters[-1]
    found = []
    for along, other in ((rows, lanes), (lanes, rows)):
        for load in loads(s.value):
            names = names_in(load)
            plain = load.dtype == "float32" and all(isinstance(i, Affine) for i in load.index)
            if plain and {along.name, depth.name} <= names and other.name not in names:
                found.append((load, along))
                break
    enough = depth.extent.evaluate(program.hints) >= 2 * DEPTH
    if len(found) < 2 or not enough or min(map(capacity, (rows, lanes))) < _LEAST:
        return None
    printer = _StagedPrinter(program, leaf, plan, storage, machine, found)
    return printer.function() if printer.busy and printer.staged <= _MOST else None


class _StagedPoints(Points):
    """The points of one thread, which finds some operands in shared memory."""

    operands: tuple[Operand, ...] = ()

    def load(self, load: Load, r: int, j: int, lanes: bool) -> str:
        """An element, from the chunk if it is staged."""
        for o in self.operands:
            if load == o.value:
                at = f"{self.ctx.integer(self.placed(symbol(o.along.name), r, j))} - {o.along.lo}"
                row, column = (f"({at})", "at") if o.by_depth else ("at", at)
                return f"{o.name}[half * {o.size} + {row} * {o.pitch} + {column}]"
        return super().load(load, r, j, lanes)


class _StagedPrinter(ThreadPrinter):
    def __init__(
        self,
        program: Program,
        leaf: Leaf,
        plan: Plan,
        storage: Storage,
        machine: Machine,
        factors: Sequence[tuple[Load, Range]],
    ) -> None:
        super().__init__(program, leaf, plan, storage, machine)
        self.operands: tuple[Operand, ...] = ()
        for load, r in factors:
            count, scalar = -(-capacity(r) // _VECTOR) * _VECTOR, r.name == plan.lanes
            o = place(self.ctx, load, r, self.reduced[-1], count, DEPTH, self.staged, scalar)
            self.operands += (o,)
            self.staged += o.words
        self.outer = [n for n in self.box if n not in (plan.rows, plan.lanes)]

    @property
    def busy(self) -> bool:
        """Whether rows and lanes alone keep the threads busy, or there is nothing else."""
        sizes = [self.most[o.along.name] for o in self.operands]
        return not self.outer or math.prod(sizes) >= self.machine.threads

    def body(self) -> list[str]:
        """All threads go through the chunks together, as often as it takes for all points."""
        per = self.per_thread()
        numbers = self.numbers(per, [o.along.name for o in self.operands])
        block = self.points(per)
        terms = self.terms(block)
        sums = self.summed(block, self.loops(self.reduced[:-1], self.chunks(terms)))
        block.before = []
        for r, j in block.places:
            block.store(r, j, block.finished((f"acc_{r}_{j}", False), r, j))
        lines = [
            *numbers.before,
            f"for (int64_t first = 0; first < {numbers.total}; first += blockDim.x) {{",
            "  const bool mine = first + threadIdx.x < " + f"{numbers.total};",
            f"  const int64_t point = mine ? first + threadIdx.x : {numbers.total} - 1;",
            *indented([*numbers.places, *self.ends(per), *sums]),
            "  if (mine) {",
            *indented(indented(block.before)),
            "  }",
            "}",
        ]
        for outer in (self.box[n] for n in reversed(self.outer)):
            name, lo = outer.name, outer.lo
            head = f"for (int64_t {name} = {lo}; {name} < {lo} + {outer.n}; ++{name}) {{"
            lines = [head, *indented(lines), "}"]
        arrays = [f"float *const {o.name} = staged + {o.first};" for o in self.operands]
        return [*arrays, *lines]

    def points(self, per: Mapping[str, int]) -> _StagedPoints:
        """The points of one thread."""
        rows, lanes = (per.get(str(n), 1) for n in (self.plan.rows, self.plan.lanes))
        block = _StagedPoints(self.ctx, rows, lanes, self.steps(per), self.ragged(per))
        block.operands = self.operands
        return block

    def chunks(self, terms: list[str]) -> list[str]:
        """The innermost loop of the reduction, a chunk at a time."""
        depth = self.reduced[-1]
        k, size = depth.name, self.ctx.integer(depth.extent)
        full = depth.extent.is_const and depth.extent.const % DEPTH == 0
        end = str(DEPTH) if full else f"sirius_min_i64({DEPTH}, {size} - from)"
        return [
            "const auto stage = [&](int64_t from, int half) {",
            *indented([line for o in self.operands for line in copy(self.ctx, o)]),
            "  sirius_cp_async_commit();",
            "};",
            "stage(0, 0);",
            f"for (int64_t from = 0; from < {size}; from += {DEPTH}) {{",
            f"  const int half = from / {DEPTH} % 2;",
            "  sirius_cp_async_wait<0>();",
            "  __syncthreads(); // all threads have copied their part, and used the chunk before",
            f"  if (from + {DEPTH} < {size}) stage(from + {DEPTH}, !half);",
            *(["  #pragma unroll"] if full else []),
            f"  for (int at = 0; at < {end}; ++at) {{",
            *indented(indented([f"const int64_t {k} = from + at;", f"(void){k};", *terms])),
            "  }",
            "}",
            "__syncthreads(); // what is staged next takes the place of this",
        ]
