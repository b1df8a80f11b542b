# SPDX-License-Identifier: Apache-2.0
"""One statement over a box, as a C function: vectorized, register-blocked, reduced in registers.

    for others: for blocks of lanes: for blocks of rows:
        accumulators = identity;  for reduction: accumulators op= value;  store

A contraction is no special case: it is a statement whose reduction loops sit inside the block.
The values of a block are emitted once each: what does not depend on the row, the vector or the
reduction is shared between rows and vectors and hoisted out of the reduction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sirius_tf.codegen import scalar, vector
from sirius_tf.codegen.vector import NotVectorizableError
from sirius_tf.ir.affine import Affine, FloorDiv, affine, symbol
from sirius_tf.ir.expr import Call, Const, Expr, Index, Load, loads, walk
from sirius_tf.ir.program import Iter, Program, Statement
from sirius_tf.lower.symbolic import poly
from sirius_tf.schedule.plan import PANEL, ROWS, Plan, stride

Window = tuple[int | None, ...]
LINE = 16  # float32 in a cache line


@dataclass(frozen=True)
class Range:
    """An iterator of the box: `low` is the C argument `<name>_lo`, or a constant; so is the size.

    `aligned`: the low end is a multiple of PANEL.
    """

    name: str
    low: int | None
    size: int | None
    aligned: bool

    @property
    def lo(self) -> str:
        """C of the low end."""
        return str(self.low) if self.low is not None else f"{self.name}_lo"

    @property
    def n(self) -> str:
        """C of the number of values."""
        return str(self.size) if self.size is not None else f"{self.name}_n"

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the caller passes."""
        given = ((self.low, f"{self.name}_lo"), (self.size, f"{self.name}_n"))
        return tuple(name for known, name in given if known is None)


@dataclass(frozen=True)
class Leaf:
    """A statement of which the iterators in `box` run, and the others are C arguments."""

    statement: Statement
    box: tuple[Range, ...]


@dataclass(frozen=True)
class Function:
    """C of a leaf: `text` without the name; what to pass: tensors, then integers by name."""

    text: str
    tensors: tuple[str, ...]
    integers: tuple[str, ...]


@dataclass(frozen=True)
class Isa:
    """Registers of an instruction set: lanes of float32, and vectors beside each other by rows."""

    lanes: int
    rows: int
    vectors: Mapping[int, int]

    def beside(self, rows: int, panels: bool) -> int:
        """Vectors side by side for a number of rows; they share panels if there are some."""
        most = self.vectors[max(r for r in self.vectors if r <= rows)]
        return most // self.per_panel * self.per_panel if panels else most

    @property
    def per_panel(self) -> int:
        """Vectors that a panel holds."""
        return PANEL // self.lanes


ISAS = {
    "v3": Isa(8, 6, {1: 8, 2: 4, 4: 3, 6: 2}),
    "v4": Isa(16, ROWS, {1: 8, 2: 6, 4: 4, 8: 2}),
}


def print_leaf(
    program: Program, leaf: Leaf, plan: Plan, windows: Mapping[str, Window], isa: Isa
) -> Function:
    """The leaf by its plan, or in scalar code if some function has no vector form."""
    lanes = next((r for r in leaf.box if r.name == plan.lanes), None)
    if plan.lanes is not None and not plan.across and lanes is None:
        plan = Plan(None)
    try:
        return _Printer(program, leaf, plan, windows, isa).function()
    except NotVectorizableError:
        return _Printer(program, leaf, Plan(None), windows, isa).function()


@dataclass
class _Block:
    """The code of one block: lines before, and inside, its reduction loops."""

    rows: int
    vectors: int
    tail: bool  # one vector, of which `left` lanes count
    before: list[str] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)
    known: dict[object, tuple[str, bool]] = field(default_factory=dict)


