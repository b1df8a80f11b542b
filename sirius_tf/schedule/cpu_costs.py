# SPDX-License-Identifier: Apache-2.0
"""Costs of a CPU, by which schedules and code are chosen; results depend on none of them.

The comment of a number says its unit, what it stands for, and in brackets the command that measures
it, or whose times show whether it is good:

    machine    python tools/machine.py: limits of a CPU, beside the numbers that stand for them
    roofline   python tools/roofline.py: products, beside the peak and bandwidth of a core
    tune       python tools/tune.py MODEL: tile sizes, beside those of the model
    ablation   python tools/ablation.py MODEL: passes and parts of the scheduler, left out in turn
    benchmark  python tools/benchmark.py MODEL --peers=direct: before and after a change

docs/performance.md says what they found, when, and on which CPU. A *point* is an element of a
statement, or a term of a sum, that a worker evaluates.
"""

POINT_NS = 0.1  # nanoseconds: of a point that is read from the second level and written [machine]

# Workers and tiles (machine.py, tile.py, join.py)
CACHE = 1 << 19  # bytes: that a tile may use, half of the second level [machine]
WORTH_A_TILE = 1 << 15  # points: below which running a tile costs more than its code [machine]
WORTH_A_WORKER = 1 << 13  # points: of a step of a recurrence, whose workers wait [machine]
WORTH_A_BARRIER = 1 << 12  # points: that a worker evaluates while others wait for it [machine]
FAR = 8  # points: worth an element that is written to, and read from, a far cache [machine]

# Overlapped tiles (overlap.py)
READ = 6.0  # multiply-adds: worth an element that is read from a far cache [machine]
WRITTEN = 9.0  # multiply-adds: worth one that is written there, if no stores hide [machine]

# Vectors and register blocks (plan.py), which GPUs take, too; packed constants (layout.py)
LANES = 8  # elements: float32 in a vector of x86-64-v3 [machine]
IN_FLIGHT = 8  # multiply-adds: that keep the units busy, latency times throughput [machine]
STREAMS = 1.5  # times: the load of one stream, where several are read at a time [machine]
SCATTERED = 16.0  # times: the load of a contiguous vector, where lanes lie apart [machine]
SMALLEST_PACKED = 2048  # elements: of a constant, fewer stay in the first level [machine]

# Microkernels (codegen/)
SMALL_BLOCK = 4  # rows: of two vectors each, that keep the units busy [machine]
SHARED_IN_L1 = 1 << 14  # bytes: of what rows share, up to which lanes are the inner loop [machine]
WORTH_ASKING = 1 << 10  # elements: of a panel, fewer are near before anybody can ask [machine]

# Policies: no cost stands behind these numbers; they are what was good where it was tried
WORTH_HELPING = 1 << 19  # points: of a phase, for which workers look after each other [benchmark]
LONG_LEAF = 1 << 18  # points: of a leaf, before which the clock is looked at, 20 us [benchmark]
MOST_ROWS = 64  # rows: of a contraction's tile, for which a panel is read once [tune]
FEWEST_ROWS = 32  # rows: of a contraction's tile, that are as fast as more [tune]
FEW_TILES = 8  # tiles: for each worker, so few that it matters how they are divided [tune]
HIDING = 8  # times: the work that hides a store, over what the store takes [ablation]
OPERATION = 2  # multiply-adds: that take as long as another operation [ablation]
ROWS = 8  # rows: values of an iterator that registers hold at once [roofline]
MOST_COPIES = 2  # times: its size that packing a constant may take [benchmark]
MOST_UNROLLED = 32  # points: of a sum that is unrolled [benchmark]
SHORT = 16  # rows: of an image, more are divided well by blocks of registers [benchmark]
LONG = 64  # points: of a sum, beside which addresses cost nothing [benchmark]
