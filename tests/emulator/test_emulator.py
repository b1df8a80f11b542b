# SPDX-License-Identifier: Apache-2.0
"""The emulator of CUDA: kernels that are right, and each kind of mistake, which it must report."""

import numpy as np
import pytest

from sirius_tf.bundle import nvrtc
from tests.emulator import emulator

HEADER = nvrtc.header()
ORDERS = ("forward", "reverse", "random:7")
SANITIZERS = (None, "address", "thread")
NAN = float("nan")
#: What TSan says of a race in a kernel.
RACE = r"data race \S*kernel\.cu:\d+ in "

pytestmark = pytest.mark.cuda_emu


def build(source, sanitizer=None):
    return emulator.build(HEADER + source, sanitizer)


# ---- kernels that are right, in each order and under each sanitizer

#: y = the transpose of x, of n x n, by tiles of 16 x 16 in shared memory.
TRANSPOSE = """
extern "C" __global__ void __launch_bounds__(256) transpose(const float *x, float *y, int n) {
  __shared__ float tile[16][17];
  const int row = threadIdx.x / 16, column = threadIdx.x % 16, tiles = n / 16;
  const int from = blockIdx.x / tiles * 16, to = blockIdx.x % tiles * 16;
  tile[row][column] = x[(from + row) * n + to + column];
  sirius_block_barrier();
  y[(to + row) * n + from + column] = tile[column][row];
}
"""

#: T steps of h = relu(U h + b) by all blocks, each of which has a row of U.
RECURRENCE = """
extern "C" __global__ void recur(const float *u, float *h, int steps, SiriusSync *sync) {
  const int n = gridDim.x, row = blockIdx.x;
  for (int t = 0; t < steps; t++) {
    const float *now = h + t % 2 * n;
    float sum = 0;
    for (int k = threadIdx.x; k < n; k += 32) sum += u[row * n + k] * now[k];
    sum = sirius_warp_reduce_add(sum);
    if (threadIdx.x == 0) h[(t + 1) % 2 * n + row] = sum > 0 ? sum : 0;
    BARRIER
  }
}
"""

#: y = sum of x by blocks, through dynamic shared memory that cp.async fills in two stages.
PIPELINE = """
extern "C" __global__ void pipeline(const float *x, float *y, int steps) {
  extern __shared__ float stages[];
  float sum = 0;
  for (int t = 0; t <= steps; t++) {
    float *stage = stages + t % 2 * 128 + threadIdx.x * 4;
    if (t < steps) sirius_cp_async<16>(stage, x + t * 128 + threadIdx.x * 4);
    sirius_cp_async_commit();
    if (t == 0) continue;
    sirius_cp_async_wait<WAIT>();
    sirius_block_barrier();
    for (int k = 0; k < 4; k++) sum += stages[(t - 1) % 2 * 128 + (31 - threadIdx.x) * 4 + k];
    sirius_block_barrier();
  }
  sirius_cp_async_wait<0>();
  y[threadIdx.x] = sum;
}
"""

#: The same with one stage, which READ leaves, or not, before the next copies are issued.
ONE_STAGE = """
extern "C" __global__ void pipeline(const float *x, float *y, int steps) {
  __shared__ __align__(16) float stage[128];
  float sum = 0;
  for (int t = 0; t <= steps; t++) {
    for (int k = 0; k < 4 && t; k++) sum += stage[(31 - threadIdx.x) * 4 + k];
    READ
    if (t < steps) sirius_cp_async<16>(stage + threadIdx.x * 4, x + (t * 32 + threadIdx.x) * 4);
    sirius_cp_async_commit();
    sirius_block_barrier();
    sirius_cp_async_wait<0>();
    sirius_block_barrier();
  }
  y[threadIdx.x] = sum;
}
"""


def transpose(sanitizer=None, order="forward", source=TRANSPOSE, n=48, grid=9):
    x = np.random.default_rng(0).standard_normal((n, n), np.float32)
    y = np.full_like(x, NAN)
    build(source, sanitizer).launch("transpose", grid, 256, [x, y, np.int32(n)], order=order)
    return np.array_equal(y, x.T)


