# SPDX-License-Identifier: Apache-2.0
"""The code of one block of a leaf: some rows, and some vectors of lanes beside each other.

Every value is emitted once: what does not depend on the row, the vector or the reduction is shared
between rows and vectors, and comes before the reduction loops.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from itertools import permutations

from sirius_tf.codegen import vector
from sirius_tf.codegen.context import Context, divides
from sirius_tf.codegen.vector import NotVectorizableError
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.expr import Call, Const, Expr, Index, Load, loads, names_in, walk
from sirius_tf.ir.polynomial import poly
from sirius_tf.schedule.cpu_costs import WORTH_ASKING
from sirius_tf.schedule.plan import PANEL, stride
from sirius_tf.schedule.storage import Window

LINE_BYTES = 64  # of a cache, and of a row of a panel of float32


class Block:
    """`rows` times `vectors`, from lane `at` on; with `tail`, one vector of `left` lanes.

    `before` and `inside` are the lines before, and inside, the reduction loops.
    """

    def __init__(self, ctx: Context, rows: int, vectors: int, tail: bool, at: Affine) -> None:
        self.ctx, self.rows, self.vectors, self.tail, self.at = ctx, rows, vectors, tail, at
        self.program, self.s, self.plan, self.isa = ctx.program, ctx.s, ctx.plan, ctx.isa
        self.language = ctx.language
        self.inner = {i.name for i in self.s.reduce.iters} if self.s.reduce else set[str]()
        self.dtype = ctx.program.tensor[ctx.s.target].dtype
        self.before: list[str] = []
        self.inside: list[str] = []
        self.known: dict[object, tuple[str, bool]] = {}

    @property
    def places(self) -> list[tuple[int, int]]:
        """Rows and vectors of the block."""
        return [(r, j) for r in range(self.rows) for j in range(self.vectors)]

    # Values

    def finished(self, result: tuple[str, bool], r: int, j: int) -> tuple[str, bool]:
        """The value that is stored of the result of a reduction: the result, or the epilogue
        of it."""
        if self.s.finish is None:
            return result
        self.know(self.s.result, result, r, j)
        added = self.bias
        if added is not None and not self.plan.across:
            for pair in permutations((self.s.result, added)):
                self.know(Call("add", pair, self.dtype), result, r, j)
        return self.value(self.s.finish, r, j)

    def start(self, r: int, j: int, vectored: bool) -> str:
        """C of the initial value of a sum: zero, or the bias that is added to it in the end."""
        assert self.s.reduce is not None
        added = self.bias
        if added is None:
            value = (self.language.identity(self.s.reduce.op, self.dtype), False)
        else:
            value = self.value(added, r, j)
        return self.as_vector(value, self.dtype) if vectored else value[0]

    @cached_property
    def bias(self) -> Expr | None:
        """A constant that is added to the result of a sum, with nothing else made of that result.

        What is no constant is added when the sum is complete: it may be far larger than the terms
        (what a residual connection carries), and each of them would be rounded to its last place.
        """
        s = self.s
        nodes = list(walk(s.finish)) if s.finish and s.reduce and s.reduce.op == "add" else []
        if nodes.count(s.result) != 1:
            return None
        for e in nodes:
            match e:
                case Call("add", (a, b), "float32") if s.result in (a, b):
                    added = b if a == s.result else a
                    read = {self.program.tensor[load.tensor].role for load in loads(added)}
                    return added if read <= {"constant"} else None
        return None

    def value(self, expr: Expr, r: int, j: int) -> tuple[str, bool]:
        """C of an expression for row r and vector j, and whether it is a vector. Emitted once."""
        if isinstance(expr, Const):
            return self.language.literal(expr.value, expr.dtype), False
        names = names_in(expr)
        lanes = self.in_vector(names)
        key = (expr, *self.place(expr, r, j))
        if key not in self.known:
            text = self.compute(expr, r, j, lanes)
            c_type = vector.vector_type(expr.dtype) if lanes else self.language.types[expr.dtype]
            name = self.ctx.new_name("v" if lanes else "s")
            inside = bool(names & self.inner)
            place = self.inside if inside else self.before
            place.append(f"const {c_type} {name} = {text};")
            self.known[key] = (name, lanes)
        return self.known[key]

    def know(self, expr: Expr, value: tuple[str, bool], r: int, j: int) -> None:
        """Have what was emitted elsewhere as the value of an expression for row r and vector j."""
        self.known[(expr, *self.place(expr, r, j))] = value

    def in_vector(self, names: Collection[str]) -> bool:
        """Whether what depends on these iterators is a vector: it differs between lanes."""
        return self.plan.lanes in names

    def place(self, expr: Expr, r: int, j: int) -> tuple[int, int]:
        """The row and the vector, as far as an expression depends on them."""
        names = names_in(expr)
        return (r if self.plan.rows in names else 0, j if self.plan.lanes in names else 0)

    def as_vector(self, value: tuple[str, bool], dtype: str) -> str:
        """A value in every lane, if it is a scalar."""
        return value[0] if value[1] else vector.splat(value[0], dtype)

    def compute(self, expr: Expr, r: int, j: int, lanes: bool) -> str:
        """C of one node, its arguments emitted before."""
        match expr:
            case Load():
                return self.load(expr, r, j, lanes)
            case Index(position, dtype):
                return self.position(position, dtype, r, j, lanes)
            case Call(fn, args, dtype):
                values = [self.value(a, r, j) for a in args]
                dtypes = [a.dtype for a in args]
                if not lanes:
                    return self.language.apply(fn, [v[0] for v in values], dtype, dtypes[-1])
                texts = [self.as_vector(v, d) for v, d in zip(values, dtypes, strict=True)]
                return vector.apply(fn, texts, dtypes, dtype)
        raise NotVectorizableError(type(expr).__name__)

    def position(self, value: Affine, dtype: str, r: int, j: int, lanes: bool) -> str:
        """An affine expression as a number, or a vector of consecutive ones."""
        base = f"({self.language.types[dtype]})({self.ctx.integer(self.placed(value, r, j))})"
        if not lanes:
            return base
        if divides(value, self.plan.lanes):
            raise NotVectorizableError("a quotient of the lanes' iterator")
        step = value.coefficient(str(self.plan.lanes))
        steps = vector.convert(f"(sr_iota() * {step})", dtype)
        return f"{vector.splat(base, dtype)} + {steps}"

    def load(self, load: Load, r: int, j: int, lanes: bool) -> str:
        """An element, or a vector of them: contiguous, or a stride apart."""
        pointer, offset = self.address(load.tensor, load.index, r, j)
        if not lanes:
            return self.guarded(load, f"{pointer}[{offset}]", self.language.literal(0, load.dtype))
        step = self.step(load.tensor, load.index)
        kind = vector.MEMORY.get(load.dtype)
        if kind is None:
            raise NotVectorizableError(load.dtype)
        packed = self.ctx.panels_of(load)  # and filled up with zeros
        divided = any(divides(i, self.plan.lanes) for i in load.index)
        if divided and not (self.plan.across or self.ctx.box[str(self.plan.lanes)].aligned):
            raise NotVectorizableError("lanes that cross multiples of a divisor")
        at = f"{pointer} + {offset}"
        if packed and self.rows > 1 and j % self.isa.per_panel == 0:
            self.before_panel(load, packed.axis, pointer, j // self.isa.per_panel)
        if step != "1":
            count = "left" if self.tail else "SIRIUS_LANES"
            text = f"sr_strided_{kind}({at}, {step}, {count})"
        elif self.tail and not packed:
            text = f"sr_load_n_{kind}({at}, left)"
        else:
            text = f"sr_load_{kind}({at})"
        text = f"sr_mask_u8({text})" if load.dtype == "bool" else text
        return self.guarded(load, text, vector.splat("0", load.dtype))

    def guarded(self, load: Load, text: str, nothing: str) -> str:
        """C of a load, but `nothing` where data says what is read and there are no elements."""
        pairs = zip(load.index, self.program.tensor[load.tensor].shape, strict=True)
        sizes = [
            size
            for i, size in pairs
            if not isinstance(i, Affine) and not (size.is_const and size.const)
        ]
        if not sizes:
            return text
        exists = " && ".join(f"{self.ctx.integer(size)} > 0" for size in sizes)
        return f"({exists} ? {text} : {nothing})"

    @property
    def slides(self) -> bool:
        """Whether rows read elements of neighbouring rows."""
        indices = [i for load in loads(self.s.value) for i in load.index if isinstance(i, Affine)]
        names = [set(i.names()) for i in indices]
        return any(self.plan.rows in some and not some.isdisjoint(self.inner) for some in names)

    def before_panel(self, load: Load, axis: int, pointer: str, panel: int) -> None:
        """Ask for a part of the next panels while rows still use these, evenly for all rows."""
        extents = [e.const for e in self.program.tensor[load.tensor].shape[axis + 1 :]]
        size, line = math.prod(extents), affine(0)
        if size < WORTH_ASKING or not self.ctx.panels_outside:
            if self.ctx.unrolled and self.slides:  # lest what rows share is kept, and spills
                self.inside.append('__asm__ volatile("" ::: "memory");')
            return
        for i, extent in zip(load.index[axis + 1 : -1], extents[:-1], strict=True):
            assert isinstance(i, Affine)
            line = line * extent + i
        ahead = (max(self.vectors // self.isa.per_panel, 1) + panel) * size
        rows = self.ctx.box[str(self.plan.rows)]
        start = f"{rows.name}_b * {size * LINE_BYTES // PANEL} / {rows.n}"
        step = f"(({LINE_BYTES * self.rows} + {rows.n} - 1) / {rows.n})"
        place = f"(const char *)({pointer} + {ahead}) + {start} + {self.ctx.integer(line)} * {step}"
        self.inside.append(f"__builtin_prefetch({place}, 0, 2);")

    def store(self, r: int, j: int, value: tuple[str, bool]) -> None:
        """Store an element, or a vector of them."""
        pointer, offset = self.address(self.s.target, self.s.index, r, j)
        lines = self.before
        if self.plan.lanes is None or self.plan.across:
            lines.append(f"{pointer}[{offset}] = {value[0]}{self.going};")
            return
        kind = vector.MEMORY.get(self.dtype)
        if kind is None:
            raise NotVectorizableError(self.dtype)
        text = self.as_vector(value, self.dtype)
        text = f"sr_bytes_u8({text})" if self.dtype == "bool" else text
        step, at = self.step(self.s.target, self.s.index), f"{pointer} + {offset}"
        if step != "1":
            count = "left" if self.tail else "SIRIUS_LANES"
            lines.append(f"sr_scatter_{kind}({at}, {step}, {count}, {text});")
        elif self.tail:
            lines.append(f"sr_store_n_{kind}({at}, left, {text});")
        else:
            lines.append(f"sr_store_{kind}({at}, {text});")

    @property
    def going(self) -> str:
        """A call that has failed must not go on until data ends it: it may have none."""
        ends = any(go.tensor == self.s.target for go in self.program.exits.values())
        return f" && !{self.language.failed}" if ends else ""

    # Addresses

    def step(self, tensor: str, index: Sequence[Affine | Expr]) -> str:
        """Distance of neighbouring lanes in elements, as C."""
        name = str(self.plan.lanes)
        found = stride(index, self.stored_shape(tensor), name)
        folded = any(
            w is not None and isinstance(i, Affine) and name in _affine_names(i)
            for w, i in zip(self.slots(tensor), index, strict=True)
        )
        if found is None or folded or found == poly(0):
            raise NotVectorizableError(f"{tensor} has no stride along {name}")
        if found.is_const:
            return str(found.const)
        text = self.text_of(found.to_expr())
        return f"({text})"

    def text_of(self, expr: Expr) -> str:
        """C of a polynomial of parameters."""
        match expr:
            case Call(fn, args, dtype):
                return self.language.apply(fn, [self.text_of(a) for a in args], dtype)
            case Index(value, _):
                return self.ctx.integer(value)
            case Const(value, dtype):
                return self.language.literal(value, dtype)
        raise NotVectorizableError("a stride")

    def slots(self, tensor: str) -> Window:
        """The folded dimensions of a tensor."""
        return self.ctx.storage.window(self.program.tensor[tensor])

    def stored_shape(self, tensor: str) -> tuple[Affine, ...]:
        """The shape of what is kept of a tensor."""
        return self.ctx.storage.shape(self.program.tensor[tensor])

    def address(
        self, tensor: str, index: Sequence[Affine | Expr], r: int, j: int
    ) -> tuple[str, str]:
        """A pointer that is set before the reduction, and the rest of the position."""
        shape = self.stored_shape(tensor)
        outer: dict[str, Affine] = {}  # by the product of symbolic sizes to multiply with
        inner: dict[str, Affine] = {}
        size, symbolic = 1, ""
        pairs = list(zip(index, shape, self.slots(tensor), strict=True))
        for i, extent, slot in reversed(pairs):
            where = i if isinstance(i, Affine) else symbol(self.value(i, r, j)[0])
            late = not isinstance(i, Affine) and bool(names_in(i) & self.inner)
            where = self.placed(where, r, j)
            where = where if slot is None else where % slot
            for term, is_inner in self.split(where, late):
                part = inner if is_inner else outer
                part[symbolic] = part.get(symbolic, affine(0)) + term * size
            if extent.is_const:
                size *= extent.const
            else:
                symbolic = f"{symbolic} * {self.ctx.integer(extent)}"
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
        """A pointer to the part of a position that is known before the reduction, and the rest as
        an offset."""
        alias = self.ctx.tensors.setdefault(tensor, f"a{len(self.ctx.tensors)}")
        constant = outer.get("", affine(0)).const
        outer = {**outer, "": outer.get("", affine(0)) - constant}
        place = self.sum(outer)
        offset = [self.sum(inner)] if any(v != affine(0) for v in inner.values()) else []
        text = " + ".join([*offset, *([str(constant)] if constant else [])]) or "0"
        if place == "0":
            return alias, text
        key = ("pointer", tensor, place)
        if key not in self.known:
            name = self.ctx.new_name("p")
            own = self.ctx.is_written(tensor)
            c_type = self.language.types[self.program.tensor[tensor].dtype]
            self.before.append(f"{'' if own else 'const '}{c_type} *{name} = {alias} + ({place});")
            if self.ctx.unrolled and offset:  # lest all the loads leave a loop around, and spill
                self.before += self.language.opaque(name)
            self.known[key] = (name, False)
        return self.known[key][0], text

    def sum(self, parts: Mapping[str, Affine]) -> str:
        """C of a sum of affine expressions times symbolic sizes."""
        texts = [f"{self.ctx.integer(v)}{size}" for size, v in parts.items() if v != affine(0)]
        return " + ".join(texts) or "0"

    def placed(self, value: Affine, r: int, j: int) -> Affine:
        """The expression at row r and at the first lane of vector j."""
        at: dict[str, Affine] = {}
        if self.plan.rows is not None and r:
            at[self.plan.rows] = symbol(self.plan.rows) + r
        if self.plan.lanes is not None:
            at[self.plan.lanes] = self.at + j * self.isa.lanes
        return value.substitute(at)

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
                return f"{acc} = {self.language.fused(factors[0][0], factors[1][0], acc)};"
        term = self.value(value, r, j)
        if vectored:
            text = self.as_vector(term, value.dtype)
            return f"{acc} = {vector.apply(op, [acc, text], [value.dtype] * 2, self.dtype)};"
        return f"{acc} = {self.language.apply(op, [acc, term[0]], self.dtype)};"


def _affine_names(value: Affine) -> set[str]:
    return set(value.names())
