# SPDX-License-Identifier: Apache-2.0
"""C of what stays in a block's shared memory: pointers to it, and copies of slices.

if (const int64_t kept = <number of the tile's slice>; kept < <slices that are there>) { copy }
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from sirius_tf.codegen import scalar
from sirius_tf.codegen.cuda.scalar import CUDA
from sirius_tf.codegen.function import indented
from sirius_tf.ir.affine import Affine, affine, symbol
from sirius_tf.ir.program import Program, Tensor
from sirius_tf.mapping.residency import Kept, Resident


def name_of(t: Tensor) -> str:
    """The pointer to a tensor's part."""
    return f"R_{t.name}"


def temporaries(resident: Resident, tensors: Sequence[Tensor]) -> list[str]:
    """The memory itself, and pointers to temporaries in it."""
    lines = ["extern __shared__ __align__(16) char resident[];"] if resident.bytes else []
    for t in tensors:
        if t.name in resident.temporaries:
            c_type, offset = CUDA.types[t.dtype], resident.temporaries[t.name]
            lines.append(f"{c_type} *const T_{t.name} = ({c_type} *)(resident + {offset});")
    return lines


def reason(kept: Kept) -> str:
    """The comment that says which slices a block keeps, and why."""
    names = ", ".join(p.name for p in kept.parts)
    if kept.shared:
        return f"// Each iteration reads the same: a block keeps what it has of {names}, if it can"
    what = f"{kept.count} slices of {kept.bytes} bytes of" if kept.over else f"{kept.bytes} bytes,"
    less = f" (of {kept.needed}, for want of room)" if kept.count < kept.needed else ""
    return f"// Each iteration reads the same: a block keeps {what} {names}{less}"


def pointers(program: Program, kept: Kept, first: str = "") -> list[str]:
    """Pointers to the parts of slice number `kept`; slices that share room begin at `first`."""
    lines = []
    for part in kept.parts:
        t = program.tensor[part.name]
        c_type = CUDA.types[t.dtype]
        place = f"resident + {part.offset}" + ("" if kept.always else f" + kept * {part.bytes}")
        if kept.shared:
            first = first or f"held[{kept.shared.number}][0]"
            place = f"resident + {first} + kept * {kept.bytes} + {part.offset}"
        lines.append(f"{c_type} *const {name_of(t)} = ({c_type} *)({place});")
    return lines


def held(found: Iterable[Kept]) -> list[str]:
    """Memory for what a block has found out about clusters that share room."""
    count = max((k.shared.number + 1 for k in found if k.shared), default=0)
    return (
        [f"__shared__ int32_t held[{count}][2]; // where slices begin, and how many there are"]
        if count
        else []
    )


def counted(kept: Kept, copies: list[str]) -> list[str]:
    """The copies for a cluster, and how much room they have taken, if others want some, too."""
    if kept.shared is None:
        return copies
    first = [f"int64_t room = {kept.shared.first}, count;"] if kept.shared.number == 0 else []
    entry = f"held[{kept.shared.number}]"
    return [
        *first,
        "count = 0;",
        *copies,
        f"if (threadIdx.x == 0) {entry}[0] = (int32_t)room, {entry}[1] = (int32_t)count;",
        f"room += count * {kept.bytes};",
    ]


def copied(program: Program, kept: Kept) -> list[str]:
    """C that copies the parts of a tile's slice, if they are to be kept."""
    if kept.always:
        body = _copy(program, kept)
        test = f"if ({kept.begins}) " if kept.begins else ""
        return [f"{test}{{", *indented(body), "}"]
    first = f" && ({kept.begins})" if kept.begins else ""
    fits, body = kept.there, _copy(program, kept)
    if kept.shared:
        fits = f"room + (kept + 1) * {kept.bytes} <= {kept.shared.end}"
        body.append("count = kept + 1;")
    return [f"if (const int64_t kept = {kept.number}; {fits}{first}) {{", *indented(body), "}"]


def _copy(program: Program, kept: Kept) -> list[str]:
    """The copy of a tile's parts by all threads; neighbours copy neighbours in memory."""
    lines = pointers(program, kept, "room")
    for part in kept.parts:
        t = program.tensor[part.name]
        pairs = zip(part.window, t.shape, strict=True)
        sizes = [affine(extent if size is None else size).const for size, extent in pairs]
        at, tests = list[Affine](), list[str]()
        for k, (along, extent) in enumerate(zip(part.along, t.shape, strict=True)):
            at.append(symbol(f"k{k}") + (symbol(along[0]) if along else 0))
            if along and not (extent.is_const and extent.const % along[1] == 0):
                tests.append(f"if ({scalar.index(at[-1])} < {scalar.index(extent)}) ")
        element = f"{name_of(t)}[e] = T_{t.name}[{scalar.flat(at, t.shape)}];"
        lines += [
            f"for (int e = threadIdx.x; e < {math.prod(sizes)}; e += blockDim.x) {{",
            *(f"  const int64_t k{k} = {_subscript(sizes, k)};" for k in range(len(sizes))),
            f"  {''.join(tests)}{element}",
            "}",
        ]
    return lines


def _subscript(sizes: Sequence[int], k: int) -> str:
    """Along dimension k, of element number e."""
    after = math.prod(sizes[k + 1 :])
    place = f"e / {after}" if after > 1 else "e"
    return f"{place} % {sizes[k]}" if k else place