def recur(sanitizer=None, order="forward", barrier="sirius_grid_barrier(sync);", cooperative=True):
    n, steps = 24, 6
    rng = np.random.default_rng(1)
    u = rng.standard_normal((n, n)).astype(np.float32) / 4
    h = np.full((2, n), NAN, np.float32)
    h[0] = rng.uniform(0, 1, n)
    want = h[0].astype(np.float64)
    for _ in range(steps):
        want = np.maximum(u.astype(np.float64) @ want, 0)
    args = [u, h, np.int32(steps), np.zeros(2, np.uint32)]
    module = build(RECURRENCE.replace("BARRIER", barrier), sanitizer)
    module.launch("recur", n, 32, args, cooperative=cooperative, order=order)
    return np.allclose(h[steps % 2], want, rtol=1e-4, atol=1e-6)


def pipeline(sanitizer=None, order="forward", source=PIPELINE, wait=1, steps=5):
    x = np.random.default_rng(2).integers(0, 9, (steps, 32, 4)).astype(np.float32)
    y = np.full(32, NAN, np.float32)
    module = build(source.replace("WAIT", str(wait)), sanitizer)
    module.launch("pipeline", 1, 32, [x, y, np.int32(steps)], shared_bytes=1024, order=order)
    return np.array_equal(y[::-1], x.sum((0, 2)))


def test_kernels_are_cuda(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    barrier, wait = "sirius_grid_barrier(sync);", "1"
    source = TRANSPOSE + RECURRENCE.replace("BARRIER", barrier) + PIPELINE.replace("WAIT", wait)
    kernels = nvrtc.compile_cubin(HEADER + source, "sm_80").kernels
    assert set(kernels) == {"transpose", "recur", "pipeline"}
    assert kernels["transpose"].static_shared == 16 * 17 * 4


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernel", [transpose, recur, pipeline])
def test_right_kernels(kernel, order):
    assert kernel(None, order)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("kernel", [transpose, recur, pipeline])
def test_right_kernels_under_sanitizers(kernel, sanitizer):
    assert kernel(sanitizer)


def test_many_threads():
    """More blocks and threads than one has cores, all of them resident."""
    source = """
    extern "C" __global__ void count(unsigned *total, SiriusSync *sync) {
      for (int i = 0; i < 3; i++) {
        atomicAdd(total, 1u);
        sirius_grid_barrier(sync);
        if (*total != (i + 1) * gridDim.x * blockDim.x) atomicAdd(total + 1, 1u);
        sirius_grid_barrier(sync);
      }
    }"""
    total, sync = np.zeros(2, np.uint32), np.zeros(2, np.uint32)
    build(source).launch("count", 66, 128, [total, sync], cooperative=True)
    assert total.tolist() == [3 * 66 * 128, 0]
    assert sync[0] == 0
    assert sync[1] == 6


# ---- mistakes


def reports(kernel, match, *args, **kwargs):
    with pytest.raises(emulator.EmulationError, match=match):
        kernel(*args, **kwargs)


WITHOUT_BARRIER = TRANSPOSE.replace("sirius_block_barrier();", "")


@pytest.mark.parametrize("order", ORDERS)
def test_missing_barrier_reads_nan(order):
    assert not transpose(None, order, WITHOUT_BARRIER)


def test_missing_barrier_is_a_race():
    reports(transpose, RACE + "transpose", "thread", source=WITHOUT_BARRIER)


def test_missing_second_barrier_is_a_race():
    """What is overwritten too early, which no order of whole threads between barriers shows."""
    first, _, rest = PIPELINE.rpartition("sirius_block_barrier();")
    reports(pipeline, RACE + "pipeline", "thread", source=first + rest)


def test_race_between_blocks():
    source = """extern "C" __global__ void f(float *x) { x[threadIdx.x] = blockIdx.x; }"""
    x = np.zeros(32, np.float32)
    reports(build(source, "thread").launch, RACE + "f", "f", 2, 32, [x])


def test_relaxed_atomics_order_nothing():
    """A flag by atomicAdd does not publish what was written before."""
    source = """extern "C" __global__ void f(float *x, unsigned *flag) {
      if (blockIdx.x == 0) { x[0] = 1; atomicAdd(flag, 1u); }
      else { while (FLAG == 0) continue; x[1] = x[0]; }
    }"""
    good = source.replace("FLAG", "sirius_load_acquire(flag)")
    good = good.replace("atomicAdd(flag, 1u)", "sirius_store_release(flag, 1)")
    x, flag = np.zeros(2, np.float32), np.zeros(1, np.uint32)
    build(good, "thread").launch("f", 2, 1, [x, flag], cooperative=True)
    assert x.tolist() == [1, 1]
    bad = build(source.replace("FLAG", "atomicCAS(flag, 1u, 1u)"), "thread").launch
    flag[0] = 0
    reports(bad, RACE + "f", "f", 2, 1, [x, flag], cooperative=True)


def test_missing_grid_barrier():
    for order in ORDERS:
        assert not recur(None, order, barrier="")
    reports(recur, RACE + "recur", "thread", barrier="")


def test_grid_barrier_in_a_launch_that_is_not_cooperative():
    reports(recur, "not cooperative", cooperative=False)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("if (i < 7) sirius_block_barrier();", "divergent barrier: a thread exits while 7"),
        ("if (i < 7) return; sirius_block_barrier();", "after 7 of 64 threads exited"),
        (
            "if (i < 7)\n sirius_block_barrier();\n else\n sirius_block_barrier();",
            "while 7 threads wait",
        ),
        (
            "if (blockIdx.x)\n sirius_grid_barrier(sync);\n else\n sirius_grid_barrier(sync);",
            "divergent grid barrier: number 0 is at line",
        ),
        ("if (blockIdx.x) sirius_grid_barrier(sync);", "livelock"),
        ("if (i < 7) sirius_warp_reduce_add(1);", "lanes ffffff80 of its mask exited|deadlock"),
        (
            "if (i < 7) __syncwarp(); else sirius_block_barrier();",
            "deadlock in block 0: 57 threads",
        ),
        ("if (i & 1)\n __syncwarp();\n else\n __syncwarp();", "divergent warp operation"),
        ("__syncwarp(2);", "lane 0 is not in its own mask"),
    ],
)
def test_divergence(body, match):
    source = f"""extern "C" __global__ void f(SiriusSync *sync) {{
      const int i = threadIdx.x;
      {body}
    }}"""
    launch = build(source).launch
    reports(launch, match, "f", 2, 64, [np.zeros(2, np.uint32)], cooperative=True)


