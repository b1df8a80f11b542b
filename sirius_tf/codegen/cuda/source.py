# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of a program, as they are compiled and launched."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from sirius_tf.config import Launch, Precision
from sirius_tf.ir.program import Program
from sirius_tf.schedule.gpu_costs import BLOCKS_PER_SM


@dataclass(frozen=True)
class Entry:
    """A kernel that is launched: a line above, or none, and the text behind its name. A
    multiprocessor has room for a number of `blocks`, which leaves threads so many registers."""

    name: str
    comment: str
    text: str
    blocks: int = BLOCKS_PER_SM

    def show(self, threads: int) -> str:
        """The kernel as CUDA C++, for blocks of some threads."""
        limits = f"__launch_bounds__({threads}, {self.blocks})"
        return f'{self.comment}extern "C" __global__ void {limits} {self.name}{self.text}'


@dataclass(frozen=True)
class CudaKernel:
    """The CUDA of a program, the functions and kernels of its `source`, and how the kernels are
    launched: in this order.

    `blocks` keep the machine busy, and are the most for which there is a workspace. A kernel takes
    any number of blocks, if it is cooperative of those that run at the same time. `plan` is C of
    what the host computes before: `<name>_plan` and others (sirius_abi.h).

    All have the same arguments, of which no pointer is null, be an array empty or not:
    - a pointer for each input and each output;
    - the parameters as plan computed them, int64;
    - a pointer for each of the `slots` of the workspace;
    - the constants;
    - an array of int64, of which element k receives parameter k if data decides it;
    - a SiriusSync and a SiriusFailure, all zero at first.
    """

    program: Program
    plan: str
    functions: str
    entries: tuple[Entry, ...]
    name: str
    cooperative: bool
    slots: int
    threads_per_block: int
    shared_bytes: int
    blocks: int
    precision: Precision = "strict"

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of the kernels."""
        return tuple(entry.name for entry in self.entries)

    @property
    def text(self) -> str:
        """All functions and kernels, without the header that they need."""
        return self.functions + "\n".join(e.show(self.threads_per_block) for e in self.entries)

    @property
    def source(self) -> str:
        """The text below a line that names the header."""
        return f'#include "sirius_cuda.cuh"\n\n{self.text}'

    @property
    def launch(self) -> Launch:
        """The way of the launch that was chosen: "persistent" or "graph"."""
        return "persistent" if self.cooperative else "graph"


def alone(kernel: CudaKernel, names: Collection[str]) -> CudaKernel:
    """With kernels for threads that need more registers: one block on each multiprocessor."""
    entries = tuple(replace(e, blocks=1) if e.name in names else e for e in kernel.entries)
    blocks = kernel.blocks // BLOCKS_PER_SM if kernel.cooperative else kernel.blocks
    return replace(kernel, entries=entries, blocks=blocks)
