/* SPDX-License-Identifier: Apache-2.0
 *
 * CUDA C++ on the CPU: what generated kernels use of the language, on the machine of machine.h. Grids and
 * blocks are one-dimensional. There is no model of weak memory, of bank conflicts, or of time; volatile
 * accesses do not let others run, so words are polled by sirius_load_acquire, sirius_await or atomicCAS.
 *
 * Atomics are relaxed, as CUDA's are: under TSan no order comes of them.
 */
#pragma once
#include <math.h>
#include <stdint.h>

#include "machine.h"

#define SIRIUS_EMULATED 1
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline, unused))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
/* emulator.py makes these of declarations of shared arrays. */
#define EMU_SHARED(type, name, extents)               \
  typedef type name##_array extents;                  \
  static const char name##_key = 0;                   \
  name##_array &name = *(name##_array *)emu::shared(&name##_key, sizeof(name##_array))
#define EMU_DYNAMIC_SHARED(type, name) type *const name = (type *)emu::dynamic_shared()
#define EMU_LINE int line = __builtin_LINE()

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

template <class To, class From> static inline To emu_bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "bits are not converted");
  To y;
  memcpy(&y, &x, sizeof y);
  return y;
}
static inline int __float_as_int(float x) { return emu_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return emu_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return emu_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return emu_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return emu_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return emu_bits<double>(x); }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
template <class T> static inline T min(T a, T b) { return a < b ? a : b; }
template <class T> static inline T max(T a, T b) { return a > b ? a : b; }
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }
template <class T> static inline void __stcg(T *p, T x) { *p = x; }

/* ---- atomics. A word that changes is progress; a thread that polls one lets others run */

