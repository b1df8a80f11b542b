# SPDX-License-Identifier: Apache-2.0
"""Functions of sirius_cuda.cuh, as the emulator runs them, against numpy and TensorFlow's rules.

What is one instruction is tested as the emulator has it; of elementary functions those that are
made of others, since the rest is libdevice's, for which the C library stands in.
"""

import math

import mpmath
import numpy as np
import pytest

from sirius_tf.bundle import nvrtc
from sirius_tf.ir.dtypes import numpy_dtype
from tests.emulator import emulator
from tests.support import accuracy

pytestmark = pytest.mark.cuda_emu

KERNELS = """
#define EACH for (int i = threadIdx.x; i < n; i += blockDim.x)
extern "C" __global__ void integers(const int64_t *a, const int64_t *b, int64_t *r, int n) {
  EACH {
    r[i] = sirius_floordiv(a[i], b[i]);
    r[n + i] = sirius_floormod(a[i], b[i]);
    r[2 * n + i] = sirius_truncdiv(a[i], b[i]);
    r[3 * n + i] = sirius_max_i64(a[i], b[i]);
    r[4 * n + i] = sirius_min_i64(a[i], b[i]);
  }
}
extern "C" __global__ void bounded(const int64_t *a, int64_t *r, int64_t extent,
                                   SiriusFailure *failure) {
  r[threadIdx.x] = sirius_bounded(failure, a[threadIdx.x], extent);
}
extern "C" __global__ void divisor(const int64_t *a, int64_t *r, SiriusFailure *failure) {
  r[threadIdx.x] = sirius_divisor(failure, a[threadIdx.x]);
}
extern "C" __global__ void words(const float *x, const int32_t *n, int64_t *w, float *y,
                                 int32_t *m) {
  const int i = threadIdx.x, other = i ^ 1;
  sirius_publish(w + i, x[i], i);
  sirius_publish(w + 32 + i, n[i], 1000 + i);
  sirius_await(y + i, w + other, sirius_load_relaxed(w + other), other);
  sirius_await(m + i, w + 32 + other, 0, 1000 + other);
}
extern "C" __global__ void reduce(const float *x, float *r) {
  r[threadIdx.x] = sirius_warp_reduce_add(x[threadIdx.x]);
  r[32 + threadIdx.x] = sirius_warp_reduce_max(x[threadIdx.x]);
  r[64 + threadIdx.x] = sirius_warp_reduce_min(x[threadIdx.x]);
}
extern "C" __global__ void halves(const float *x, uint16_t *f16, uint16_t *bf16, float *r, int n) {
  EACH {
    f16[i] = sirius_to_f16(x[i]);
    bf16[i] = sirius_to_bf16(x[i]);
    r[i] = sirius_from_f16(f16[i]);
    r[n + i] = sirius_from_bf16(bf16[i]);
  }
}
extern "C" __global__ void tf32(const float *x, uint32_t *r, int n) {
  EACH r[i] = sirius_to_tf32(x[i]);
}
extern "C" __global__ void split(const uint32_t *x, uint32_t *high, uint32_t *low, int n) {
  EACH {
    high[i] = x[i];
    sirius_split_tf32(high[i], low[i]);
  }
}
/* The first words of x, and zeros */
extern "C" __global__ void beginning(const uint32_t *x, uint32_t *r, int words) {
  __shared__ __align__(16) uint32_t rows[128];
  const int first = 4 * threadIdx.x;
  for (int i = 0; i < 2; i++)
    sirius_cp_async_or_zero<4>(rows + first + i, x + first + i, first + i < words);
  sirius_cp_async_or_zero<8>(rows + first + 2, x + first + 2, first + 2 < words);
  sirius_cp_async_commit();
  sirius_cp_async_wait<0>();
  for (int i = 0; i < 4; i++) r[first + i] = rows[first + i];
  sirius_cp_async_or_zero<16>(rows + first, x + first, first < words);
  sirius_cp_async_commit();
  sirius_cp_async_wait<0>();
  for (int i = 0; i < 4; i++) r[128 + first + i] = rows[first + i];
}
/* The transposes of four and of two matrices of 8 x 8 elements of 16 bits */
extern "C" __global__ void transposed(const uint16_t *x, uint32_t *r4, uint32_t *r2) {
  __shared__ __align__(16) uint16_t rows[256];
  for (int i = 0; i < 4; i++)
    sirius_cp_async<4>(rows + 64 * i + 2 * threadIdx.x, x + 64 * i + 2 * threadIdx.x);
  sirius_cp_async_commit();
  sirius_cp_async_wait<0>();
  sirius_block_barrier();
  uint32_t four[4], two[2];
  sirius_ldmatrix_trans(four, rows + 8 * threadIdx.x);
  sirius_ldmatrix_trans(two, rows + 8 * (threadIdx.x % 16));
  for (int i = 0; i < 4; i++) r4[32 * i + threadIdx.x] = four[i];
  for (int i = 0; i < 2; i++) r2[32 * i + threadIdx.x] = two[i];
}
extern "C" __global__ void sigmoid32(const float *x, float *y, int n) {
  EACH y[i] = sirius_sigmoid(x[i]);
}
extern "C" __global__ void erfc32(const float *x, float *y, int n) {
  EACH y[i] = sirius_erfc(x[i]);
}
extern "C" __global__ void pow32(const float *x, const float *z, float *y, int n) {
  EACH y[i] = sirius_pow(x[i], z[i]);
}
extern "C" __global__ void atan2_32(const float *y, const float *x, float *angle, int n) {
  EACH angle[i] = sirius_atan2(y[i], x[i]);
}
extern "C" __global__ void sigmoid64(const double *x, double *y, int n) {
  EACH y[i] = sirius_sigmoid(x[i]);
}
"""

