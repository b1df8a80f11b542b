# SPDX-License-Identifier: Apache-2.0
"""A contraction over a box, whose operands a block stages in shared memory.

    for chunks of the reduction:
        wait for this chunk of both operands;  copy the next one (cp.async)
        for this chunk: sums of some rows and lanes += rows of one operand * lanes of the other

A row of one operand is used by the threads of all lanes, a lane of the other by those of all rows.
Two chunks are kept, so that one is copied while the other is used.
"""

from __future__ import annotations

from sirius_tf.codegen.cuda.copies import copy
from sirius_tf.codegen.cuda.leaf import Points, ThreadPrinter
from sirius_tf.codegen.function import indented
from sirius_tf.ir.affine import symbol
from sirius_tf.ir.expr import Load
from sirius_tf.mapping.micro import DEPTH, Staged, staged_operands
from sirius_tf.mapping.operand import Operand
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.nest.scheduled import Scheduled


class _StagedPoints(Points):
    """The points of one thread, which finds some operands in shared memory."""

    def __init__(self, block: Points, operands: tuple[Operand, ...]) -> None:
        super().__init__(block.ctx, block.rows, block.vectors, block.steps, block.ragged)
        self.operands = operands

    def load(self, load: Load, r: int, j: int, lanes: bool) -> str:
        """An element, from the chunk if it is staged."""
        for o in self.operands:
            if load == o.value:
                at = f"{self.ctx.integer(self.placed(symbol(o.along.name), r, j))} - {o.along.lo}"
                row, column = (f"({at})", "at") if o.by_depth else ("at", at)
                return f"{o.name}[half * {o.size} + {row} * {o.pitch} + {column}]"
        return super().load(load, r, j, lanes)


class StagedPrinter(ThreadPrinter):
    """Points are divided among the threads, which stage operands together."""

    def __init__(self, kernel: Scheduled, leaf: Leaf, how: Staged) -> None:
        super().__init__(kernel, leaf, how)
        self.operands = staged_operands(kernel, leaf)
        self.outer = [n for n in self.box if n not in (self.plan.rows, self.plan.lanes)]

    def body(self) -> list[str]:
        """All threads go through the chunks together, as often as it takes for all points."""
        numbers = self.numbers([o.along.name for o in self.operands])
        block = self.points()
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
            *indented([*numbers.places, *self.ends(), *sums]),
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

    def points(self) -> _StagedPoints:
        """The points of one thread."""
        return _StagedPoints(super().points(), self.operands)

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
