# SPDX-License-Identifier: Apache-2.0
"""Costs of a GPU, by which schedules, mappings and code are chosen; results depend on none of them.

The comment of a number says its unit, what it stands for, and in brackets where it comes from and
the command that will measure it, or whose times will show whether it is good. No number was
measured: no GPU was at hand. Where they come from:

    guess       nobody but us
    reasoned    from the latency of the second-level cache, about 260 cycles on an H100
    Spector     et al., "Look Ma, No Bubbles!" (Hazy Research, 2025): kernels of a graph on an H100
    data sheet  of NVIDIA: GPUs of compute capability 8.0 and 9.0
    shape       what an instruction or a block has room for, by the CUDA C++ Programming Guide

    gpu_check     python tools/gpu_check.py ARCHIVES: limits of a GPU, and times of models on it
    cuda_kernels  python tools/cuda_kernels.py MODEL: what kernels take of a GPU, without one

The unit of time is a *point* of a thread: a multiply-add.
"""

# Blocks and tiles (machine.py, tile.py)
THREADS = 256  # threads: of a block [guess; gpu_check]
BLOCKS_PER_SM = 2  # blocks: of which one computes while the other waits [guess; gpu_check]
CACHE = 1 << 17  # bytes: of the first level, which blocks share [data sheet; gpu_check]
WORTH_A_TILE = 1 << 12  # points: below which a tile costs more than its code [guess; gpu_check]
WORTH_A_WORKER = 1 << 11  # points: of a step of a recurrence, whose blocks wait [guess; gpu_check]
WORTH_A_BARRIER = 1 << 15  # points: that a block evaluates while others wait [guess; gpu_check]
LANES = 32, 64  # points: tiles grow to the first of LANES and ROWS [shape; cuda_kernels]
ROWS = 8, 64  # points: and then to the second [guess; cuda_kernels]
STAGED = 1 << 13  # bytes: of a block's shared memory, not for weights [guess; cuda_kernels]
SPILLED = 4  # times: the room of all blocks, beyond which weights do not count [guess; gpu_check]
MOST = 16  # times: what a tile is worth, beyond which other loops do not grow [guess; gpu_check]
TERMS = 16  # terms: of a sum, for each thread of a warp that takes part in it [guess; gpu_check]

# Sums in slices (split_k.py)
MOST_WRITTEN = 4  # elements: for each read of a row, of unknown number [guess; gpu_check]
GAIN = 0.75  # times: the time, at most, that slices may take [guess; gpu_check]
MATRIX_UNITS = 8  # times: faster than threads [data sheet; gpu_check]
FEWEST = 4  # rows, lanes: that are multiplied by matrix units, at least [guess; gpu_check]
READ = 8  # points: worth an element from memory [guess; gpu_check]
MOVED = 4  # points: worth an element that goes from block to block [guess; gpu_check]

# Launches, barriers and words (mapping/launch.py, mapping/exchange.py, mapping/choose.py)
BARRIER_US = 1.5  # microseconds: of all blocks, three round trips to L2 [reasoned; gpu_check]
NODE_US = 1.3  # microseconds: between two kernels of a graph [Spector; gpu_check]
AWAIT_US = 0.1  # microseconds: to await what a tile needs, over loading it [reasoned; gpu_check]
BYTES_IN_US = 50_000  # bytes: that a block loads from L2 in a microsecond [guess; gpu_check]
MOST_WORDS = 20 << 20  # bytes: half of L2, of 40 MB at least [data sheet; gpu_check]

# Microkernels (mapping/micro.py, mapping/tiling.py)
MOST_STAGED = 11 << 10  # words: 44 of the 48 kB of static shared memory [shape; cuda_kernels]
LEAST_TERMS = 16  # terms: of a sum of products on matrix units [shape; cuda_kernels]
LEAST_SHARING = 8  # rows, lanes: that share an operand [shape; cuda_kernels]
FILLED = 1 / 4  # times: the points that are multiplied, those inside of the box [guess; gpu_check]
SHARED_TILE = 1.25  # times: as long, if warps have to add up their sums [guess; gpu_check]