namespace emu {

/* *p = f(*p), at once; returns what was there. */
template <class T, class F> static inline T update(T *p, F f) {
  T old, x;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  do x = f(old);
  while (!__atomic_compare_exchange(p, &old, &x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  if (memcmp(&old, &x, sizeof x)) made_progress();
  return old;
}
template <class T> static inline T load_acquire(const T *p) {
  yield();
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
template <class T> static inline void store_release(T *p, T x) {
  made_progress();
  __atomic_store_n(p, x, __ATOMIC_RELEASE);
}
/* A thread that finds another word than it wants lets others run (yield) before it looks again. */
template <class T> static inline T load_relaxed(const T *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
template <class T> static inline void store_relaxed(T *p, T x) {
  made_progress();
  __atomic_store_n(p, x, __ATOMIC_RELAXED);
}
static inline uint32_t add_acq_rel(uint32_t *p, uint32_t x) {
  made_progress();
  return __atomic_fetch_add(p, x, __ATOMIC_ACQ_REL);
}

}  // namespace emu

#define EMU_ATOMIC(name, value) \
  template <class T, class U> static inline T name(T *p, U u) { \
    const T x = (T)u; \
    return emu::update(p, [x](T old) -> T { return value; }); \
  }
EMU_ATOMIC(atomicAdd, old + x)
EMU_ATOMIC(atomicMax, old > x ? old : x)
EMU_ATOMIC(atomicMin, old < x ? old : x)
EMU_ATOMIC(atomicAnd, old & x)
EMU_ATOMIC(atomicOr, old | x)
EMU_ATOMIC(atomicExch, x)
#undef EMU_ATOMIC
template <class T, class U, class V> static inline T atomicCAS(T *p, U expected, V x) {
  const T old = emu::update(p, [=](T old) -> T { return old == (T)expected ? (T)x : old; });
  if (old != (T)expected) emu::yield();
  return old;
}

/* ---- barriers and warps */

static inline void __syncthreads(EMU_LINE) { emu::barrier(line); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_LINE) {
  emu::release(&emu::machine.block->warps[threadIdx.x / 32]);
  emu::collective(mask, 0, line, nullptr, [](void **, unsigned) {});
  emu::acquire(&emu::machine.block->warps[threadIdx.x / 32]);
}

namespace emu {

template <class T> struct Shuffle { T value, result; int source; };
/* The value of lane `source`, or one's own if there is none; all ones of a lane that takes no part. */
template <class T> static inline T shuffle(unsigned mask, T value, int source, bool exists, int line) {
  const int own = machine.thread->id % 32;
  Shuffle<T> operands{value, value, exists ? source : own};
  collective(mask, 1, line, &operands, [](void **lanes, unsigned present) {
    for (int i = 0; i < 32; i++) {
      if (!(present >> i & 1)) continue;
      Shuffle<T> *to = (Shuffle<T> *)lanes[i];
      if (present >> to->source & 1) to->result = ((Shuffle<T> *)lanes[to->source])->value;
      else memset(&to->result, 0xff, sizeof to->result);
    }
  });
  return operands.result;
}
struct Vote { bool predicate; unsigned result; };
static inline unsigned ballot(unsigned mask, bool predicate, int line) {
  Vote vote{predicate, 0};
  collective(mask, 2, line, &vote, [](void **lanes, unsigned present) {
    unsigned result = 0;
    for (int i = 0; i < 32; i++)
      if (present >> i & 1 && ((Vote *)lanes[i])->predicate) result |= 1u << i;
    for (int i = 0; i < 32; i++)
      if (present >> i & 1) ((Vote *)lanes[i])->result = result;
  });
  return vote.result;
}

}  // namespace emu

#define EMU_SHUFFLE(name, operand, source, exists) \
  template <class T> static inline T name(unsigned mask, T x, operand, int width = 32, EMU_LINE) { \
    const int lane = threadIdx.x % 32, first = lane / width * width; \
    return emu::shuffle(mask, x, source, exists, line); \
  }
EMU_SHUFFLE(__shfl_sync, int from, first + (from & (width - 1)), true)
EMU_SHUFFLE(__shfl_xor_sync, int bits, lane ^ bits, (lane ^ bits) < first + width)
EMU_SHUFFLE(__shfl_down_sync, unsigned by, lane + (int)by, lane + (int)by < first + width)
EMU_SHUFFLE(__shfl_up_sync, unsigned by, lane - (int)by, lane - (int)by >= first)
#undef EMU_SHUFFLE
static inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_LINE) {
  return emu::ballot(mask, predicate, line);
}
static inline int __any_sync(unsigned mask, int predicate, EMU_LINE) {
  return emu::ballot(mask, predicate, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, EMU_LINE) {
  return emu::ballot(mask, !predicate, line) == 0;
}

/* ---- cp.async: the hardware may copy at any time until the wait, hence what is there until then is poison */

namespace emu {

static inline void check_aligned(const char *operation, const void *p, int bytes) {
  if ((uintptr_t)p % bytes) fail("%s: %p is not aligned to %d bytes", operation, p, bytes);
}
static inline void cp_async(void *to, const void *from, int bytes) {
  check_aligned("cp.async", to, bytes);
  check_aligned("cp.async", from, bytes);
  Thread *self = machine.thread;
  for (int k = 0; k < self->n_copies; k++) {
    const char *other = (const char *)self->copies[k].to;
    if ((char *)to < other + self->copies[k].bytes && other < (char *)to + bytes)
      fail("cp.async: to where an earlier one copies, for which it has not waited yet");
  }
  if (self->n_copies == self->copies_room) {
    self->copies_room = self->copies_room * 2 + 16;
    self->copies = (Copy *)realloc(self->copies, self->copies_room * sizeof(Copy));
  }
  self->copies[self->n_copies++] = {to, from, bytes, self->committed};
  for (int i = 0; i < bytes / 4; i++) ((uint32_t *)to)[i] = 0xffffffffu | ((const volatile uint32_t *)from)[i];
}
static inline void cp_async_commit() { machine.thread->committed++; }
static inline void cp_async_wait(int groups) {
  Thread *self = machine.thread;
  int kept = 0;
  for (int k = 0; k < self->n_copies; k++) {
    const Copy copy = self->copies[k];
    if (copy.group >= self->committed - groups) {
      self->copies[kept++] = copy;
      continue;
    }
    for (int i = 0; i < copy.bytes / 4; i++) ((uint32_t *)copy.to)[i] = ((const uint32_t *)copy.from)[i];
  }
  self->n_copies = kept;
}

/* ---- half precision and matrices, in the layouts of PTX */

enum Type { F16, BF16, TF32 };
static inline float from_f16(uint16_t x) { return (float)emu_bits<_Float16>(x); }
static inline uint16_t to_f16(float x) { return emu_bits<uint16_t>((_Float16)x); }
static inline uint16_t to_bf16(float x) {
  const uint32_t bits = emu_bits<uint32_t>(x);
  return x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fff; /* PTX: a NaN is the canonical one */
}
static inline uint32_t to_tf32(float x) {
  const uint32_t bits = emu_bits<uint32_t>(x);
  return isfinite(x) ? (bits + 0x1000) & 0xffffe000u : x == x ? bits : 0x7fffffff;
}
/* Element `half` of a word of two, or the word as tf32, of which mma reads the upper 19 bits. */
static inline float element(uint32_t word, int half, Type type) {
  if (type == TF32) return emu_bits<float>(word & 0xffffe000u);
  const uint16_t bits = (uint16_t)(word >> 16 * half);
  return type == F16 ? from_f16(bits) : emu_bits<float>((uint32_t)bits << 16);
}

struct Fragments { float *d; const uint32_t *a, *b; Type type; };
static inline void multiply(void **lanes, unsigned present) {
  if (present != 0xffffffffu) fail("mma.sync is executed by lanes %08x only", present);
  const Type type = ((Fragments *)lanes[0])->type;
  const int packed = type == TF32 ? 1 : 2, depth = 8 * packed;
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const Fragments *f = (Fragments *)lanes[lane];
    const int g = lane / 4, t = lane % 4;
    for (int h = 0; h < packed; h++) {
      for (int i = 0; i < 4; i++) a[g + i % 2 * 8][packed * t + h + i / 2 * depth / 2] = element(f->a[i], h, type);
      for (int i = 0; i < 2; i++) b[packed * t + h + i * depth / 2][g] = element(f->b[i], h, type);
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    const Fragments *f = (Fragments *)lanes[lane];
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float sum = f->d[i];
      for (int k = 0; k < depth; k++) sum += a[row][k] * b[k][column];
      f->d[i] = sum;
    }
  }
}
static inline void mma(float *d, const uint32_t *a, const uint32_t *b, Type type, int line) {
  Fragments fragments{d, a, b, type};
  collective(0xffffffffu, 3 + type, line, &fragments, multiply);
}

struct Matrices { uint32_t *words; uint16_t row[8]; int n; bool transposed; };
static inline void distribute(void **lanes, unsigned present) {
  if (present != 0xffffffffu) fail("ldmatrix is executed by lanes %08x only", present);
  for (int lane = 0; lane < 32; lane++) {
    const Matrices *to = (Matrices *)lanes[lane];
    const int r = lane / 4, c = lane % 4 * 2;
    for (int i = 0; i < to->n; i++) {
      const auto at = [&](int row, int column) { return ((Matrices *)lanes[8 * i + row])->row[column]; };
      to->words[i] = to->transposed ? at(c, r) | (uint32_t)at(c + 1, r) << 16 : at(r, c) | (uint32_t)at(r, c + 1) << 16;
    }
  }
}
/* Lanes read their rows themselves, so that sanitizers see who reads what. */
static inline void ldmatrix(uint32_t *words, int n, const void *row, bool transposed, int line) {
  Matrices matrices{words, {}, n, transposed};
  if (machine.thread->id % 32 < 8 * n) {
    check_aligned("ldmatrix", row, 16);
    for (int i = 0; i < 8; i++) matrices.row[i] = ((const uint16_t *)row)[i];
  }
  collective(0xffffffffu, 6, line, &matrices, distribute);
}

}  // namespace emu