def test_waiting_for_ever():
    source = """extern "C" __global__ void f(unsigned *flag) {
      while (!sirius_load_acquire(flag)) continue;
    }"""
    reports(build(source).launch, "livelock", "f", 2, 32, [np.zeros(1, np.uint32)])


@pytest.mark.parametrize(
    ("sanitizer", "access", "far"),
    [(s, "x[i] = 1;", far) for s in SANITIZERS for far in (0, 70, 100000)]
    + [(s, "if (x[i] == 2) x[0] = 1;", 100000) for s in SANITIZERS]
    + [("address", "if (x[i] == 2) x[0] = 1;", 0)],
)
def test_out_of_bounds(sanitizer, access, far):
    """Past the end and before the start; reads nearby are what only ASan sees."""
    source = f"""extern "C" __global__ void f(float *x, int i) {{ {access} }}"""
    x = np.zeros(999, np.float32)
    launch = build(source, sanitizer).launch
    launch("f", 1, 1, [x, np.int32(998)])
    for i in (999 + far, -1 - far):
        reports(launch, "out of bounds|use-after-poison", "f", 1, 1, [x, np.int32(i)])


def test_shared_memory_out_of_bounds():
    source = """extern "C" __global__ void f(float *x) {
      __shared__ float a[32];
      __shared__ float b[32];
      a[threadIdx.x + BY] = 1;
      b[threadIdx.x] = 2;
      sirius_block_barrier();
      x[threadIdx.x] = a[threadIdx.x] + b[threadIdx.x];
    }"""
    x = np.zeros(32, np.float32)
    for sanitizer in (None, "address"):
        build(source.replace("BY", "0"), sanitizer).launch("f", 1, 32, [x])
        launch = build(source.replace("BY", "1"), sanitizer).launch
        reports(launch, "out of bounds|use-after-poison", "f", 1, 32, [x])


def test_undefined_behaviour():
    source = """extern "C" __global__ void f(const float *x, float4 *y) {
      y[0] = *(const float4 *)(x + 1);
    }"""
    args = [np.zeros(8, np.float32), np.zeros(4, np.float32)]
    reports(build(source, "address").launch, "misaligned address", "f", 1, 1, args)


