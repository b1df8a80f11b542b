/* SPDX-License-Identifier: Apache-2.0
 *
 * What generated CUDA is built from. It stands in front of the source of a kernel, since NVRTC gets no
 * include path, and includes nothing but coefficients, which keeps a compilation below 0.2 s. What is inline PTX here is
 * plain C++ in tests/emulator/cuda_emu.h, which defines SIRIUS_EMULATED and runs kernels on the CPU.
 *
 * Compile with --fmad=true -prec-div=true -prec-sqrt=true -ftz=false: division and sqrt are IEEE's, and
 * subnormals are kept. Data that other blocks write in the same launch must not be read through
 * `const T *__restrict__`: ld.global.nc is not coherent.
 *
 * PTX is cited by the instruction's name in "Parallel Thread Execution ISA" (NVIDIA), chapter 9.7.
 */
#ifndef SIRIUS_CUDA_CUH
#define SIRIUS_CUDA_CUH

#include "sirius_coefficients.h"

#define SIRIUS_DEVICE __device__ __forceinline__

#ifdef SIRIUS_EMULATED
/* Where a collective operation is called, on which all who take part must agree. */
#define SIRIUS_SITE , int line = __builtin_LINE()
#define SIRIUS_AT , line
#else
#define SIRIUS_SITE
#define SIRIUS_AT
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#endif

/* ---- failures. In device memory, zero before a run; the host reads it after the run. */

struct SiriusFailure {
  int32_t failed; /* 1 once some thread failed; the first one fills in the rest */
  int32_t format; /* index of the host's table of messages: SiriusFormat, or above */
  int64_t args[2];
};
enum SiriusFormat {
  SIRIUS_INDEX_OUT_OF_RANGE = 0, /* "index %lld is not in [0, %lld)" */
  SIRIUS_DIVISION_BY_ZERO = 1,   /* "integer division by zero" */
  SIRIUS_FORMATS                 /* the number of formats above; further ones are the host's */
};

SIRIUS_DEVICE void sirius_fail(SiriusFailure *failure, int32_t format, int64_t a, int64_t b) {
  if (atomicCAS(&failure->failed, 0, 1) != 0) return;
  failure->format = format;
  failure->args[0] = a;
  failure->args[1] = b;
}

/* ---- integers */

SIRIUS_DEVICE int64_t sirius_max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
SIRIUS_DEVICE int64_t sirius_min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
SIRIUS_DEVICE int64_t sirius_floordiv(int64_t a, int64_t b) {
  if (b == -1) return (int64_t)(0 - (uint64_t)a); /* a / b overflows for the least a */
  return a / b - (a % b && (a < 0) != (b < 0));
}
SIRIUS_DEVICE int64_t sirius_floormod(int64_t a, int64_t b) {
  return (int64_t)((uint64_t)a - (uint64_t)sirius_floordiv(a, b) * (uint64_t)b);
}
SIRIUS_DEVICE int64_t sirius_truncdiv(int64_t a, int64_t b) {
  return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
}
/* A data-dependent index: out of range, it fails the run, and reads element 0 if there is one. */
SIRIUS_DEVICE int64_t sirius_bounded(SiriusFailure *failure, int64_t i, int64_t extent) {
  if ((uint64_t)i < (uint64_t)extent) return i;
  sirius_fail(failure, SIRIUS_INDEX_OUT_OF_RANGE, i, extent);
  return 0;
}
/* A divisor: zero fails the run. */
SIRIUS_DEVICE int64_t sirius_divisor(SiriusFailure *failure, int64_t b) {
  if (b) return b;
  sirius_fail(failure, SIRIUS_DIVISION_BY_ZERO, 0, 0);
  return 1;
}

/* ---- what CUDA C++ has no word for */

#ifdef SIRIUS_EMULATED

SIRIUS_DEVICE void sirius_block_barrier(int line = __builtin_LINE()) { __syncthreads(line); }
SIRIUS_DEVICE float sirius_shuffle_xor(float x, int mask SIRIUS_SITE) {
  return __shfl_xor_sync(0xffffffffu, x, mask, 32, line);
}
SIRIUS_DEVICE float sirius_max(float a, float b) { return (a > b) | (a != a) ? a : b; }
SIRIUS_DEVICE float sirius_min(float a, float b) { return (a < b) | (a != a) ? a : b; }

