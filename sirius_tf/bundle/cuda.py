# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels -> cubins, and how many of their blocks a GPU can run at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sirius_tf.bundle import nvrtc
from sirius_tf.bundle.nvrtc import Cubin
from sirius_tf.codegen.cuda import HEADER, CudaKernel, alone
from sirius_tf.codegen.occupancy import cooperative_limit
from sirius_tf.errors import SiriusError


@dataclass(frozen=True)
class Compiled:
    """A kernel and its machine code, by architecture ("sm_90")."""

    kernel: CudaKernel
    cubins: Mapping[str, Cubin]

    def blocks(self, arch: str) -> int:
        """Blocks of a launch on the usual GPU of an architecture: no more than run at once."""
        used = self.cubins[arch].kernels[self.kernel.name]
        shared = used.static_shared + self.kernel.shared_bytes
        threads = self.kernel.threads_per_block
        return min(cooperative_limit(arch, threads, used.registers, shared), self.kernel.blocks)


def complete_source(kernel: CudaKernel) -> str:
    """The CUDA of a kernel with the header that it names, as a compiler wants it."""
    return kernel.source.replace(HEADER, nvrtc.HEADER.read_text() + "\n")


def compile_kernel(kernel: CudaKernel, archs: Sequence[str]) -> Compiled:
    """Machine code for some architectures; SiriusError if no block would fit one of them.

    Where a thread needs more registers than it may have, a block has its multiprocessor to itself.
    """
    compiled = _compiled(kernel, archs)
    if any(_spills(cubin, kernel.name) for cubin in compiled.cubins.values()):
        compiled = _compiled(alone(kernel), archs)
    for arch in archs:
        if not compiled.blocks(arch):
            raise SiriusError(f"{kernel.name} needs more than a multiprocessor of {arch} has")
    return compiled


def _compiled(kernel: CudaKernel, archs: Sequence[str]) -> Compiled:
    source = complete_source(kernel)
    return Compiled(kernel, {arch: nvrtc.compile_cubin(source, arch) for arch in archs})


def _spills(cubin: Cubin, name: str) -> bool:
    used = cubin.kernels[name]
    return bool(used.spill_stores or used.spill_loads or used.stack)
