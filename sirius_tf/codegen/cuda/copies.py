# SPDX-License-Identifier: Apache-2.0
"""Copies of operands to shared memory (mapping/operand.py), by all threads of a block."""

from __future__ import annotations

from sirius_tf.codegen.context import Context
from sirius_tf.codegen.cuda.leaf import Points
from sirius_tf.codegen.cuda.scalar import CUDA
from sirius_tf.codegen.function import indented
from sirius_tf.ir.expr import Load
from sirius_tf.mapping.operand import Operand


def c_type(o: Operand) -> str:
    """The C type of an element in shared memory."""
    return CUDA.types[o.value.dtype]


def copy(ctx: Context, o: Operand) -> list[str]:
    """Copies the terms from `from` on to half number `half`; neighbouring threads do neighbours.

    Terms beyond the reduction's are zero; of values beyond the box, the last one takes the place.
    """
    size, end = ctx.integer(o.depth.extent), f"({o.along.n} - 1)"
    vector = o.vector or 1
    row, column = f"e / {o.shape[1] // vector}", f"e % {o.shape[1] // vector} * {vector}"
    value, term = (row, column) if o.by_depth else (column, row)
    if not o.by_depth and vector > 1:
        end = f"{end} / {vector} * {vector}"
    if o.along.size != o.count:
        value = f"sirius_min_i64({value}, {end})"
    inside = f"{o.depth.name} < {size}"
    if o.depth.extent.is_const and o.depth.extent.const % o.terms == 0:
        inside = ""
    return [
        f"for (int e = threadIdx.x; e < {o.shape[0] * o.shape[1] // vector}; e += blockDim.x) {{",
        f"  const int64_t {o.along.name} = {o.along.lo} + {value};",
        f"  const int64_t {o.depth.name} = from + {term};",
        f"  {c_type(o)} *const to = {o.name} + half * {o.size} + {row} * {o.pitch} + {column};",
        *indented(_element(ctx, o, inside)),
        "}",
    ]


def _element(ctx: Context, o: Operand, inside: str) -> list[str]:
    """The copy of an element, or a vector, to `to`."""
    block = Points(ctx, 1, 1, {}, ())
    if not o.vector or not isinstance(o.value, Load):
        value = block.value(o.value, 0, 0)[0]
        lines = [*block.before, *block.inside, f"*to = {value};"]
        if not inside:
            return lines
        return [f"if ({inside}) {{", *indented(lines), "} else {", "  *to = 0;", "}"]
    pointer, offset = block.address(o.value.tensor, o.value.index, 0, 0)
    bytes_ = o.vector * 4 // o.per_word
    source = f"{pointer} + {offset}"
    if inside:
        return [*block.before, f"sirius_cp_async_or_zero<{bytes_}>(to, {source}, {inside});"]
    return [*block.before, f"sirius_cp_async<{bytes_}>(to, {source});"]