@pytest.mark.parametrize("order", ORDERS)
def test_missing_wait(order):
    assert not pipeline(None, order, wait=2, steps=2)


def test_exit_without_wait():
    source = PIPELINE.replace("sirius_cp_async_wait<0>();", "")
    reports(pipeline, "never waited", source=source, wait=2, steps=2)


def test_overwritten_before_the_wait():
    """cp.async may write as soon as it is issued, while others still read the stage."""
    source = ONE_STAGE.replace("READ", "sirius_block_barrier();")
    assert pipeline(source=source)
    assert pipeline("thread", source=source)
    early = ONE_STAGE.replace("READ", "")
    assert not pipeline(source=early)
    reports(pipeline, RACE + "pipeline", "thread", source=early)
    both = PIPELINE.replace("stages + t % 2 * 128", "stages")
    reports(pipeline, "to where an earlier one copies", source=both)


def test_misaligned_copy():
    source = PIPELINE.replace("128 + threadIdx.x * 4;", "128 + threadIdx.x * 4 + 1;")
    reports(pipeline, "cp.async: .* is not aligned to 16 bytes", source=source)


def test_wrong_arguments():
    source = """struct Sizes { long long n; float scale; };
    extern "C" __global__ void f(float *x, int n, float scale, Sizes sizes) {
      x[0] = n + scale + sizes.n + sizes.scale;
    }"""
    launch = build(source).launch
    sizes = np.zeros((), np.dtype([("n", np.int64), ("scale", np.float32)], align=True))
    sizes["n"], sizes["scale"] = 3, 0.25
    x = np.zeros(1, np.float32)
    right = [x, np.int32(1), np.float32(0.5), sizes[()]]
    launch("f", 1, 1, right)
    assert x[0] == 4.75
    launch("f", 1, 1, [*right[:3], sizes.tobytes()])
    assert x[0] == 4.75
    for number, value, match in [
        (1, np.int64(1), "argument 1 has 8 bytes, the parameter 4"),
        (1, np.float32(1), "argument 1 is of kind 'f', the parameter of kind 'i'"),
        (1, x, "argument 1 is of kind 'p'"),
        (0, np.int64(0), "argument 0 is of kind 'i', the parameter of kind 'p'"),
        (2, np.float64(1), "argument 2 has 8 bytes"),
        (3, b"1234", "argument 3 has 4 bytes, the parameter 16"),
        (2, 0.5, "argument 2 is a float of no fixed width"),
        (0, np.zeros((4, 4), np.float32).T, "not C-contiguous"),
    ]:
        reports(launch, match, "f", 1, 1, [*right[:number], value, *right[number + 1 :]])
    reports(launch, "3 arguments are passed, the kernel has 4", "f", 1, 1, right[:3])
    reports(launch, "no such kernel", "g", 1, 1, right)
    reports(launch, "grid of 1 blocks of 2048 threads", "f", 1, 2048, right)
    reports(build, "nothing", 'extern "C" __global__ void f() { nothing(); }')
    frozen = np.zeros(1, np.float32)
    frozen.flags.writeable = False
    reports(launch, "writes to buffer 0, which is read-only", "f", 1, 1, [frozen, *right[1:]])


def test_buffers_are_in_place():
    source = 'extern "C" __global__ void f(int *x, const int *y) { x[1] = y[0] + 1; }'
    x = np.array([6, 0], np.int32)
    launch = build(source).launch
    launch("f", 1, 1, [x, x])
    assert x.tolist() == [6, 7]
    reports(launch, "part of another array", "f", 1, 1, [x, x[1:]])


def test_too_much_shared_memory():
    source = 'extern "C" __global__ void f() { extern __shared__ float x[]; x[0] = 1; }'
    launch = build(source).launch
    launch("f", 1, 1, [], shared_bytes=232448)
    reports(launch, "of at most 232448", "f", 1, 1, [], shared_bytes=232449)
    reports(launch, "none was asked for", "f", 1, 1, [])


def test_stack_overflow():
    source = """extern "C" __global__ void f(int who) {
      volatile float local[17000];
      if (threadIdx.x == who) for (int i = 0; i < 17000; i++) local[i] = i;
    }"""
    launch = build(source).launch
    launch("f", 1, 2, [np.int32(2)])
    for who in (0, 1):
        reports(launch, "stack", "f", 1, 2, [np.int32(who)])