SIRIUS_DEVICE uint32_t sirius_load_acquire(const uint32_t *p) { return emu::load_acquire(p); }
SIRIUS_DEVICE uint64_t sirius_load_acquire(const uint64_t *p) { return emu::load_acquire(p); }
SIRIUS_DEVICE void sirius_store_release(uint32_t *p, uint32_t x) { emu::store_release(p, x); }
SIRIUS_DEVICE void sirius_store_release(uint64_t *p, uint64_t x) { emu::store_release(p, x); }
SIRIUS_DEVICE uint32_t sirius_add_acq_rel(uint32_t *p, uint32_t x) { return emu::add_acq_rel(p, x); }
SIRIUS_DEVICE uint64_t sirius_load_relaxed(const int64_t *p) { return emu::load_relaxed(p); }
SIRIUS_DEVICE void sirius_store_relaxed(int64_t *p, uint64_t x) { emu::store_relaxed(p, (int64_t)x); }
SIRIUS_DEVICE void sirius_let_others_run() { emu::yield(); }

template <int bytes> SIRIUS_DEVICE void sirius_cp_async(void *shared, const void *global) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  emu::cp_async(shared, global, bytes);
}
template <int bytes> SIRIUS_DEVICE void sirius_cp_async_or_zero(void *shared, const void *global, bool inside) {
  alignas(16) static const char zeros[16] = {};
  sirius_cp_async<bytes>(shared, inside ? global : zeros);
}
SIRIUS_DEVICE void sirius_cp_async_commit() { emu::cp_async_commit(); }
template <int groups> SIRIUS_DEVICE void sirius_cp_async_wait() { emu::cp_async_wait(groups); }

template <int n> SIRIUS_DEVICE void sirius_ldmatrix(uint32_t (&r)[n], const void *row SIRIUS_SITE) {
  emu::ldmatrix(r, n, row, false, line);
}
template <int n> SIRIUS_DEVICE void sirius_ldmatrix_trans(uint32_t (&r)[n], const void *row SIRIUS_SITE) {
  emu::ldmatrix(r, n, row, true, line);
}
SIRIUS_DEVICE float sirius_from_f16(uint16_t x) { return emu::from_f16(x); }
SIRIUS_DEVICE uint16_t sirius_to_f16(float x) { return emu::to_f16(x); }
SIRIUS_DEVICE uint16_t sirius_to_bf16(float x) { return emu::to_bf16(x); }
SIRIUS_DEVICE uint32_t sirius_to_tf32(float x) { return emu::to_tf32(x); }
#define SIRIUS_MMA(name, type)                                                                              \
  SIRIUS_DEVICE void name(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] SIRIUS_SITE) {      \
    emu::mma(d, a, b, type, line);                                                                          \
  }
SIRIUS_MMA(sirius_mma_f16, emu::F16)
SIRIUS_MMA(sirius_mma_bf16, emu::BF16)
SIRIUS_MMA(sirius_mma_tf32, emu::TF32)
#undef SIRIUS_MMA

#else

SIRIUS_DEVICE void sirius_block_barrier() { __syncthreads(); }
SIRIUS_DEVICE float sirius_shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
/* NaN if either is (max.NaN, min.NaN), as TensorFlow has it; fmaxf would drop it. */
SIRIUS_DEVICE float sirius_max(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
SIRIUS_DEVICE float sirius_min(float a, float b) {
  float r;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

/* Words by which blocks of a cooperative launch tell each other that data is there. */
SIRIUS_DEVICE uint32_t sirius_load_acquire(const uint32_t *p) {
  uint32_t x;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
}
SIRIUS_DEVICE uint64_t sirius_load_acquire(const uint64_t *p) {
  uint64_t x;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(x) : "l"(p) : "memory");
  return x;
}
SIRIUS_DEVICE void sirius_store_release(uint32_t *p, uint32_t x) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
}
SIRIUS_DEVICE void sirius_store_release(uint64_t *p, uint64_t x) {
  asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(x) : "memory");
}
SIRIUS_DEVICE uint32_t sirius_add_acq_rel(uint32_t *p, uint32_t x) {
  uint32_t old;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(x) : "memory");
  return old;
}

