# SPDX-License-Identifier: Apache-2.0
"""Costs of a CPU, by which schedules and code are chosen; results depend on none of them.

The unit of time is a *point*: what a worker does for an element of a statement, about 0.1 ns. No
measurement is on record for any number. Above each group stands a command whose times show whether
they are good:

    roofline   python tools/roofline.py: products, beside the peak and bandwidth of a core
    tune       python tools/tune.py MODEL: tile sizes, beside those of the model
    ablation   python tools/ablation.py MODEL: passes and parts of the scheduler, left out in turn
"""

# Workers and tiles (machine.py, tile.py, join.py): tune; of barriers and FAR, ablation
CACHE = 1 << 19  # bytes that a tile may use: half of the second level
WORTH_A_TILE = 1 << 15  # points, below which running a tile costs more than its code
WORTH_A_WORKER = 1 << 13  # points of a step of a recurrence, in which workers wait for each other
WORTH_A_BARRIER = 1 << 12  # points that a worker evaluates while others wait for it: 0.5 us
WORTH_HELPING = 1 << 19  # points of a phase, for which workers look after each other
MOST_ROWS = 64  # of a contraction's tile: a panel of the other operand is read once for all
FEWEST_ROWS = 32  # of a contraction's tile, that are as fast as more
FEW_TILES = 8  # tiles for each worker: how they are divided matters
FAR = 8  # points that are worth an element that is written to, and read from, a far cache

# Overlapped tiles (overlap.py): ablation, whose overlap is such a pass
READ = 6.0  # points that are worth an element that is read from a far cache
WRITTEN = 9.0  # points for one that is written there, less what the stores can hide behind
HIDING = 8  # points that hide one point's worth of a store
OPERATION = 2  # points that take as long as another operation

# Vectors and register blocks (plan.py), which GPUs take, too: roofline
LANES = 8  # elements: a vector of float32 of x86-64-v3
IN_FLIGHT = 8  # multiply-adds that keep the units busy: latency times throughput
ROWS = 8  # values of an iterator that registers hold at once
STREAMS = 1.5  # times the load of one stream, where several are read at a time
SCATTERED = 16.0  # loads of a contiguous vector, for one whose lanes lie apart

# Packed constants (layout.py): roofline
SMALLEST_PACKED = 2048  # elements; smaller constants stay in the first-level cache as they are
MOST_COPIES = 2  # times its size that packing may take

# Microkernels (codegen/, nest/coalesce.py): roofline
SMALL_BLOCK = 4  # sums that still keep the units busy
MOST_UNROLLED = 32  # points of a reduction
SHARED_IN_L1 = 1 << 14  # bytes of what rows share, up to which lanes may be the inner loop
WORTH_ASKING = 1 << 10  # elements of a panel, of which fewer are near before anybody can ask
SHORT = 16  # rows of an image that blocks of registers do not divide well
LONG = 64  # elements of a sum, beside which addresses cost nothing
