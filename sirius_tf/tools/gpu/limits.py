# SPDX-License-Identifier: Apache-2.0
"""Limits of a GPU, measured: its memory, its multipliers, launches and barriers."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sirius_tf.bundle.nvrtc import compile_cubin, header
from sirius_tf.runtime.cuda import SYNC

THREADS = 256
CHAINS = 8  # independent sums of a thread: latency times throughput
SOURCE = (
    header()
    + f"""
extern "C" __global__ void nothing() {{}}
extern "C" __global__ void barriers(SiriusSync *sync, int64_t n) {{
  for (int64_t i = 0; i < n; i++) sirius_grid_barrier(sync);
}}
extern "C" __global__ void move(const float4 *x, float4 *y, int64_t n) {{
  for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    y[i] = x[i];
}}
extern "C" __global__ void multiply(const float *x, float *y, int64_t n) {{
  const float a = x[0], b = x[1];
  float sums[{CHAINS}];
  for (int k = 0; k < {CHAINS}; k++) sums[k] = threadIdx.x + k;
  for (int64_t i = 0; i < n; i++)
    for (int k = 0; k < {CHAINS}; k++) sums[k] = fmaf(sums[k], a, b);
  float total = 0;
  for (int k = 0; k < {CHAINS}; k++) total += sums[k];
  y[blockIdx.x * blockDim.x + threadIdx.x] = total;
}}
"""
)


@dataclass(frozen=True)
class Limits:
    """Limits of one GPU: read and written bytes a second of its memory, float32 multiplications
    with an addition a second, microseconds of an empty launch and of a barrier of one block a
    multiprocessor."""

    bytes_s: float
    fma_s: float
    launch_us: float
    barrier_us: float

    def floor_ms(self, multiplications: int, moved_bytes: int) -> float:
        """The roofline: no call is faster that multiplies, and moves to and from memory, so much.

        One that finds its constants in a cache moves less. Williams, Waterman, Patterson,
        "Roofline", CACM 52(4), 2009.
        """
        return 1e3 * max(multiplications / self.fma_s, moved_bytes / self.bytes_s)


def measure(
    cupy: Any, copied: int = 1 << 30, steps: int = 1 << 14, barriers: int = 1000, rounds: int = 9
) -> Limits:
    """Medians on CuPy's current device, by CUDA events, each after a launch that is not timed.

    `copied` bytes, more than the caches hold, are moved; a thread makes `steps` times 8
    multiplications.
    """
    device = cupy.cuda.Device()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "limits.cubin")
        file.write_bytes(compile_cubin(SOURCE, f"sm_{device.compute_capability}").data)
        kernels: dict[str, Any] = {}
        for names, together in ((("nothing", "barriers"), True), (("move", "multiply"), False)):
            module = cupy.RawModule(path=str(file), enable_cooperative_groups=together)
            kernels |= {name: module.get_function(name) for name in names}
    multiprocessors = device.attributes["MultiProcessorCount"]
    full, most = 2 * multiprocessors, 2048 // THREADS * multiprocessors

    def ms(name: str, blocks: int, *arguments: Any) -> float:
        def launch() -> None:
            kernels[name]((blocks,), (THREADS,), arguments, shared_mem=0)

        launch()
        return statistics.median(event_ms(cupy, launch) for _ in range(rounds))

    x, y = (cupy.asarray(np.full(copied // 4, v, np.float32)) for v in (0.5, 1.0))
    sync = cupy.asarray(np.zeros(SYNC.itemsize, np.uint8))
    empty = ms("nothing", 1)
    waits = ms("barriers", multiprocessors, sync, np.int64(barriers)) - empty
    moved = 2 * copied / ms("move", most, x, y, np.int64(copied // 16))
    products = steps * CHAINS * THREADS * full / ms("multiply", full, x, y, np.int64(steps))
    return Limits(1e3 * moved, 1e3 * products, 1e3 * empty, 1e3 * waits / barriers)


def event_ms(cupy: Any, run: Callable[[], object]) -> float:
    """Milliseconds between events before and after `run` on the current stream."""
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end))
