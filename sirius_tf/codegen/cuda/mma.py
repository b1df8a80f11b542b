# SPDX-License-Identifier: Apache-2.0
"""A contraction over a box as products of small matrices, which a warp multiplies (mma.sync).

    for chunks of the reduction:
        wait for this chunk of both operands in shared memory;  copy the next one (cp.async)
        for steps of the chunk: load fragments (ldmatrix);  sums of my tile += their products
    add up, finish and store the sums

A warp has a tile of the box. Where there are more warps than tiles, several divide the steps for a
tile, and their sums are added in a fixed order. One iterator, `m`, fills matrices by
16, the other, `n`, by 8. Registers hold what "Parallel Thread Execution ISA" (NVIDIA), chapter
9.7.14, says of m16n8k16 and m16n8k8; sirius_cuda.cuh repeats it.

Products of two float16, bfloat16 or tf32 are exact in float32, but a matrix unit cuts bits off when
it adds them (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021).
"""

from __future__ import annotations

from sirius_tf.codegen.cuda.copies import c_type, copy
from sirius_tf.codegen.cuda.leaf import Points, ThreadPrinter
from sirius_tf.codegen.function import indented
from sirius_tf.mapping.micro import (
    PANEL_OF_TILES,
    STEP,
    Panel,
    Products,
    depth_of,
    product_operands,
)
from sirius_tf.mapping.occupancy import WARP
from sirius_tf.mapping.operand import Operand
from sirius_tf.nest.coalesce import Leaf
from sirius_tf.nest.scheduled import Scheduled


class _Sum(Points):
    """A point of a thread, whose sum is there."""

    def finished(self, result: tuple[str, bool], r: int, j: int) -> tuple[str, bool]:
        """The value that is stored of the sum, which began with zero."""
        if self.s.finish is None:
            return result
        self.know(self.s.result, result, r, j)
        return self.value(self.s.finish, r, j)