#: One for each type of elements.
PRODUCT = """
/* c = a b^T, where a has 16 rows and b has 8, of 8 words each, by way of shared memory */
extern "C" __global__ void mma_TYPE(const uint32_t *a, const uint32_t *b, float *c) {
  __shared__ __align__(16) uint32_t rows_a[128];
  __shared__ __align__(16) uint32_t rows_b[64];
  const int lane = threadIdx.x;
  sirius_cp_async<16>(rows_a + 4 * lane, a + 4 * lane);
  sirius_cp_async<8>(rows_b + 2 * lane, b + 2 * lane);
  sirius_cp_async_commit();
  sirius_cp_async_wait<0>();
  sirius_block_barrier();
  uint32_t fa[4], fb[2];
  sirius_ldmatrix(fa, rows_a + lane % 16 * 8 + lane / 16 * 4);
  sirius_ldmatrix(fb, rows_b + lane % 8 * 8 + lane / 8 % 2 * 4);
  float d[4] = {1, 1, 1, 1};
  sirius_mma_TYPE(d, fa, fb);
  for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}
"""
TYPES = {"f16": "float16", "bf16": "bfloat16", "tf32": "float32"}
PRODUCTS = "".join(PRODUCT.replace("TYPE", name) for name in TYPES)
SOURCE = nvrtc.header() + KERNELS + PRODUCTS


@pytest.fixture(scope="module")
def launch():
    return emulator.build(SOURCE).launch


