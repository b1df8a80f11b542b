# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels -> cubins, how many of their blocks a GPU can run at the same time, and the tables
that a bundle has of them (native/sirius_abi.h)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sirius_tf.bundle import nvrtc, stamp
from sirius_tf.bundle.nvrtc import Cubin
from sirius_tf.codegen.cuda.geometry import GEOMETRY
from sirius_tf.codegen.cuda.source import CudaKernel, alone
from sirius_tf.codegen.entry import PLAN, SHAPES, late_outputs, weight_offsets
from sirius_tf.errors import SiriusError
from sirius_tf.mapping.occupancy import ARCHITECTURES, cooperative_limit
from sirius_tf.mapping.targets import machine_of

LARGE = 100_000
"""Characters of a source that is worth a process for each architecture: NVRTC takes seconds."""


@dataclass(frozen=True)
class Compiled:
    """The kernels of a region and their machine code, by architecture ("sm_90")."""

    kernel: CudaKernel
    cubins: Mapping[str, Cubin]

    def blocks(self, arch: str) -> int:
        """Blocks of a launch on the usual GPU of an architecture: no more than run at once.

        If not all of them have to, that of a kernel of which most do; 0 if one cannot run at all.
        """
        kernel, limits = self.kernel, list[int]()
        for name in kernel.kernels:
            used = self.cubins[arch].kernels[name]
            shared = used.static_shared + kernel.shared_bytes
            limits.append(cooperative_limit(arch, kernel.threads_per_block, used.registers, shared))
        limit = min(limits) if kernel.cooperative or not all(limits) else max(limits)
        return min(limit, kernel.blocks)


def tables(compiled: Compiled, folder: Path, weights_offset: int) -> str:
    """C of the SiriusCuda `<name>_info`; the code it includes is written to a folder.

    The constants are at `weights_offset` of the bundle's.
    """
    kernel, name = compiled.kernel, compiled.kernel.name
    source = complete_source(kernel).encode()
    text = _included(f"{name}_source", source, folder)
    rows = []
    for arch, cubin in compiled.cubins.items():
        text += _included(f"{name}_{arch}", cubin.data, folder)
        size = len(cubin.data)
        rows.append(f'{{"{arch}", {name}_{arch}, {size}, {compiled.blocks(arch)}}}')
    late = any(late_outputs(kernel.program))
    functions = {"plan": PLAN, "shapes": SHAPES if late else "", "geometry": GEOMETRY}
    text += "".join(f"{f.format(name=name)};\n" for f in functions.values() if f)
    numbers = [kernel.slots, kernel.threads_per_block, kernel.shared_bytes, len(rows)]
    fields = [f'"{name}"', f"{name}_kernels", len(kernel.kernels), int(kernel.cooperative)]
    fields += [f"{name}_source", len(source)]
    fields += [f"{name}_{key}" if f else "0" for key, f in functions.items()]
    fields += [*numbers, f"{name}_cubins", weights_offset, weight_offsets(kernel.program)[""]]
    fields.append(f"&{name}_stamp.stamp")
    text += stamp.declaration(name, kernel.program.name)
    names = ", ".join(f'"{k}"' for k in kernel.kernels)
    return f"""{text}static const char *const {name}_kernels[] = {{{names}}};
static const SiriusCubin {name}_cubins[] = {{{", ".join(rows)}}};
static const SiriusCuda {name}_info = {{{", ".join(map(str, fields))}}};
"""


def _included(symbol: str, data: bytes, folder: Path) -> str:
    """The declaration of a symbol at which the assembler includes the data."""
    file = folder / symbol
    file.write_bytes(data)
    return (
        f'__asm__(".section .rodata\\n.balign 64\\n.hidden {symbol}\\n.globl {symbol}\\n"\n'
        f'        "{symbol}: .incbin \\"{file}\\"\\n.text\\n");\n'
        f"extern const char {symbol}[];\n"
    )


def complete_source(kernel: CudaKernel) -> str:
    """The CUDA of a kernel with the header that it names, as a compiler wants it."""
    return f"{nvrtc.header()}\n{kernel.text}"


def check_archs(archs: Sequence[str]) -> None:
    """SiriusError unless code can be made here, for some architectures, all of which are known."""
    if not archs:
        raise SiriusError(f"name an architecture of GPUs: {', '.join(ARCHITECTURES)}")
    machine_of(archs[0], others=archs)
    nvrtc.version()


def compile_kernel(kernel: CudaKernel, archs: Sequence[str]) -> Compiled:
    """Machine code for some architectures; SiriusError if no block would fit one of them.

    Where a thread needs more registers than it may have, a block has its multiprocessor to itself.
    """
    compiled = _compiled(kernel, archs)
    cubins = compiled.cubins.values()
    if spilling := [k for k in kernel.kernels if any(_spills(cubin, k) for cubin in cubins)]:
        compiled = _compiled(alone(kernel, spilling), archs)
    for arch in archs:
        if not compiled.blocks(arch):
            raise SiriusError(
                f"a block of {kernel.name} needs more registers or shared memory than a "
                f"multiprocessor of {arch} has; leave that architecture out"
            )
    return compiled


def _compiled(kernel: CudaKernel, archs: Sequence[str]) -> Compiled:
    source = complete_source(kernel)
    if len(source) < LARGE:
        return Compiled(kernel, {arch: nvrtc.compile_cubin(source, arch) for arch in archs})
    cubins = nvrtc.compile_cubins([source], archs)
    return Compiled(kernel, {arch: cubins[0, arch] for arch in archs})


def _spills(cubin: Cubin, name: str) -> bool:
    used = cubin.kernels[name]
    return bool(used.spill_stores or used.spill_loads or used.stack)