class ProductPrinter(ThreadPrinter):
    """Tiles of products of matrices are divided among the warps."""

    def __init__(self, kernel: Scheduled, leaf: Leaf, how: Products) -> None:
        super().__init__(kernel, leaf, how)
        self.form, self.tiling = how.form, how.tiling
        self.operands = product_operands(kernel, leaf, how)
        self.outer = [n for n in self.box if n not in (self.plan.rows, self.plan.lanes)]
        self.depth = depth_of(kernel.program, leaf)
        self.others = [i for i in self.reduced if i is not self.depth]

    def body(self) -> list[str]:
        """All warps go through the chunks together, as often as it takes for all tiles."""
        t = self.tiling
        lines = [
            "const auto stage = [&](int64_t chunk, int half) {",
            *indented(self.place_of_chunk()),
            *indented([line for o in self.operands for line in copy(self.ctx, o)]),
            "  sirius_cp_async_commit();",
            "};",
            f"for (int first = 0; first < {t.tiles}; first += beside) {{",
            *indented([*self.tile(), *self.summed_chunks(), *self.shared_sums(), *self.stores()]),
            "}",
        ]
        for r in (o.along for o in self.operands if isinstance(o.along, Panel)):
            whole, at = self.box[r.name], r.lo
            end = f"{whole.lo} + {whole.n}"
            head = f"for (int64_t {at} = {whole.lo}; {at} < {end}; {at} += {PANEL_OF_TILES}) {{"
            left = f"const int64_t {r.n} = sirius_min_i64({PANEL_OF_TILES}, {end} - {at});"
            lines = [head, *indented([left, *lines]), "}"]
        for outer in (self.box[n] for n in reversed(self.outer)):
            name, lo = outer.name, outer.lo
            head = f"for (int64_t {name} = {lo}; {name} < {lo} + {outer.n}; ++{name}) {{"
            lines = [head, *indented(lines), "}"]
        return [*self.declarations(), *lines]

    def declarations(self) -> list[str]:
        """C of the operands' places, and of the numbers of warps."""
        t, lines = self.tiling, list[str]()
        given = (o.along for o in self.operands if not isinstance(o.along, Panel))
        if empty := [f"{r.n} <= 0" for r in given if r.size is None]:
            lines.append(f"if ({' || '.join(empty)}) return;")
        for o in self.operands:
            place = f"({c_type(o)} *)(staged + {o.first})"
            lines.append(f"{c_type(o)} *const {o.name} = {place};")
        lines.append(f"const int warp = threadIdx.x / {WARP}, lane = threadIdx.x % {WARP};")
        warps = f"(int)blockDim.x / {WARP}"
        if t.groups == 1:
            return [*lines, f"const int beside = {warps};"]
        groups = f"max(min({t.groups}, {warps} / {t.tiles}), 1)"
        lines.append(f"const int groups = {groups}, beside = {warps} / groups; // for one tile")
        return [*lines, "const int group = warp / beside;"]

    def tile(self) -> list[str]:
        """The tile of this warp, if there is one, and its sums."""
        t = self.tiling
        tests = [f"tile < {t.tiles}", *(["group < groups"] if t.groups > 1 else [])]
        sides = zip(("at_m", "at_n"), self.operands, strict=True)
        tests += [f"{at} < {o.along.n}" for at, o in sides if o.along.size is None]
        return [
            f"const int tile = first + warp{' % beside' if t.groups > 1 else ''};",
            f"const int at_m = tile % {t.along[0]} * {t.m}, at_n = tile / {t.along[0]} * {t.n};",
            f"const bool mine = {' && '.join(tests)};",
            f"float sums[{t.m // 16}][{t.n // 8}][4] = {{}};",
        ]

    # Chunks of the reduction

    @property
    def cuts(self) -> str:
        """C of the chunks along the iterator that is cut."""
        terms, extent = self.operands[0].terms, self.depth.extent
        if extent.is_const:
            return str(-(-extent.const // terms))
        return f"(({self.ctx.integer(extent)} + {terms - 1}) / {terms})"

    def place_of_chunk(self) -> list[str]:
        """The iterators' values that follow from the number of a chunk."""
        sizes = [f"({self.ctx.integer(i.extent)})" for i in self.others]
        lines = []
        for k, i in enumerate(self.others):
            inner = " * ".join([*sizes[k + 1 :], self.cuts])
            lines.append(f"const int64_t {i.name} = chunk / ({inner}) % {sizes[k]};")
        cut = f" % {self.cuts}" if self.others else ""
        return [*lines, f"const int64_t from = chunk{cut} * {self.operands[0].terms};"]

    def summed_chunks(self) -> list[str]:
        """All chunks, of which the next one is copied while one is used."""
        t, words = self.tiling, self.operands[0].terms // self.form.per_word
        count = " * ".join([*(f"({self.ctx.integer(i.extent)})" for i in self.others), self.cuts])
        start, step = ("0", "") if t.groups == 1 else (f"{STEP} * group", " * groups")
        return [
            f"const int64_t chunks = {count};",
            "if (chunks > 0) stage(0, 0);",
            "for (int64_t chunk = 0; chunk < chunks; ++chunk) {",
            "  const int half = chunk % 2;",
            "  sirius_cp_async_wait<0>();",
            "  __syncthreads(); // all threads have copied their part, and used the chunk before",
            "  if (chunk + 1 < chunks) stage(chunk + 1, !half);",
            "  if (!mine) continue;",
            f"  #pragma unroll{' 1' if self.form.split else ''}",  # its factors fill the registers
            f"  for (int step = {start}; step < {words}; step += {STEP}{step}) {{",
            *indented(indented(self.products())),
            "  }",
            "}",
        ]

    def products(self) -> list[str]:
        """The fragments of a step, and their products."""
        counts, mma = (self.tiling.m // 16, self.tiling.n // 8), f"sirius_mma_{self.form.mma}"
        names, pairs = ["left[{0}][4]", "right[{1}][2]"], [("left", "right")]
        if self.form.split:  # the smaller ones first
            names += ["left_rest[{0}][4]", "right_rest[{1}][2]"]
            pairs = [("left_rest", "right"), ("left", "right_rest"), *pairs]
        return [
            f"uint32_t {', '.join(names).format(*counts)};",
            *self.fragments(self.operands[0], "left", counts[0]),
            *self.fragments(self.operands[1], "right", counts[1]),
            "#pragma unroll",
            f"for (int x = 0; x < {counts[0]}; ++x) {{",
            "  #pragma unroll",
            f"  for (int y = 0; y < {counts[1]}; ++y) {{",
            *(f"    {mma}(sums[x][y], {a}[x], {b}[y]);" for a, b in pairs),
            "  }",
            "}",
        ]

    def fragments(self, o: Operand, name: str, count: int) -> list[str]:
        """C that loads the fragments of some matrices that a lane has, from word `step` of the
        terms on."""
        left, pitch, per = name == "left", o.pitch, self.form.per_word
        at = "at_m + 16 * x" if left else "at_n + 8 * x"
        if o.by_depth:
            row, word = ("lane % 16", "lane / 16") if left else ("lane % 8", "lane / 8 % 2")
            place = f"({at} + {row}) * {pitch} + {per} * (step + {word} * 4)"
            lines = [f"sirius_ldmatrix({name}[x], {o.name} + half * {o.size} + {place});"]
        elif o.matrices:
            row, column = ("lane / 16 * 8 + lane % 8", " + lane / 8 % 2 * 8")
            row, column = (row, column) if left else ("lane % 16", "")
            place = f"(2 * step + {row}) * {pitch} + {at}{column}"
            lines = [f"sirius_ldmatrix_trans({name}[x], {o.name} + half * {o.size} + {place});"]
        else:
            row, column = ("q / 2 * 4", " + q % 2 * 8") if left else ("q * 4", "")
            place = f"(step + lane % 4 + {row}) * {pitch} + {at} + lane / 4{column}"
            word = f"__float_as_uint({o.name}[half * {o.size} + {place}])"
            lines = [f"for (int q = 0; q < {4 if left else 2}; ++q) {name}[x][q] = {word};"]
        if self.form.mma == "tf32":
            rounded = f"{name}[x][q] = sirius_to_tf32(__uint_as_float({name}[x][q]));"
            if self.form.split:
                rounded = f"sirius_split_tf32({name}[x][q], {name}_rest[x][q]);"
            lines += ["#pragma unroll", f"for (int q = 0; q < {4 if left else 2}; ++q) {rounded}"]
        if not o.matrices:
            lines.insert(0, "#pragma unroll")
        loop = ["#pragma unroll", f"for (int x = 0; x < {count}; ++x) {{"]
        return [*loop, *indented(lines), "}"]

    # Sums

    def shared_sums(self) -> list[str]:
        """The sums of all warps, in shared memory: those of a tile as rows of lanes."""
        t = self.tiling
        m, n = "16 * x + lane / 4 + q / 2 * 8", "8 * y + lane % 4 * 2 + q % 2"
        row, lane = (n, m) if t.by_lanes else (m, n)
        loops = (("x", t.m // 16), ("y", t.n // 8), ("q", 4))
        heads = [f"for (int {name} = 0; {name} < {size}; ++{name})" for name, size in loops]
        at = f"warp * {t.words} + ({row}) * {t.pitch} + {lane}"
        return [
            "__syncthreads(); // all threads have used what is staged: sums take its place",
            "if (mine) {",
            *(f"  {line}" for head in heads for line in ("#pragma unroll", head)),
            f"    staged[{at}] = sums[x][y][q];",
            "}",
            "__syncthreads(); // other warps have written their sums",
        ]

    def stores(self) -> list[str]:
        """The points of these tiles, divided among all threads: added up, finished and stored."""
        t, size = self.tiling, self.tiling.m * self.tiling.n
        columns = t.m if t.by_lanes else t.n
        places = [f"e % {size} / {columns}", f"e % {columns}"]
        sides = zip(self.operands, reversed(places) if t.by_lanes else places, strict=True)
        firsts = (f"tile % {t.along[0]} * {t.m}", f"tile / {t.along[0]} * {t.n}")
        lines, tests = [f"const int of = e / {size}, tile = first + of;"], list[str]()
        for (o, within), first in zip(sides, firsts, strict=True):
            r = o.along
            lines.append(f"const int64_t {r.name} = {r.lo} + {first} + {within};")
            if r.size != o.count:
                tests.append(f"{r.name} >= {r.lo} + {r.n}")
        if tests:
            lines.append(f"if ({' || '.join(tests)}) continue;")
        at = f"{places[0]} * {t.pitch} + {places[1]}"
        lines.append(f"float sum = staged[of * {t.words} + {at}];")
        if t.groups > 1:
            lines.append("for (int other = 1; other < groups; ++other)")
            lines.append(f"  sum += staged[(of + other * beside) * {t.words} + {at}];")
        block = _Sum(self.ctx, 1, 1, {}, ())
        block.store(0, 0, block.finished(("sum", False), 0, 0))
        count = f"min(beside, {t.tiles} - first) * {size}"
        return [
            f"for (int e = threadIdx.x; e < {count}; e += blockDim.x) {{",
            *indented([*lines, *block.before]),
            "}",
            "__syncthreads(); // what is staged next takes the place of sums",
        ]
