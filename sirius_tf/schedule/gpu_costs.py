# SPDX-License-Identifier: Apache-2.0
"""Costs of a GPU, by which schedules, mappings and code are chosen; results depend on none of them.

No command has measured any of them: nothing has run on a GPU. They are guesses, or what others say
of an H100, which is named then; `python tools/gpu_check.py` would time the code that they lead to.
The unit of time is a point of a thread: a multiply-add.
"""

# Blocks and tiles (machine.py, tile.py)
THREADS = 256  # of a block
BLOCKS_PER_SM = 2  # so that one computes while the other waits
CACHE = 1 << 17  # bytes of the first level, which blocks share
WORTH_A_TILE = 1 << 12  # points, below which running a tile costs more than its code
WORTH_A_WORKER = 1 << 11  # points of a step of a recurrence, in which blocks wait for each other
WORTH_A_BARRIER = 1 << 15  # points that a block evaluates while others wait for it
LANES, ROWS = (32, 64), (8, 64)  # values: tiles grow to the first of both, then to the second
STAGED = 1 << 13  # bytes of a block's shared memory that are not for weights
SPILLED = 4  # times the room of all blocks, beyond which the size of weights does not matter
MOST = 16  # times what a tile is worth, beyond which other loops do not grow
TERMS = 16  # of a sum for each thread of a warp, for which a warp is worth the wait for others

# Sums in slices (split_k.py)
MOST_WRITTEN = 4  # elements, for each that is read of a row, if nobody knows how many rows come
GAIN = 0.75  # of the time, at most, that slices may take: what a guess must be sure of
MATRIX_UNITS = 8  # times faster than threads
FEWEST = 4  # rows, and lanes, that matrix units multiply
READ, MOVED = 8, 4  # points that are worth an element from memory, or between blocks

#: Microseconds on an H100. A barrier of all blocks is an estimate: three round trips to the
#: second-level cache. For what lies between two kernels of a graph: Spector et al., "Look Ma, No
#: Bubbles!" (Hazy Research, 2025). To await what a tile needs takes longer than to load it, by a
#: way through shared memory and two waits of a block's threads.
BARRIER_US, NODE_US, AWAIT_US = 1.5, 1.3, 0.1
BYTES_IN_US = 50_000  # bytes that a block loads from the second-level cache in a microsecond
MOST_WORDS = 20 << 20  # bytes: half of that cache, of 40 MB at least (A100's data sheet)

# Microkernels (mapping/micro.py, mapping/tiling.py)
MOST_STAGED = (
    11 << 10
)  # words of a block's static shared memory: 44 of the 48 kB that all GPUs have
LEAST_TERMS = 16  # of a sum of products on matrix units
LEAST_SHARING = 8  # rows, and lanes, that share an operand
FILLED = 1 / 4  # of the points that are multiplied, at least: others lie outside of the box
SHARED_TILE = 1.25  # times as long, if warps have to add up their sums