def test_kernels_are_cuda(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels = nvrtc.compile_cubin(SOURCE, "sm_90").kernels
    assert set(kernels) == set(emulator.KERNEL.findall(SOURCE))


def test_integers(launch):
    low, high = -(2**63), 2**63 - 1
    values = [low, low + 1, -7, -2, -1, 0, 1, 2, 3, 7, high - 1, high]
    pairs = [(a, b) for a in values for b in values if b]
    a, b = (np.array(v) for v in zip(*pairs, strict=True))
    results = np.zeros((5, len(pairs)), np.int64)
    launch("integers", 1, 32, [a, b, results, np.int32(len(pairs))])

    def wrap(v):
        return (v - low) % 2**64 + low

    for i, (a, b) in enumerate(pairs):
        truncated = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        want = [wrap(a // b), wrap(a % b), wrap(truncated), max(a, b), min(a, b)]
        assert results[:, i].tolist() == want, (a, b)


def test_failures(launch):
    record = np.dtype([("failed", np.int32), ("format", np.int32), ("args", np.int64, 2)])
    a = np.array([0, 4, 5, -1, 2**40], np.int64)
    results, failure = np.zeros_like(a), np.zeros(1, record)
    launch("bounded", 1, 2, [a, results, np.int64(5), failure])
    assert failure[0].tolist()[:2] == (0, 0)
    launch("bounded", 1, 5, [a, results, np.int64(5), failure])
    assert results.tolist() == [0, 4, 0, 0, 0]
    assert (failure["failed"][0], failure["format"][0]) == (1, 0)
    assert failure["args"][0].tolist() == [5, 5]  # of the first thread that fails
    failure[0] = 0
    launch("bounded", 1, 5, [a, results, np.int64(5), failure], order="reverse")
    assert failure["args"][0].tolist() == [2**40, 5]
    failure[0] = 0
    launch("divisor", 1, 5, [a, results, failure])
    assert results.tolist() == [1, 4, 5, -1, 2**40]
    assert (failure["failed"][0], failure["format"][0]) == (1, 1)


def test_reductions(launch):
    rng = np.random.default_rng(3)
    for at in (None, 0, 17, 31):
        x = rng.integers(-99, 99, 32).astype(np.float32)
        if at is not None:
            x[at] = np.nan
        results = np.zeros((3, 32), np.float32)
        launch("reduce", 1, 32, [x, results])
        for row, reference in zip(results, (np.sum, np.max, np.min), strict=True):
            np.testing.assert_array_equal(row, np.full(32, reference(x)))


def test_words(launch):
    """All bits of an element pass, beside a tag of the time's last bits."""
    rng = np.random.default_rng(4)
    n = rng.integers(-(1 << 31), 1 << 31, 32, dtype=np.int64).astype(np.int32)
    x, w = n[::-1].copy().view(np.float32), np.zeros(64, np.int64)
    y, m = np.zeros(32, np.float32), np.zeros(32, np.int32)
    launch("words", 1, 32, [x, n, w, y, m])
    swapped = np.arange(32) ^ 1
    np.testing.assert_array_equal(y.view(np.int32), x.view(np.int32)[swapped])
    np.testing.assert_array_equal(m, n[swapped])
    np.testing.assert_array_equal(w >> 32, [*range(1, 33), *range(1001, 1033)])


def test_half_precision(launch):
    x = accuracy.sweep()
    n = np.int32(x.size)
    f16, bf16 = np.zeros((2, x.size), np.uint16)
    back, tf32 = np.zeros((2, x.size), np.float32), np.zeros(x.size, np.uint32)
    launch("halves", 1, 32, [x, f16, bf16, back, n])
    number = ~np.isnan(x)
    for bits, values, name in ((f16, back[0], "float16"), (bf16, back[1], "bfloat16")):
        with np.errstate(all="ignore"):
            want = x.astype(numpy_dtype(name))
        np.testing.assert_array_equal(bits[number], want.view(np.uint16)[number])
        np.testing.assert_array_equal(values, want.astype(np.float32))
    launch("tf32", 1, 32, [x, tf32, n])
    finite = np.isfinite(x) & (np.abs(x) < 3e38) & (np.abs(x) > 1e-37)
    got, exact = tf32.view(np.float32)[finite].astype(np.float64), x[finite].astype(np.float64)
    mantissa, exponent = np.frexp(exact)
    want = np.trunc(mantissa * 2048 + np.copysign(0.5, mantissa)) / 2048
    np.testing.assert_array_equal(got, np.ldexp(want, exponent))
    assert not (tf32[finite] & 0x1FFF).any()


def test_two_tf32_are_nearly_a_float(launch):
    x = accuracy.sweep()
    x = x[np.isfinite(x) & (np.abs(x) < 3e38) & (np.abs(x) > 1e-30)]
    high, low = np.zeros((2, x.size), np.uint32)
    launch("split", 1, 32, [x.view(np.uint32), high, low, np.int32(x.size)])
    assert not ((high | low) & 0x1FFF).any()
    both = high.view(np.float32).astype(np.float64) + low.view(np.float32)
    assert (np.abs(both - x) <= 2.0**-22 * np.abs(x)).all()


@pytest.mark.parametrize("words", [0, 44, 128])
def test_copies_end_with_zeros(launch, words):
    x = np.random.default_rng(6).integers(0, 2**32, words, dtype=np.uint32)
    results = np.ones((2, 128), np.uint32)
    launch("beginning", 1, 32, [x if words else np.zeros(1, np.uint32), results, np.int32(words)])
    want = np.concatenate([x, np.zeros(128 - words, np.uint32)])
    np.testing.assert_array_equal(results, [want, want])


@pytest.mark.parametrize(("name", "dtype"), TYPES.items())
def test_mma(launch, name, dtype):
    depth = 8 if name == "tf32" else 16
    rng = np.random.default_rng(4)
    a, b = (rng.integers(-9, 9, (rows, depth)).astype(numpy_dtype(dtype)) for rows in (16, 8))
    c = np.zeros((16, 8), np.float32)
    launch(f"mma_{name}", 1, 32, [a.view(np.uint16), b.view(np.uint16), c])
    want = a.astype(np.float64) @ b.astype(np.float64).T + 1
    np.testing.assert_array_equal(c, want)


def test_transposed_matrices(launch):
    x = np.random.default_rng(5).integers(0, 2**16, (4, 8, 8)).astype(np.uint16)
    four, two = np.zeros((4, 32), np.uint32), np.zeros((2, 32), np.uint32)
    launch("transposed", 1, 32, [x, four, two])
    want = x.transpose(0, 2, 1)
    np.testing.assert_array_equal(four.view(np.uint16).reshape(4, 8, 8), want)
    np.testing.assert_array_equal(two.view(np.uint16).reshape(2, 8, 8), want[:2])


@pytest.mark.parametrize("name", ["sigmoid", "erfc"])
def test_unary(launch, name):
    x = accuracy.sweep()
    y = np.zeros_like(x)
    launch(f"{name}32", 1, 32, [x, y, np.int32(x.size)])
    with np.errstate(all="ignore"):
        exact = accuracy.UNARY[name](x.astype(np.float64))
    accuracy.check(name, y, exact, x)


def test_pow(launch):
    rng = np.random.default_rng(6)
    special = [v.ravel() for v in np.meshgrid(accuracy.specials(), accuracy.specials())]
    x = np.concatenate([rng.uniform(0, 4, 50000).astype(np.float32), special[0]])
    z = np.concatenate([rng.uniform(-60, 60, 50000).astype(np.float32), special[1]])
    y = np.zeros_like(x)
    launch("pow32", 1, 32, [x, z, y, np.int32(x.size)])
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), z.astype(np.float64))
    accuracy.check("pow", y, exact, x, z)


def test_atan2(launch):
    rng = np.random.default_rng(6)
    special = [v.ravel() for v in np.meshgrid(accuracy.specials(), accuracy.specials())]
    drawn = rng.standard_normal((2, 50000)).astype(np.float32)
    y, x = (np.append(v, more) for v, more in zip(drawn, special, strict=True))
    angle = np.zeros_like(x)
    launch("atan2_32", 1, 32, [y, x, angle, np.int32(x.size)])
    accuracy.check("atan2", angle, np.arctan2(y.astype(np.float64), x.astype(np.float64)), y, x)


def test_sigmoid_of_doubles(launch):
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.uniform(-r, r, 500) for r in (1e-9, 1, 30, 700)])
    x = np.concatenate([x, [0.0, -0.0, math.inf, -math.inf, 1e300, -1e300, -745.0]])
    y = np.zeros_like(x)
    launch("sigmoid64", 1, 32, [x, y, np.int32(x.size)])
    with mpmath.workprec(200):
        want = [1 / (1 + mpmath.exp(-mpmath.mpf(v))) for v in x.tolist()]
        near = np.array([float(w) for w in want])
        spacing = np.spacing(near)
        errors = [
            float(abs(mpmath.mpf(got) - w) / mpmath.mpf(ulp))
            for got, w, ulp in zip(y.tolist(), want, spacing.tolist(), strict=True)
        ]
    assert max(errors) <= 3