class _Printer:
    def __init__(
        self,
        program: Program,
        leaf: Leaf,
        plan: Plan,
        windows: Mapping[str, Window],
        isa: Isa,
    ) -> None:
        self.program, self.s, self.plan, self.isa = program, leaf.statement, plan, isa
        self.windows = windows
        self.box = {r.name: r for r in leaf.box}
        self.reduced = tuple(self.s.reduce.iters) if self.s.reduce else ()
        self.inner = {i.name for i in self.reduced}
        self.tensors: dict[str, str] = {}
        self.integers: dict[str, str] = {}
        self.dtype = program.tensor[self.s.target].dtype
        self.block = _Block(1, 1, False)
        self.at = affine(0)  # first lane of the block
        self.written = 0
        self.has_panels = any(self.in_panels(i) for load in loads(self.s.value) for i in load.index)
        self.per_line = max(LINE // isa.lanes, 1)  # vectors in a cache line

    # The function

    def function(self) -> Function:
        """The whole leaf."""
        body = self.others()
        arguments = [self.declare(name, alias) for name, alias in self.tensors.items()]
        integers = list(self.integers)
        for r in self.box.values():
            integers += [a for a in r.arguments if a not in integers]
        fixed = [i.name for i in self.s.iters if i.name not in self.box]
        integers += [name for name in fixed if name not in integers]
        names = [self.integers.get(name, name) for name in integers]
        parameters = ["SiriusCall *call", *arguments, *(f"int64_t {n}" for n in names)]
        unused = " ".join(f"(void){n};" for n in ["call", *names])
        lines = [f"({', '.join(parameters)}) {{", *_indented([unused, *body]), "}"]
        return Function("\n".join(lines), tuple(self.tensors), tuple(integers))

    def declare(self, tensor: str, alias: str) -> str:
        c_type = scalar.TYPES[self.program.tensor[tensor].dtype]
        own = tensor == self.s.target
        return f"{c_type} *restrict {alias}" if own else f"const {c_type} *{alias}"

    def others(self) -> list[str]:
        """Loops over what is neither lanes nor rows, around the rest."""
        names = [n for n in self.box if n not in (self.plan.lanes, self.plan.rows)]
        lines = self.rows()
        for name in reversed(names):
            lines = _over(self.box[name], lines)
        return lines

    def rows(self) -> list[str]:
        """Variants by the number of rows at hand."""
        rows = self.box.get(self.plan.rows or "")
        if rows is None:
            return self.lanes(1, None)
        lines: list[str] = []
        for count in self.row_counts(rows):
            part = self.lanes(count, rows) if count > 1 else _over(rows, self.lanes(1, None))
            if rows.size is None and count > 1:
                part = [f"if ({rows.n} >= {count}) {{", *_indented(part), "  return;", "}"]
                if any(n not in (self.plan.lanes, self.plan.rows) for n in self.box):
                    part[-2] = "  continue;"
            lines += part
        return lines

    def row_counts(self, rows: Range) -> list[int]:
        """Rows of the blocks to print: one kind if it always fits, else down to single rows."""
        choices = [c for c in self.isa.vectors if c <= self.isa.rows]
        if rows.size is not None:
            size = rows.size  # a few small blocks cost less than rows done twice
            fits = [c for c in choices if c <= size]
            return [min(fits, key=lambda c: -(-size // c) * (c + 1))]
        extent = next(i.extent for i in self.s.iters if i.name == rows.name)
        hint = extent.evaluate(self.program.hints)
        few = [c for c in sorted(choices, reverse=True) if 1 < c <= hint < self.isa.rows][:1]
        return [self.isa.rows, *few, 1]

    def lanes(self, count: int, rows: Range | None) -> list[str]:
        """Blocks along the lanes' iterator: full ones, then vectors, the last one partial."""
        lanes = self.box.get(self.plan.lanes or "")
        if self.plan.lanes is None or self.plan.across or lanes is None:
            return self.blocks(count, rows, 1, False)
        wide = self.isa.beside(count, self.has_panels) if self.s.reduce else 2
        width = wide * self.isa.lanes
        offset, lines = f"{lanes.name}_b", list[str]()
        if lanes.low is None and lanes.aligned:
            lines.append(f"const int64_t {lanes.name}_q = {lanes.lo} / {PANEL};")
        if lanes.size is None or lanes.size >= width:
            end = f"{lanes.n} / {width}" if lanes.size is None else str(lanes.size // width)
            head = f"for (int64_t {offset} = 0; {offset} < {end}; ++{offset}) {{"
            self.at = self.lanes_base(lanes) + symbol(offset) * width
            lines += [head, *_indented(self.blocks(count, rows, wide, False)), "}"]
        return lines + self.lanes_left(count, rows, lanes, width)

    def lanes_left(self, count: int, rows: Range | None, lanes: Range, width: int) -> list[str]:
        """What full blocks leave: single vectors, of which the last moves back to end in time.

        Where that is not possible, for want of lanes or since a packed constant holds them in
        panels, the last vector is partial.
        """
        size, vector_size = lanes.size, self.isa.lanes
        if size is not None and size % width == 0:
            return []
        offset, start = f"{lanes.name}_b", f"{lanes.n} / {width} * {width}"
        head = f"for (int64_t {offset}{{0}} = {start}; {offset}{{0}} < {lanes.n}; "
        head += f"{offset}{{0}} += {vector_size}) {{{{"
        self.at = self.lanes_base(lanes) + symbol(offset)
        if self.has_panels or (size is not None and size < vector_size):
            left = f"const int left = (int)sirius_min_i64({lanes.n} - {offset}, {vector_size});"
            body = self.blocks(count, rows, 1, True)
            return [head.format(""), f"  {left}", *_indented(body), "}"]
        back = f"const int64_t {offset} = sirius_min_i64({offset}_, {lanes.n} - {vector_size});"
        body = self.blocks(count, rows, 1, False)
        lines = [head.format("_"), f"  {back}", *_indented(body), "}"]
        if size is None:
            few = [f"const int64_t {offset} = 0;", f"const int left = (int){lanes.n};"]
            few += self.blocks(count, rows, 1, True)
            lines = [
                f"if ({lanes.n} >= {vector_size}) {{",
                *_indented(lines),
                "} else {",
                *_indented(few),
                "}",
            ]
        return lines

    def lanes_base(self, lanes: Range) -> Affine:
        if lanes.low is not None:
            return affine(lanes.low)
        return symbol(f"{lanes.name}_q") * PANEL if lanes.aligned else symbol(lanes.lo)

    def blocks(self, count: int, rows: Range | None, vectors: int, tail: bool) -> list[str]:
        """Blocks of rows; the last one moves back and repeats rows rather than being smaller."""
        lines = self.one_block(count, vectors, tail)
        if rows is None:
            return lines
        step, name = f"{rows.name}_b", rows.name
        head = f"for (int64_t {step} = 0; {step} < {rows.n}; {step} += {count}) {{"
        at = f"{rows.lo} + sirius_min_i64({step}, {rows.n} - {count})"
        return [head, f"  const int64_t {name} = {at};", *_indented(lines), "}"]

    # A block

    def one_block(self, count: int, vectors: int, tail: bool) -> list[str]:
        self.block = _Block(count, vectors, tail)
        places = [(r, j) for r in range(count) for j in range(vectors)]
        if self.s.reduce is None:
            for r, j in places:
                self.store(r, j, self.value(self.s.value, r, j))
            return self.block.before
        if self.plan.across:
            return self.reduce_across(count)
        vectored = self.plan.lanes is not None
        c_type = vector.vector_type(self.dtype) if vectored else scalar.TYPES[self.dtype]
        start = scalar.identity(self.s.reduce.op, self.dtype)
        start = vector.splat(start, self.dtype) if vectored else start
        for r, j in places:
            self.block.before.append(f"{c_type} acc_{r}_{j} = {start};")
        for r, j in places:
            self.block.inside.append(self.accumulate(f"acc_{r}_{j}", self.s.value, r, j, vectored))
        lines = self.block.before + self.loops(self.reduced, self.block.inside)
        self.block.before = []
        for r, j in places:
            self.store(r, j, (f"acc_{r}_{j}", vectored))
        return lines + self.block.before

    def accumulate(self, acc: str, value: Expr, r: int, j: int, vectored: bool) -> str:
        """`acc = acc op value`; a product is added with a fused multiply-add."""
        assert self.s.reduce is not None
        op = self.s.reduce.op
        match value:
            case Call("mul", (x, y), "float32") if op == "add":
                factors = [self.value(e, r, j) for e in (x, y)]
                if vectored:
                    a, b = (self.as_vector(f, "float32") for f in factors)
                    return f"{acc} = sr_fma({a}, {b}, {acc});"
                return f"{acc} = __builtin_fmaf({factors[0][0]}, {factors[1][0]}, {acc});"
        term = self.value(value, r, j)
        if vectored:
            text = self.as_vector(term, value.dtype)
            return f"{acc} = {vector.apply(op, [acc, text], [value.dtype] * 2, self.dtype)};"
        return f"{acc} = {scalar.apply(op, [acc, term[0]], self.dtype)};"

    def reduce_across(self, count: int) -> list[str]:
        """Lanes along a reduction: several chains of vectors, then one combination of lanes."""
        assert self.s.reduce is not None
        lanes = next(i for i in self.reduced if i.name == self.plan.lanes)
        others = [i for i in self.reduced if i is not lanes]
        op, size = self.s.reduce.op, self.integer(lanes.extent)
        if self.dtype != "float32" or op not in ("add", "max", "min"):
            raise NotVectorizableError(f"{op} of {self.dtype} across lanes")
        wide = max(1, 4 // count)
        width, name = wide * self.isa.lanes, lanes.name
        start = vector.splat(scalar.identity(op, self.dtype), self.dtype)
        lines = [f"sr_f32 acc_{r}_{j} = {start};" for r in range(count) for j in range(wide)]
        self.block = _Block(count, wide, False)
        self.at = symbol(f"{name}_b")
        full = [
            self.accumulate(f"acc_{r}_{j}", self.s.value, r, j, True)
            for r in range(count)
            for j in range(wide)
        ]
        main, before = self.block.inside + full, self.block.before
        self.block = _Block(count, 1, True)
        part = []
        for r in range(count):
            text = self.as_vector(self.value(self.s.value, r, 0), self.dtype)
            kept = f"(sr_first(left) ? {text} : {start})"
            combined = vector.apply(op, [f"acc_{r}_0", kept], [self.dtype] * 2, self.dtype)
            part.append(f"acc_{r}_0 = {combined};")
        rest, again = self.block.inside + part, self.block.before
        loops = [
            f"int64_t {name}_b = 0;",
            f"for (; {name}_b + {width} <= {size}; {name}_b += {width}) {{",
            *_indented(main),
            "}",
            f"for (; {name}_b < {size}; {name}_b += {self.isa.lanes}) {{",
            f"  const int left = (int)sirius_min_i64({size} - {name}_b, {self.isa.lanes});",
            *_indented(rest),
            "}",
        ]
        lines += before + again + self.loops(others, loops)
        self.block = _Block(count, 1, False)
        for r in range(count):
            total = f"acc_{r}_0"
            for j in range(1, wide):
                total = vector.apply(op, [total, f"acc_{r}_{j}"], [self.dtype] * 2, self.dtype)
            self.store(r, 0, (f"sr_reduce_{op}({total})", False))
        return lines + self.block.before

    def loops(self, iters: Sequence[Iter], body: list[str]) -> list[str]:
        for i in reversed(iters):
            name, size = i.name, self.integer(i.extent)
            head = f"for (int64_t {name} = 0; {name} < {size}; ++{name}) {{"
            body = [head, *_indented(body), "}"]
        return body

    # Values

    def value(self, expr: Expr, r: int, j: int) -> tuple[str, bool]:
        """C of an expression for row r and vector j, and whether it is a vector. Emitted once."""
        if isinstance(expr, Const):
            return scalar.literal(expr.value, expr.dtype), False
        names = _names(expr)
        lanes = self.plan.lanes in names
        key = (expr, r if self.plan.rows in names else 0, j if lanes else 0)
        if key not in self.block.known:
            text = self.compute(expr, r, j, lanes)
            c_type = vector.vector_type(expr.dtype) if lanes else scalar.TYPES[expr.dtype]
            name = self.new_name("v" if lanes else "s")
            inside = bool(names & self.inner)
            place = self.block.inside if inside else self.block.before
            place.append(f"const {c_type} {name} = {text};")
            self.block.known[key] = (name, lanes)
        return self.block.known[key]

    def as_vector(self, value: tuple[str, bool], dtype: str) -> str:
        return value[0] if value[1] else vector.splat(value[0], dtype)

    def compute(self, expr: Expr, r: int, j: int, lanes: bool) -> str:
        match expr:
            case Load():
                return self.load(expr, r, j, lanes)
            case Index(position, dtype):
                return self.position(position, dtype, r, j, lanes)
            case Call(fn, args, dtype):
                values = [self.value(a, r, j) for a in args]
                if not lanes:
                    return scalar.apply(fn, [v[0] for v in values], dtype)
                dtypes = [a.dtype for a in args]
                texts = [self.as_vector(v, d) for v, d in zip(values, dtypes, strict=True)]
                return vector.apply(fn, texts, dtypes, dtype)
        raise NotVectorizableError(type(expr).__name__)

    def position(self, value: Affine, dtype: str, r: int, j: int, lanes: bool) -> str:
        base = f"({scalar.TYPES[dtype]})({self.integer(self.placed(value, r, j))})"
        if not lanes:
            return base
        if self.in_panels(value):
            raise NotVectorizableError("a quotient of the lanes' iterator")
        step = value.coefficient(str(self.plan.lanes))
        steps = vector.convert(f"(sr_iota() * {step})", dtype)
        return f"{vector.splat(base, dtype)} + {steps}"

    def load(self, load: Load, r: int, j: int, lanes: bool) -> str:
        pointer, offset = self.address(load.tensor, load.index, r, j)
        if not lanes:
            return f"{pointer}[{offset}]"
        step = self.step(load.tensor, load.index)
        kind = vector.MEMORY.get(load.dtype)
        if kind is None:
            raise NotVectorizableError(load.dtype)
        packed = any(self.in_panels(i) for i in load.index)  # and filled up with zeros
        if packed and not (self.plan.across or self.box[str(self.plan.lanes)].aligned):
            raise NotVectorizableError("lanes that cross panels")
        at = f"{pointer} + {offset}"
        if packed and self.block.rows > 1 and j % self.per_line == 0:
            self.block.inside.append(self.prefetch(load.tensor, at))
        if step != "1":
            count = "left" if self.block.tail else "SIRIUS_LANES"
            text = f"sr_strided_{kind}({at}, {step}, {count})"
        elif self.block.tail and not packed:
            text = f"sr_load_n_{kind}({at}, left)"
        else:
            text = f"sr_load_{kind}({at})"
        return f"sr_mask_u8({text})" if load.dtype == "bool" else text

    def prefetch(self, tensor: str, at: str) -> str:
        """Ask for the same line of the next panel while rows still use this one."""
        extents = self.program.tensor[tensor].shape[1:]
        return f"__builtin_prefetch({at} + {math.prod(e.const for e in extents)}, 0, 2);"

    def in_panels(self, index: Affine | Expr) -> bool:
        """Whether an index divides the lanes' iterator: vectors must not cross panels then."""
        terms = index.terms if isinstance(index, Affine) else ()
        floors = [k for k, _ in terms if isinstance(k, FloorDiv)]
        return any(self.plan.lanes in set(k.numerator.names()) for k in floors)

    def store(self, r: int, j: int, value: tuple[str, bool]) -> None:
        """Store an element, or a vector of them."""
        pointer, offset = self.address(self.s.target, self.s.index, r, j)
        lines = self.block.before
        if self.plan.lanes is None or self.plan.across:
            lines.append(f"{pointer}[{offset}] = {value[0]};")
            return
        kind = vector.MEMORY.get(self.dtype)
        if kind is None:
            raise NotVectorizableError(self.dtype)
        text = self.as_vector(value, self.dtype)
        text = f"sr_bytes_u8({text})" if self.dtype == "bool" else text
        step, at = self.step(self.s.target, self.s.index), f"{pointer} + {offset}"
        if step != "1":
            count = "left" if self.block.tail else "SIRIUS_LANES"
            lines.append(f"sr_scatter_{kind}({at}, {step}, {count}, {text});")
        elif self.block.tail:
            lines.append(f"sr_store_n_{kind}({at}, left, {text});")
        else:
            lines.append(f"sr_store_{kind}({at}, {text});")

    # Addresses

    def step(self, tensor: str, index: Sequence[Affine | Expr]) -> str:
        """Distance of neighbouring lanes in elements, as C."""
        name = str(self.plan.lanes)
        found = stride(index, self.stored_shape(tensor), name)
        folded = any(
            w is not None and isinstance(i, Affine) and name in _affine_names(i)
            for w, i in zip(self.slots(tensor, index), index, strict=True)
        )
        if found is None or folded or found == poly(0):
            raise NotVectorizableError(f"{tensor} has no stride along {name}")
        if found.is_const:
            return str(found.const)
        text = self.text_of(found.to_expr())
        return f"({text})"

    def text_of(self, expr: Expr) -> str:
        match expr:
            case Call(fn, args, dtype):
                return scalar.apply(fn, [self.text_of(a) for a in args], dtype)
            case Index(value, _):
                return self.integer(value)
            case Const(value, dtype):
                return scalar.literal(value, dtype)
        raise NotVectorizableError("a stride")

    def slots(self, tensor: str, index: Sequence[object]) -> Window:
        return self.windows.get(tensor, (None,) * len(index))

    def stored_shape(self, tensor: str) -> tuple[Affine, ...]:
        shape = self.program.tensor[tensor].shape
        kept = zip(shape, self.slots(tensor, shape), strict=True)
        return tuple(e if w is None else affine(w) for e, w in kept)

    def address(
        self, tensor: str, index: Sequence[Affine | Expr], r: int, j: int
    ) -> tuple[str, str]:
        """A pointer that is set before the reduction, and the rest of the position."""
        shape = self.stored_shape(tensor)
        outer: dict[str, Affine] = {}  # by the product of symbolic sizes to multiply with
        inner: dict[str, Affine] = {}
        size, symbolic = 1, ""
        pairs = list(zip(index, shape, self.slots(tensor, index), strict=True))
        for i, extent, slot in reversed(pairs):
            where = i if isinstance(i, Affine) else symbol(self.value(i, r, j)[0])
            late = not isinstance(i, Affine) and bool(_names(i) & self.inner)
            where = self.placed(where, r, j)
            where = where if slot is None else where % slot
            for term, is_inner in self.split(where, late):
                part = inner if is_inner else outer
                part[symbolic] = part.get(symbolic, affine(0)) + term * size
            if extent.is_const:
                size *= extent.const
            else:
                symbolic = f"{symbolic} * {self.integer(extent)}"
        return self.pointer(tensor, outer, inner)

    def split(self, where: Affine, late: bool) -> list[tuple[Affine, bool]]:
        """The part known before the reduction loops, and the part that changes inside them."""
        inside = affine(0)
        for key, coefficient in where.terms:
            names = {key} if isinstance(key, str) else set(key.numerator.names())
            if late or names & (self.inner | {f"{n}_b" for n in self.inner}):
                inside = inside + Affine(((key, coefficient),))
        return [(where - inside, False), (inside, True)]

    def pointer(
        self, tensor: str, outer: dict[str, Affine], inner: dict[str, Affine]
    ) -> tuple[str, str]:
        alias = self.tensors.setdefault(tensor, f"a{len(self.tensors)}")
        constant = outer.get("", affine(0)).const
        outer = {**outer, "": outer.get("", affine(0)) - constant}
        place = self.sum(outer)
        offset = [self.sum(inner)] if any(v != affine(0) for v in inner.values()) else []
        text = " + ".join([*offset, *([str(constant)] if constant else [])]) or "0"
        if place == "0":
            return alias, text
        key = ("pointer", tensor, place)
        if key not in self.block.known:
            name = self.new_name("p")
            own = tensor == self.s.target
            c_type = scalar.TYPES[self.program.tensor[tensor].dtype]
            self.block.before.append(
                f"{'' if own else 'const '}{c_type} *{name} = {alias} + ({place});"
            )
            self.block.known[key] = (name, False)
        return self.block.known[key][0], text

    def sum(self, parts: Mapping[str, Affine]) -> str:
        texts = [f"{self.integer(v)}{size}" for size, v in parts.items() if v != affine(0)]
        return " + ".join(texts) or "0"

    def placed(self, value: Affine, r: int, j: int) -> Affine:
        """The expression at row r and at the first lane of vector j."""
        at: dict[str, Affine] = {}
        if self.plan.rows is not None and r:
            at[self.plan.rows] = symbol(self.plan.rows) + r
        if self.plan.lanes is not None:
            at[self.plan.lanes] = self.at + j * self.isa.lanes
        return value.substitute(at)

    def integer(self, value: Affine) -> str:
        """C of an affine expression; parameters become arguments with canonical names."""
        names = {p.name for p in self.program.params}
        renamed = {
            n: symbol(self.integers.setdefault(n, f"n{len(self.integers)}"))
            for n in sorted(set(value.names()))
            if n in names
        }
        return scalar.index(value.substitute(renamed))

    def new_name(self, letter: str) -> str:
        self.written += 1
        return f"{letter}{self.written}"


def _over(r: Range, lines: list[str]) -> list[str]:
    head = f"for (int64_t {r.name} = {r.lo}; {r.name} < {r.lo} + {r.n}; ++{r.name}) {{"
    return [head, *_indented(lines), "}"]


def _affine_names(value: Affine) -> set[str]:
    return set(value.names())


def _names(expr: Expr) -> set[str]:
    """Every iterator and parameter of an expression."""
    found: set[str] = set()
    for node in walk(expr):
        if isinstance(node, Index):
            found.update(node.value.names())
        elif isinstance(node, Load):
            for i in node.index:
                found.update(i.names() if isinstance(i, Affine) else ())
    return found


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
