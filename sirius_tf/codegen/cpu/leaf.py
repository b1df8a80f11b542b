# SPDX-License-Identifier: Apache-2.0
"""One statement over a box, as a C function: vectorized, register-blocked, reduced in registers.

    for others: for blocks of lanes: for blocks of rows:
        accumulators = identity;  for reduction: accumulators op= value;  store

A contraction is no special case: it is a statement whose reduction loops sit inside the block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

from sirius_tf.codegen import scalar, vector
from sirius_tf.codegen.block import Block
from sirius_tf.codegen.context import PARTIAL_SUMS, Isa
from sirius_tf.codegen.cpu.plans import plan_of
from sirius_tf.codegen.function import Function, LeafPrinter, indented
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import loads, names_in
from sirius_tf.ir.program import Iter, Program
from sirius_tf.ir.rewrite import rename_tensors
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.nest.nodes import Range
from sirius_tf.schedule.cpu_costs import SHARED_IN_L1, SMALL_BLOCK
from sirius_tf.schedule.inplace import Pins, in_place, pins
from sirius_tf.schedule.plan import PANEL, Plan
from sirius_tf.schedule.storage import Storage

Body = Callable[[Affine, int, bool], list[str]]
"""The lines from a lane on, for so many vectors, or for a part of one."""
Span = tuple[int, str, str]  # rows of a block, and C of where such blocks begin and end


ISAS = {
    "v3": Isa(8, 6, {1: 8, 2: 4, 3: 4, 4: 3, 6: 2}),
    "v4": Isa(16, 6, {1: 8, 2: 6, 3: 4, 4: 4, 6: 4}),
}


def print_leaf(program: Program, leaf: Leaf, plan: Plan, storage: Storage, isa: Isa) -> Function:
    """The leaf by its plan, as far as that goes in it."""
    return _Printer(program, leaf, plan_of(program, storage, leaf, plan), storage, isa).function()


def alike(program: Program, leaf: Leaf, plan: Plan, storage: Storage) -> tuple[str, list[str]]:
    """All that the text of a leaf depends on within a program, tensors numbered; and the tensors by
    number. As text, since 0 and -0 are equal."""
    s = leaf.statement
    tensors = list(dict.fromkeys(tensor for tensor, _ in s.accesses))
    numbered = {tensor: f"T{k}" for k, tensor in enumerate(tensors)}
    known = [program.tensor[tensor] for tensor in tensors]
    kept = [(replace(t, name=""), storage.window(t), storage.tile(t)) for t in known]
    ends = any(go.tensor == s.target for go in program.exits.values())
    words = storage.words.get(s.target)
    statement = replace(rename_tensors(s, numbered), name="", origin=())
    return repr((statement, leaf.box, plan, kept, ends, words)), tensors


class _Printer(LeafPrinter):
    reports = "SiriusCall *call"
    target = "{c_type} *restrict {alias}"
    unrolled = "#pragma clang loop unroll(full)"

    def __init__(
        self, program: Program, leaf: Leaf, plan: Plan, storage: Storage, isa: Isa
    ) -> None:
        super().__init__(program, leaf, plan, storage, isa, scalar.C)
        self.shared = self.panels() if plan.rows in self.box else None
        self.ctx.panels_outside = self.shared is not None
        others = [n for n in self.box if n not in (plan.lanes, plan.rows)]
        self.inside = [n for n in others if self.shared is not None and n not in self.shared]
        old = in_place(program, self.s, storage)
        self.pins = pins(self.s, old, others, plan.lanes) if old else None
        self.fixed = sorted({n for entry in self.pins or () for n in entry})

    # The function

    def body(self) -> list[str]:
        """Loops over what is neither lanes nor rows, and not inside the lanes' loop, around all."""
        names = [n for n in self.box if n not in (self.plan.lanes, self.plan.rows)]
        lines = self.rows() if self.pins is None else self.pinned(self.pins)
        for name in reversed(names):
            if name not in self.inside and name not in self.fixed:
                lines = _over(self.box[name], lines)
        return lines

    def pinned(self, pins: Pins) -> list[str]:
        """Only the points that an update in place does not leave as they are."""
        if not pins:
            return []
        block, lines = Block(self.ctx, 1, 1, False, affine(0)), list[str]()
        for name in self.fixed:
            values = ", ".join(block.value(entry[name], 0, 0)[0] for entry in pins)
            lines.append(f"const int64_t {name}_at[] = {{{values}}};")
        body = [f"const int64_t {name} = {name}_at[k];" for name in self.fixed]
        for r in (self.box[name] for name in self.fixed):
            body.append(f"if ({r.name} < {r.lo} || {r.name} >= {r.lo} + {r.n}) continue;")
        head = f"for (int k = 0; k < {len(pins)}; ++k) {{"
        return [*block.before, *lines, head, *indented([*body, *self.rows()]), "}"]

    def rows(self) -> list[str]:
        """Blocks of rows, around the lanes' loops or inside of them."""
        rows = self.box.get(self.plan.rows or "")
        if rows is None:
            return self.lanes(self.beside(1), partial(self.one_block, 1))
        big = self.isa.rows_across if self.plan.across else self.isa.rows
        if rows.size is not None:
            return self.spans(rows, _spans(rows.size, self.isa, big))
        small = min(SMALL_BLOCK, big - 1)
        lines = [
            f"if ({rows.n} >= {small}) {{  /* {big} at a time, or {small}, the fewest repeated */",
            f"  const int64_t left = ({big} - {rows.n} % {big}) % {big};",
            f"  const int64_t blocks = ({rows.n} + left) / {big} - left / {big - small};",
            f"  const int64_t full = {rows.n} < {big} ? 0 : blocks * {big};",
            *indented(self.spans(rows, [(big, "0", "full"), (small, "full", rows.n)])),
        ]
        for count in self.few_rows(rows, small):
            lines += [
                f"}} else if ({rows.n} >= {count}) {{",
                *indented(self.spans(rows, [(count, "0", rows.n)])),
            ]
        return [*lines, "}"]

    def few_rows(self, rows: Range, small: int) -> list[int]:
        """Rows of blocks where their number is not known, and less than a small block has."""
        extent = next(i.extent for i in self.s.iters if i.name == rows.name)
        hint = extent.evaluate(self.program.hints)
        return [hint, 1] if 1 < hint < small else [1]

    def spans(self, rows: Range, spans: Sequence[Span]) -> list[str]:
        """Blocks of all spans for one vector before the next, or all vectors of one block."""

        def body(at: Affine, vectors: int, tail: bool) -> list[str]:
            lines = [
                line
                for span in spans
                for line in self.span(rows, span, self.one_block(span[0], at, vectors, tail))
            ]
            for name in self.inside:
                lines = _over(self.box[name], lines)
            return lines

        if self.shared is not None:
            return self.lanes(self.beside(max(count for count, *_ in spans)), body)
        lines = list[str]()
        for span in spans:
            block = partial(self.one_block, span[0])
            lines += self.span(rows, span, self.lanes(self.beside(span[0]), block))
        return lines

    def span(self, rows: Range, span: Span, lines: list[str]) -> list[str]:
        """Blocks of some rows; a last one that is too small moves back and repeats some."""
        step, (count, first, end) = f"{rows.name}_b", span
        at = step if rows.size is not None else f"sirius_min_i64({step}, {rows.n} - {count})"
        return [
            f"for (int64_t {step} = {first}; {step} < {end}; {step} += {count}) {{",
            f"  const int64_t {rows.name} = {rows.lo} + {at};",
            *indented(lines),
            "}",
        ]

    def panels(self) -> frozenset[str] | None:
        """The iterators of what all rows of a block share, if it is more than stays in L1.

        Then a vector's part of it is used for all rows, and whatever else it does not depend on,
        before the next vector's; else lanes are the inner loop.
        """
        extents = {i.name: i.extent.evaluate(self.program.hints) for i in self.s.all_iters}
        shared, size = set[str](), 0
        for load in set(loads(self.s.value)):
            names = names_in(load) & set(extents)
            if self.plan.lanes in names and self.plan.rows not in names:
                size += 4 * math.prod(extents[n] for n in names)
                shared |= names
        return frozenset(shared) if size > SHARED_IN_L1 else None

    def beside(self, count: int) -> int:
        """Vectors side by side for a number of rows."""
        return self.isa.beside(count, self.ctx.has_panels) if self.s.reduce else 2

    def lanes(self, wide: int, body: Body) -> list[str]:
        """Blocks along the lanes' iterator: full ones, then vectors, the last one partial."""
        lanes = self.box.get(self.plan.lanes or "")
        if self.plan.lanes is None or self.plan.across or lanes is None:
            return body(affine(0), 1, False)
        lines = list[str]()
        if lanes.low is None and lanes.aligned:
            lines.append(f"const int64_t {lanes.name}_q = {lanes.lo} / {PANEL};")
        lines += self.full_blocks(body, lanes, wide)
        if self.ctx.has_panels and wide > self.isa.per_panel:
            lines += self.full_blocks(body, lanes, self.isa.per_panel, wide)
            wide = self.isa.per_panel
        return lines + self.lanes_left(body, lanes, wide * self.isa.lanes)

    def full_blocks(self, body: Body, lanes: Range, vectors: int, done: int = 0) -> list[str]:
        """Blocks of some vectors, as many as there are behind blocks of `done` vectors."""
        offset, width, before = f"{lanes.name}_b", vectors * self.isa.lanes, done * self.isa.lanes
        if lanes.size is None:
            first = f"{lanes.n} / {before} * {before // width}" if done else "0"
            end = f"{lanes.n} / {width}"
        else:
            first = str(lanes.size // before * before // width) if done else "0"
            end = str(lanes.size // width)
            if first == end:
                return []
        at = self.lanes_base(lanes) + symbol(offset) * width
        head = f"for (int64_t {offset} = {first}; {offset} < {end}; ++{offset}) {{"
        return [head, *indented(body(at, vectors, False)), "}"]

    def lanes_left(self, body: Body, lanes: Range, width: int) -> list[str]:
        """The lanes behind the full blocks: single vectors, of which the last moves back to end in
        time.

        Where that is not possible, for want of lanes or since a subscript divides their iterator,
        as that of a packed constant does, the last vector is partial.
        """
        size, vector_size = lanes.size, self.isa.lanes
        if size is not None and size % width == 0:
            return []
        offset, start = f"{lanes.name}_b", f"{lanes.n} / {width} * {width}"
        head = f"for (int64_t {offset}{{0}} = {start}; {offset}{{0}} < {lanes.n}; "
        head += f"{offset}{{0}} += {vector_size}) {{{{"
        at = self.lanes_base(lanes) + symbol(offset)
        if self.ctx.divides_lanes or (size is not None and size < vector_size):
            left = f"const int left = (int)sirius_min_i64({lanes.n} - {offset}, {vector_size});"
            return [head.format(""), f"  {left}", *indented(body(at, 1, True)), "}"]
        back = f"const int64_t {offset} = sirius_min_i64({offset}_, {lanes.n} - {vector_size});"
        lines = [head.format("_"), f"  {back}", *indented(body(at, 1, False)), "}"]
        if size is None:
            few = [f"const int64_t {offset} = 0;", f"const int left = (int){lanes.n};"]
            few += body(at, 1, True)
            lines = [
                f"if ({lanes.n} >= {vector_size}) {{",
                *indented(lines),
                "} else {",
                *indented(few),
                "}",
            ]
        return lines

    def lanes_base(self, lanes: Range) -> Affine:
        if lanes.low is not None:
            return affine(lanes.low)
        return symbol(f"{lanes.name}_q") * PANEL if lanes.aligned else symbol(lanes.lo)

    # A block

    def one_block(self, count: int, at: Affine, vectors: int, tail: bool) -> list[str]:
        block = Block(self.ctx, count, vectors, tail, at)
        if self.s.reduce is None:
            for r, j in block.places:
                block.store(r, j, block.value(self.s.value, r, j))
            return block.before
        if self.plan.across:
            return self.reduce_across(count)
        vectored = self.plan.lanes is not None
        c_type = vector.vector_type(self.dtype) if vectored else scalar.C.types[self.dtype]
        starts = {place: block.start(*place, vectored) for place in block.places}
        block.before += [f"{c_type} acc_{r}_{j} = {v};" for (r, j), v in starts.items()]
        for r, j in block.places:
            block.inside.append(block.accumulate(f"acc_{r}_{j}", self.s.value, r, j, vectored))
        lines = block.before + self.loops(self.reduced, block.inside)
        block.before = []
        for r, j in block.places:
            block.store(r, j, block.finished((f"acc_{r}_{j}", vectored), r, j))
        return lines + block.before

    def reduce_across(self, count: int) -> list[str]:
        """Lanes along a reduction: term k goes into partial sum k mod PARTIAL_SUMS, whatever the
        number of rows and the vectors, and their upper half onto the lower one until one is left.
        """
        assert self.s.reduce is not None
        lanes = next(i for i in self.reduced if i.name == self.plan.lanes)
        others = [i for i in self.reduced if i is not lanes]
        op, size, name = self.s.reduce.op, self.ctx.integer(lanes.extent), lanes.name
        start = vector.splat(scalar.C.identity(op, self.dtype), self.dtype)
        full = Block(self.ctx, count, self.isa.chains, False, symbol(f"{name}_b"))
        for r, j in sorted(full.places, key=lambda place: place[1]):  # few shared values at once
            full.inside.append(full.accumulate(f"acc_{r}_{j}", self.s.value, r, j, True))
        before, rest = self.rest_across(count, op, lanes, start)
        loops = [
            f"int64_t {name}_b = 0;",
            f"for (; {name}_b + {PARTIAL_SUMS} <= {size}; {name}_b += {PARTIAL_SUMS}) {{",
            *indented(full.inside),
            "}",
            *rest,
        ]
        c_type = vector.vector_type(self.dtype)
        lines = [f"{c_type} acc_{r}_{j} = {start};" for r, j in full.places]
        lines += full.before + before + self.loops(others, loops)
        end = Block(self.ctx, count, 1, False, symbol(f"{name}_b"))
        for r in range(count):
            totals = [f"acc_{r}_{j}" for j in range(full.vectors)]
            while len(totals) > 1:
                halves = totals[: len(totals) // 2], totals[len(totals) // 2 :]
                totals = [self.combine(op, a, b) for a, b in zip(*halves, strict=True)]
            text = f"sr_reduce_{op}({totals[0]})"
            if self.dtype == "bool":  # of masks
                text = f"(uint8_t)(__builtin_reduce_{op}({totals[0]}) & 1)"
            end.store(r, 0, end.finished((text, False), r, 0))
        return lines + end.before

    def rest_across(
        self, count: int, op: str, lanes: Iter, start: str
    ) -> tuple[list[str], list[str]]:
        """The terms behind those that fill all partial sums: lines before the loops, and inside."""
        size, width = self.ctx.integer(lanes.extent), self.isa.lanes
        known = lanes.extent.const % PARTIAL_SUMS if lanes.extent.is_const else PARTIAL_SUMS - 1
        before, inside = list[str](), list[str]()
        for j in range(-(-known // width)):
            at = symbol(f"{lanes.name}_b") + j * width
            block = Block(self.ctx, count, 1, True, at)
            for r in range(count):
                text = block.as_vector(block.value(self.s.value, r, 0), self.dtype)
                kept = f"(sr_first(left) ? {text} : {start})"
                block.inside.append(f"acc_{r}_{j} = {self.combine(op, f'acc_{r}_{j}', kept)};")
            left = f"{size} - {lanes.name}_b - {j * width}"
            before += block.before
            inside += [
                f"if ({left} > 0) {{",
                f"  const int left = (int)sirius_min_i64({left}, {width});",
                *indented(block.inside),
                "}",
            ]
        return before, inside

    def combine(self, op: str, left: str, right: str) -> str:
        return vector.apply(op, [left, right], [self.dtype] * 2, self.dtype)


def _spans(size: int, isa: Isa, most: int) -> list[Span]:
    """Blocks of at most so many rows that make up a number of them, from the largest on.

    Small ones leave multiply-adds without another that they could overlap with.
    """
    choices = sorted((rows for rows in isa.vectors if rows <= most), reverse=True)

    @cache
    def best(left: int) -> tuple[float, tuple[int, ...]]:
        """The cost of `left` rows, and the blocks."""
        if not left:
            return 0.0, ()
        options = [(c, best(left - c)) for c in choices if c <= left]
        return min((cost + max(c, SMALL_BLOCK) + 1, (c, *blocks)) for c, (cost, blocks) in options)

    full = max(size // most - 2, 0)  # blocks of the most rows, that no choice is about
    blocks = (most,) * full + tuple(sorted(best(size - full * most)[1], reverse=True))
    ends = {count: sum(b for b in blocks if b >= count) for count in dict.fromkeys(blocks)}
    return [
        (count, str(end - count * blocks.count(count)), str(end)) for count, end in ends.items()
    ]


def _over(r: Range, lines: list[str]) -> list[str]:
    head = f"for (int64_t {r.name} = {r.lo}; {r.name} < {r.lo} + {r.n}; ++{r.name}) {{"
    return [head, *indented(lines), "}"]