SIRIUS_DEVICE uint64_t sirius_load_relaxed(const int64_t *p) {
  uint64_t x;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(x) : "l"(p) : "memory");
  return x;
}
SIRIUS_DEVICE void sirius_store_relaxed(int64_t *p, uint64_t x) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(x) : "memory");
}
SIRIUS_DEVICE void sirius_let_others_run() {}

SIRIUS_DEVICE uint32_t sirius_shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* Copies `bytes` from global to shared memory, both aligned to as many. Nobody may touch the destination
 * until the thread has waited for the group, and others not before a barrier after that. */
template <int bytes> SIRIUS_DEVICE void sirius_cp_async(void *shared, const void *global) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  const uint32_t to = sirius_shared_address(shared);
  if constexpr (bytes == 16) /* past the first level, which .ca would fill, too */
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(bytes) : "memory");
}
/* The same, but zeros where the source is not inside of what may be read: cp.async then reads nothing of it. */
template <int bytes> SIRIUS_DEVICE void sirius_cp_async_or_zero(void *shared, const void *global, bool inside) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  const uint32_t to = sirius_shared_address(shared), read = inside ? bytes : 0;
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(read) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(bytes), "r"(read)
                 : "memory");
}
SIRIUS_DEVICE void sirius_cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Waits until at most `groups` of the last committed groups are under way. */
template <int groups> SIRIUS_DEVICE void sirius_cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

/* ldmatrix: 8 x 8 matrices of 16 bits; lane 8 i + j passes the address of row j of matrix i, aligned to
 * 16 bytes. Lane 4 r + c receives in word i the elements (r, 2 c) and (r, 2 c + 1), or those of the transpose. */
#define SIRIUS_LDMATRIX(name, modifier)                                                                     \
  SIRIUS_DEVICE void name(uint32_t (&r)[2], const void *row) {                                              \
    asm volatile("ldmatrix.sync.aligned.m8n8.x2" modifier ".shared.b16 {%0, %1}, [%2];"                     \
                 : "=r"(r[0]), "=r"(r[1])                                                                   \
                 : "r"(sirius_shared_address(row))                                                          \
                 : "memory");                                                                               \
  }                                                                                                         \
  SIRIUS_DEVICE void name(uint32_t (&r)[4], const void *row) {                                              \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" modifier ".shared.b16 {%0, %1, %2, %3}, [%4];"             \
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                                           \
                 : "r"(sirius_shared_address(row))                                                          \
                 : "memory");                                                                               \
  }
SIRIUS_LDMATRIX(sirius_ldmatrix, "")
SIRIUS_LDMATRIX(sirius_ldmatrix_trans, ".trans")
#undef SIRIUS_LDMATRIX

/* Half precision is its bits; rounding is to nearest, ties to even (cvt). */
SIRIUS_DEVICE float sirius_from_f16(uint16_t x) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x));
  return r;
}
SIRIUS_DEVICE uint16_t sirius_to_f16(float x) {
  uint16_t r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x));
  return r;
}
SIRIUS_DEVICE uint16_t sirius_to_bf16(float x) {
  uint16_t r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x));
  return r;
}
/* A float with 10 bits of mantissa, rounded to nearest, ties away from zero. */
SIRIUS_DEVICE uint32_t sirius_to_tf32(float x) {
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}

/* mma.sync: d += a b, with a of 16 rows, b of 8 columns, and a depth of 16 (f16, bf16) or 8 (tf32). With lane
 * 4 g + t: d holds (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1); the words of a pairs of columns, of b pairs of rows:
 * a (g, 2t..), (g+8, 2t..), (g, 2t+8..), (g+8, 2t+8..), b (2t.., g), (2t+8.., g). In tf32 words are elements:
 * a (g, t), (g+8, t), (g, t+4), (g+8, t+4), b (t, g), (t+4, g). */
