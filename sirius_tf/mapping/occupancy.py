# SPDX-License-Identifier: Apache-2.0
"""Occupancy: the number of blocks of a kernel that are resident on a GPU, computed without one.

The rules are those of NVIDIA's cuda_occupancy.h; sizes are those of "CUDA C++ Programming Guide",
technical specifications per compute capability.
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
MAX_THREADS = 1024
MAX_REGISTERS = 255
#: Registers are given to warps in units of this many, from four equal partitions of the file.
REGISTER_UNIT, PARTITIONS = 256, 4
#: Shared memory in bytes: the unit, and what the system takes of each block's.
SHARED_UNIT, SHARED_RESERVED = 128, 1024


@dataclass(frozen=True)
class Architecture:
    """Limits of a streaming multiprocessor (SM), sizes in bytes.

    `sms` is what to plan for, that of the named GPU; others of the architecture have fewer or more.
    """

    gpu: str
    sms: int
    warps: int
    blocks: int
    shared: int
    shared_per_block: int
    registers: int = 65536


ARCHITECTURES = {
    "sm_80": Architecture("A100", 108, 64, 32, 167936, 166912),
    "sm_86": Architecture("A10", 72, 48, 16, 102400, 101376),
    "sm_89": Architecture("L4", 58, 48, 24, 102400, 101376),
    "sm_90": Architecture("H100 SXM", 132, 64, 32, 233472, 232448),
    "sm_90a": Architecture("H100 SXM", 132, 64, 32, 233472, 232448),
}


def blocks_per_sm(arch: str, threads: int, registers: int, shared_bytes: int) -> int:
    """Blocks that one SM runs at once; 0 if it cannot run any.

    Of a block: `threads`, `registers` of each of them, `shared_bytes` static and dynamic.
    """
    limits = ARCHITECTURES[arch]
    if threads > MAX_THREADS or registers > MAX_REGISTERS or shared_bytes > limits.shared_per_block:
        return 0
    warps = -(-threads // WARP)
    warp_registers = _round_up(max(registers, 1) * WARP, REGISTER_UNIT)
    resident_warps = limits.registers // PARTITIONS // warp_registers * PARTITIONS
    shared = _round_up(shared_bytes + SHARED_RESERVED, SHARED_UNIT)
    return min(
        limits.warps // warps, limits.blocks, resident_warps // warps, limits.shared // shared
    )


def shared_of_block(arch: str, blocks: int) -> int:
    """Bytes of shared memory, static and dynamic, for each of `blocks` blocks of an SM."""
    limits = ARCHITECTURES[arch]
    share = limits.shared // blocks // SHARED_UNIT * SHARED_UNIT - SHARED_RESERVED
    return min(share, limits.shared_per_block)


def cooperative_limit(
    arch: str, threads: int, registers: int, shared_bytes: int, sms: int | None = None
) -> int:
    """Blocks of a cooperative launch at most, all of which are resident, on `sms` SMs.

    Without `sms`, on those of the architecture's usual GPU: whoever launches must ask the device.
    """
    each = blocks_per_sm(arch, threads, registers, shared_bytes)
    return each * (ARCHITECTURES[arch].sms if sms is None else sms)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
