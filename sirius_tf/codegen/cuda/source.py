# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of a program, as they are compiled and launched."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from sirius_tf.config import Launch, Precision
from sirius_tf.ir.program import Program
from sirius_tf.schedule.gpu_costs import BLOCKS_PER_SM


@dataclass(frozen=True)
class CudaKernel:
    """The CUDA of a program, `source`, its `kernels`, and how they are launched: in this order.

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
    source: str
    name: str
    kernels: tuple[str, ...]
    cooperative: bool
    slots: int
    threads_per_block: int
    shared_bytes: int
    blocks: int
    precision: Precision = "strict"

    @property
    def launch(self) -> Launch:
        """The way of the launch that was chosen: "persistent" or "graph"."""
        return "persistent" if self.cooperative else "graph"


def alone(kernel: CudaKernel, names: Collection[str]) -> CudaKernel:
    """With kernels for threads that need more registers: one block on each multiprocessor."""
    threads, source, blocks = kernel.threads_per_block, kernel.source, kernel.blocks
    for name in names:
        wide, narrow = (f"{bounds(threads, n)} {name}(" for n in (BLOCKS_PER_SM, 1))
        source = source.replace(wide, narrow)
    blocks = blocks // BLOCKS_PER_SM if kernel.cooperative else blocks
    return replace(kernel, source=source, blocks=blocks)


def bounds(threads: int, blocks: int) -> str:
    """The launch bounds of a kernel, as CUDA C++."""
    return f"__launch_bounds__({threads}, {blocks})"