#define SIRIUS_MMA(name, shape, type)                                                                       \
  SIRIUS_DEVICE void name(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {                  \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type ".f32 "                            \
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                          \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                       \
  }
SIRIUS_MMA(sirius_mma_f16, "m16n8k16", "f16")
SIRIUS_MMA(sirius_mma_bf16, "m16n8k16", "bf16")
SIRIUS_MMA(sirius_mma_tf32, "m16n8k8", "tf32")
#undef SIRIUS_MMA

#endif

/* A float of a word becomes tf32, and what that lacks another tf32: 22 bits of a finite one together.
 * Three products of such words err little more than float32's own (Ootomo and Yokota, "Recovering single
 * precision accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance", 2022). */
SIRIUS_DEVICE void sirius_split_tf32(uint32_t &x, uint32_t &low) {
  const float exact = __uint_as_float(x);
  x = sirius_to_tf32(exact);
  low = sirius_to_tf32(exact - __uint_as_float(x));
}
SIRIUS_DEVICE float sirius_from_bf16(uint16_t x) { return __uint_as_float((uint32_t)x << 16); }

/* ---- barriers and reductions */

/* Two words in device memory, zero at first, for all launches that run one after the other. */
struct SiriusSync {
  uint32_t arrived;
  uint32_t generation;
};

/* All threads of all blocks of a cooperative launch; what one wrote before, every other sees after.
 * The block's barrier orders its threads, thread 0's acquire and release are cumulative (PTX, chapter 8).
 * Blocks are one-dimensional. */
SIRIUS_DEVICE void sirius_grid_barrier(SiriusSync *sync SIRIUS_SITE) {
#ifdef SIRIUS_EMULATED
  emu::enter_grid_barrier(line);
#endif
  __syncthreads();
  if (threadIdx.x == 0) {
    const uint32_t generation = sirius_load_acquire(&sync->generation);
    if (sirius_add_acq_rel(&sync->arrived, 1) == gridDim.x - 1) {
      sirius_store_release(&sync->arrived, 0);
      sirius_store_release(&sync->generation, generation + 1);
    } else {
      while (sirius_load_acquire(&sync->generation) == generation) continue;
    }
  }
  __syncthreads();
}

/* Words of a cooperative launch: the bits of an element below a tag, which is one more than its time, so that a
 * word of zero has none. What comes with its tag needs no order among other accesses (an aligned access of 64
 * bits is one: PTX, chapter 8), and none comes of it. */
SIRIUS_DEVICE void sirius_publish(int64_t *word, float x, int64_t time) {
  sirius_store_relaxed(word, (uint64_t)(uint32_t)(time + 1) << 32 | __float_as_uint(x));
}
SIRIUS_DEVICE void sirius_publish(int64_t *word, int32_t x, int64_t time) {
  sirius_store_relaxed(word, (uint64_t)(uint32_t)(time + 1) << 32 | (uint32_t)x);
}
/* The word of a time: the one that was `found`, or what comes to be there. */
SIRIUS_DEVICE uint32_t sirius_awaited(const int64_t *word, uint64_t found, int64_t time) {
  while ((uint32_t)(found >> 32) != (uint32_t)(time + 1)) {
    sirius_let_others_run();
    found = sirius_load_relaxed(word);
  }
  return (uint32_t)found;
}
SIRIUS_DEVICE void sirius_await(float *to, const int64_t *word, uint64_t found, int64_t time) {
  *to = __uint_as_float(sirius_awaited(word, found, time));
}
SIRIUS_DEVICE void sirius_await(int32_t *to, const int64_t *word, uint64_t found, int64_t time) {
  *to = (int32_t)sirius_awaited(word, found, time);
}

/* Over the 32 lanes of a warp, all of which take part; each receives the result, and all the same. */
SIRIUS_DEVICE float sirius_warp_reduce_add(float x SIRIUS_SITE) {
  for (int mask = 16; mask; mask /= 2) x += sirius_shuffle_xor(x, mask SIRIUS_AT);
  return x;
}
SIRIUS_DEVICE float sirius_warp_reduce_max(float x SIRIUS_SITE) {
  for (int mask = 16; mask; mask /= 2) x = sirius_max(x, sirius_shuffle_xor(x, mask SIRIUS_AT));
  return x;
}
SIRIUS_DEVICE float sirius_warp_reduce_min(float x SIRIUS_SITE) {
  for (int mask = 16; mask; mask /= 2) x = sirius_min(x, sirius_shuffle_xor(x, mask SIRIUS_AT));
  return x;
}

/* ---- elementary functions, within 2 ulp of the true value but where another bound is given.
 *
 * libdevice is documented to be within 2 ulp ("CUDA C++ Programming Guide", mathematical functions, maximum
 * errors without fast-math) except for powf and erfcf (4), atan2f (3) and the erfc of double (5). So these of float
 * are computed in double, and sigmoid from an exponential of its own; sirius_math.h describes how. */

#define SIRIUS_UNARY(name, f32, f64)                                                                        \
  SIRIUS_DEVICE float sirius_##name(float x) { return f32(x); }                                             \
  SIRIUS_DEVICE double sirius_##name(double x) { return f64(x); }
SIRIUS_UNARY(exp, expf, exp)
SIRIUS_UNARY(expm1, expm1f, expm1)
SIRIUS_UNARY(log, logf, log)
SIRIUS_UNARY(log1p, log1pf, log1p)
SIRIUS_UNARY(tanh, tanhf, tanh)
SIRIUS_UNARY(erf, erff, erf)
SIRIUS_UNARY(sin, sinf, sin)
SIRIUS_UNARY(cos, cosf, cos)
SIRIUS_UNARY(rsqrt, rsqrtf, rsqrt)
#undef SIRIUS_UNARY

SIRIUS_DEVICE float sirius_pow(float x, float y) { return (float)pow((double)x, (double)y); }
SIRIUS_DEVICE double sirius_pow(double x, double y) { return pow(x, y); }

SIRIUS_DEVICE float sirius_atan2(float y, float x) { return (float)atan2((double)y, (double)x); }
SIRIUS_DEVICE double sirius_atan2(double y, double x) { return atan2(y, x); }

/* e^x for -104 <= x <= 0, or NaN */
SIRIUS_DEVICE float sirius_exp_negative(float x) {
  const float t = fmaf(x, SIRIUS_LOG2_E, SIRIUS_MAGIC), n = t - SIRIUS_MAGIC;
  const float r = fmaf(n, -SIRIUS_LN2_LO, fmaf(n, -SIRIUS_LN2_HI, x));
  const float y = fmaf(SIRIUS_EXP_REST(fmaf, r), r * r, r) + 1.0f;
  /* 2^(n + 64) is a normal float, so that the product with 2^-64 is rounded once */
  const uint32_t exponent = __float_as_uint(t) - __float_as_uint(SIRIUS_MAGIC) + 127 + 64;
  return y * __uint_as_float(exponent << 23) * 0x1p-64f;
}
SIRIUS_DEVICE float sirius_sigmoid(float x) {
  const float a = -fabsf(x), e = sirius_exp_negative(a < -104.0f ? -104.0f : a);
  const float d = 1.0f + e, lost = e - (d - 1.0f), y = (x < 0.0f ? e : 1.0f) / d;
  return fmaf(-y, lost, y); /* without what the sum lost, the error reaches 2.2 ulp */
}
/* within 3 ulp: one of exp, and half of one each for the sum and the quotient */
SIRIUS_DEVICE double sirius_sigmoid(double x) {
  const double e = exp(-fabs(x));
  return (x < 0.0 ? e : 1.0) / (1.0 + e);
}

/* t exp(p(t) - x x) with t = 2 / (2 + |x|) */
SIRIUS_DEVICE float sirius_erfc(float x) {
  const double a = fabsf(x) > 10.5f ? 10.5 : (double)fabsf(x), t = 2.0 / (2.0 + a);
  const double y = t * exp(fma(-a, a, SIRIUS_ERFC_LOG(fma, t)));
  return (float)(x < 0.0f ? 2.0 - y : y);
}
SIRIUS_DEVICE double sirius_erfc(double x) { return erfc(x); } /* within 5 ulp */

#endif
