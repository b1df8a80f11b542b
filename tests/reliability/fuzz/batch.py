# SPDX-License-Identifier: Apache-2.0
"""Many kernels in one bundle of an instruction set, compiled at once."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from sirius_tf.bundle import cc, elf, library, link, marks, seal
from sirius_tf.codegen.cpu.kernel import Kernel
from sirius_tf.codegen.scalar import PRELUDE
from sirius_tf.runtime import native

_BARE = "-fno-stack-protector"  # zig's -O0 has one, which needs a library


def bundles(kernels: Sequence[Kernel], level: str) -> dict[str, native.Bundle]:
    """The bundle of some kernels for each instruction set, as far as this CPU has it, which clang
    optimizes as `level` says."""
    with tempfile.TemporaryDirectory() as name:
        folder, made = Path(name), {}
        plans = _object(folder / "plans.c", "".join(k.plan for k in kernels), level)
        for isa in link.ISAS:
            path, own = folder / f"{isa}.so", link.ISAS[native.isa()]
            runs = "".join(k.runs[isa].replace(f"_run_{isa}", f"_run_{own}") for k in kernels)
            flags = link.MARCH[isa]
            if isa > own:  # vectors of 16 lanes are two of AVX2 here
                flags = (*link.MARCH[own], "-DSIRIUS_LANES=16")
            code = _object(folder / f"{isa}.c", runs, level, flags)
            _link(kernels, own, [plans, code], path, level)
            made[isa] = native.Bundle(path)
        return made


def _object(source: Path, text: str, level: str, flags: Sequence[str] = link._BASELINE) -> Path:
    source.write_text(PRELUDE + text)
    made, headers = source.with_suffix(".o"), f"-I{library.native_directory()}"
    cc.compile_object(source, made, [*link._FLAGS, level, _BARE, headers, *flags])
    return made


def _link(
    kernels: Sequence[Kernel], isa: str, objects: Sequence[Path], path: Path, level: str
) -> None:
    folder = path.parent
    text = link._tables(kernels, (), folder, "{}", "", [isa], {})
    tables = _object(folder / f"tables_{isa}.c", link._MEMORY + text, level)
    code = folder / "code.so"
    cc.compile_shared([*objects, tables], code, ["-nostdlib", "-Wl,-z,defs"])
    before, behind = elf.around(code.read_bytes(), link._SECTION)
    head = marks.head("weights", link._weights_size(kernels, ()))
    pieces = chain([before, head], link._all_weights(kernels, ()), [behind])
    seal.write_sealed(path, pieces)
