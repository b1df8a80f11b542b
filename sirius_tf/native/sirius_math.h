/* SPDX-License-Identifier: Apache-2.0
 *
 * Vectors and elementary functions for generated code. No libc and no intrinsics header: a bundle imports
 * no symbol, so everything here is vector extensions and builtins of clang. Compile with FMA and without
 * fast-math; -ffp-contract=on is fine. Every function is within 2 ulp over all floats when the thread does
 * not flush subnormals; signed zeros, infinities and NaN behave as in numpy (tests/native/test_math.py).
 *
 * Methods. "Fitted" polynomials are ours: Lawson-weighted least squares (numpy) on 4001 Chebyshev nodes with
 * mpmath targets, coefficients rounded to float lowest order first and the rest refitted each time. The
 * errors are relative to the function, before rounding in the evaluation.
 *   exp      n = round(x/ln2), r = x - n ln2 (hi and lo, exact by fma), 1 + r + r^2 Q4(r); fitted, 2^-27.5;
 *            scaled by 2^n in two exact halves so that a subnormal result is rounded once
 *   expm1    the same reduction, r + r^2 Q5(r), fitted, 2^-30.5; then 2^n p + (2^n - 1) with one fma
 *   log      x = 2^e m, f = m - 1, sqrt(1/2) <= m < sqrt(2): f - f^2/2 + f^3 P8(f), fitted, 2^-30.2
 *   log1p    as log, but f = fma(x, 2^-e, 2^-e - 1), which does not lose the low bits of x
 *   tanh     |x| < 0.625: x + x^3 P4(x^2), fitted, 2^-27.7; above, 1 - 2/(exp(2|x|) + 1)
 *   sigmoid  e = exp(-|x|); (x < 0 ? e : 1)/(1 + e), which neither overflows nor cancels
 *   erf      |x| < 0.92: x + x P5(x^2), fitted, 2^-25.8; above, 1 - exp(x P6(x)) where x P6(x) is
 *            log(erfc x) on [0.92, 4], fitted, 2^-30.3
 *   pow      double: log2 by the atanh series to s^15 (3e-14), exp by Taylor to degree 9 (7e-12)
 *   sin cos  double: pi/2 in two parts by fma, Taylor to r^11 and r^12 (1e-11). A vector with some
 *            |x| >= 2^40 reduces those lanes one by one with 256 bits of 2/pi, hence slowly (and exactly)
 */
#ifndef SIRIUS_MATH_H
#define SIRIUS_MATH_H
#include <stdint.h>

#include "sirius_coefficients.h"

#ifndef SIRIUS_LANES
#ifdef __AVX512F__
#define SIRIUS_LANES 16
#else
#define SIRIUS_LANES 8
#endif
#endif

#define SR_FN static inline __attribute__((always_inline, unused))

typedef float sr_f32 __attribute__((ext_vector_type(SIRIUS_LANES)));
typedef double sr_f64 __attribute__((ext_vector_type(SIRIUS_LANES)));
typedef int32_t sr_i32 __attribute__((ext_vector_type(SIRIUS_LANES)));
typedef int64_t sr_i64 __attribute__((ext_vector_type(SIRIUS_LANES)));
typedef uint8_t sr_u8 __attribute__((ext_vector_type(SIRIUS_LANES)));
typedef uint16_t sr_u16 __attribute__((ext_vector_type(SIRIUS_LANES)));
typedef _Float16 sr_f16 __attribute__((ext_vector_type(SIRIUS_LANES)));
typedef uint32_t sr_u32 __attribute__((ext_vector_type(SIRIUS_LANES)));
typedef uint64_t sr_u64 __attribute__((ext_vector_type(SIRIUS_LANES)));
/* A mask is what a comparison gives: all ones or zero in each lane, and `mask ? a : b` selects. */
typedef sr_i32 sr_m32;
typedef sr_i64 sr_m64;
typedef _Bool sr_bits __attribute__((ext_vector_type(SIRIUS_LANES)));

/* ---- memory. `n` is in 0..SIRIUS_LANES; lanes from n on are neither read nor written, and load as zero. */

SR_FN sr_i32 sr_iota(void) {
    sr_i32 v;
#pragma clang loop unroll(full)
    for (int i = 0; i < SIRIUS_LANES; i++) v[i] = i;
    return v;
}
/* The first n lanes. */
SR_FN sr_m32 sr_first(int n) { return sr_iota() < (sr_i32)n; }

/* A struct of alignment 4 or 8 makes the whole-vector access unaligned. */
#define SR_MEMORY(suffix, type, vector)                                                                      \
    SR_FN vector sr_load_##suffix(const type *p) {                                                           \
        struct any { vector v; } __attribute__((packed, may_alias));                                         \
        return ((const struct any *)p)->v;                                                                   \
    }                                                                                                        \
    SR_FN void sr_store_##suffix(type *p, vector v) {                                                        \
        struct any { vector v; } __attribute__((packed, may_alias));                                         \
        ((struct any *)p)->v = v;                                                                            \
    }                                                                                                        \
    SR_FN vector sr_load_n_##suffix(const type *p, int n) {                                                  \
        return __builtin_masked_load(__builtin_convertvector(sr_first(n), sr_bits), p, (vector)0);           \
    }                                                                                                        \
    SR_FN void sr_store_n_##suffix(type *p, int n, vector v) {                                               \
        if (n == SIRIUS_LANES / 2) /* what is left most often; AMD takes long for a masked store */          \
            __builtin_memcpy(p, &v, sizeof v / 2);                                                           \
        else                                                                                                 \
            __builtin_masked_store(__builtin_convertvector(sr_first(n), sr_bits), v, p);                     \
    }                                                                                                        \
    SR_FN vector sr_set_##suffix(type x) { return (vector)x; }
SR_MEMORY(f32, float, sr_f32)
SR_MEMORY(f64, double, sr_f64)
SR_MEMORY(i32, int32_t, sr_i32)
SR_MEMORY(i64, int64_t, sr_i64)
SR_MEMORY(u8, uint8_t, sr_u8)
SR_MEMORY(u16, uint16_t, sr_u16)
SR_MEMORY(f16, _Float16, sr_f16)
#undef SR_MEMORY

/* Lanes `step` elements apart; lanes from n on are neither read nor written, and load as zero. */
#define SR_STRIDED(suffix, type, vector)                                                                     \
    SR_FN vector sr_strided_##suffix(const type *p, int64_t step, int n) {                                   \
        vector v = (vector)0;                                                                                \
        for (int i = 0; i < n; i++) v[i] = p[i * step];                                                      \
        return v;                                                                                            \
    }                                                                                                        \
    SR_FN void sr_scatter_##suffix(type *p, int64_t step, int n, vector v) {                                 \
        for (int i = 0; i < n; i++) p[i * step] = v[i];                                                      \
    }
SR_STRIDED(f32, float, sr_f32)
SR_STRIDED(f64, double, sr_f64)
SR_STRIDED(i32, int32_t, sr_i32)
SR_STRIDED(i64, int64_t, sr_i64)
SR_STRIDED(u8, uint8_t, sr_u8)
SR_STRIDED(u16, uint16_t, sr_u16)
SR_STRIDED(f16, _Float16, sr_f16)
#undef SR_STRIDED

/* A bool is a byte in memory and a mask in registers. */
SR_FN sr_m32 sr_mask_u8(sr_u8 bytes) { return __builtin_convertvector(bytes, sr_i32) != 0; }
SR_FN sr_u8 sr_bytes_u8(sr_m32 mask) { return __builtin_convertvector(mask & 1, sr_u8); }

/* A bfloat16 is the upper half of a float, and here its bits: clang would convert its own type by calls.
 * Rounding is to nearest, ties to even; a NaN stays one, though the carry could make it infinite. */
#define SR_BFLOAT16(bits, x) ((x) == (x) ? ((bits) + 0x7fff + ((bits) >> 16 & 1)) >> 16 : (bits) >> 16 | 0x40)
SR_FN uint16_t sr_to_bf16(float x) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    return (uint16_t)SR_BFLOAT16(bits, x);
}
SR_FN float sr_from_bf16(uint16_t x) { return __builtin_bit_cast(float, (uint32_t)x << 16); }
SR_FN sr_u16 sr_to_bf16v(sr_f32 x) {
    const sr_u32 bits = (sr_u32)x;
    return __builtin_convertvector(SR_BFLOAT16(bits, x), sr_u16);
}
SR_FN sr_f32 sr_from_bf16v(sr_u16 x) { return (sr_f32)(__builtin_convertvector(x, sr_u32) << 16); }
#undef SR_BFLOAT16

SR_FN sr_f32 sr_load(const float *p) { return sr_load_f32(p); }
SR_FN void sr_store(float *p, sr_f32 v) { sr_store_f32(p, v); }
SR_FN sr_f32 sr_load_n(const float *p, int n) { return sr_load_n_f32(p, n); }
SR_FN void sr_store_n(float *p, int n, sr_f32 v) { sr_store_n_f32(p, n, v); }
SR_FN sr_f32 sr_set(float x) { return (sr_f32)x; }

/* ---- exact functions */

SR_FN sr_f32 sr_asfloat(sr_i32 v) { return (sr_f32)v; }
SR_FN sr_f32 sr_fma(sr_f32 a, sr_f32 b, sr_f32 c) { return __builtin_elementwise_fma(a, b, c); }
SR_FN sr_f64 sr_fma_f64(sr_f64 a, sr_f64 b, sr_f64 c) { return __builtin_elementwise_fma(a, b, c); }
SR_FN sr_f32 sr_abs(sr_f32 x) { return __builtin_elementwise_abs(x); }
SR_FN sr_f32 sr_copysign(sr_f32 x, sr_f32 sign) { return __builtin_elementwise_copysign(x, sign); }
SR_FN sr_f32 sr_floor(sr_f32 x) { return __builtin_elementwise_floor(x); }
SR_FN sr_f32 sr_ceil(sr_f32 x) { return __builtin_elementwise_ceil(x); }
SR_FN sr_f32 sr_round(sr_f32 x) { return __builtin_elementwise_roundeven(x); } /* half to even */
SR_FN sr_f32 sr_sqrt(sr_f32 x) { return __builtin_elementwise_sqrt(x); }
SR_FN sr_f32 sr_rsqrt(sr_f32 x) { return 1.0f / __builtin_elementwise_sqrt(x); }
/* A NaN on either side is the result: b is taken where a > b is false, hence where b is NaN. That
 * much is one instruction, so that a constant had better be a. */
SR_FN sr_f32 sr_max(sr_f32 a, sr_f32 b) { return a != a ? a : (a > b ? a : b); }
SR_FN sr_f32 sr_min(sr_f32 a, sr_f32 b) { return a != a ? a : (a < b ? a : b); }

/* ---- reductions over the lanes, as a tree */

typedef float sr_f32x8 __attribute__((ext_vector_type(8)));
typedef float sr_f32x4 __attribute__((ext_vector_type(4)));
typedef float sr_f32x2 __attribute__((ext_vector_type(2)));
#if SIRIUS_LANES == 16
#define SR_TO8(f, x) f((x).lo, (x).hi)
#else
#define SR_TO8(f, x) (x)
#endif
#define SR_ADD2(a, b) ((a) + (b))
#define SR_MAX2(a, b) ((((a) > (b)) | ((a) != (a))) ? (a) : (b))
#define SR_MIN2(a, b) ((((a) < (b)) | ((a) != (a))) ? (a) : (b))
#define SR_REDUCE(name, f)                                                                                   \
    SR_FN float name(sr_f32 x) {                                                                             \
        const sr_f32x8 v8 = SR_TO8(f, x);                                                                    \
        const sr_f32x4 v4 = f(v8.lo, v8.hi);                                                                 \
        const sr_f32x2 v2 = f(v4.lo, v4.hi);                                                                 \
        return f(v2.x, v2.y);                                                                                \
    }
SR_REDUCE(sr_reduce_add, SR_ADD2)
SR_REDUCE(sr_reduce_max, SR_MAX2)
SR_REDUCE(sr_reduce_min, SR_MIN2)
#undef SR_REDUCE
#undef SR_TO8
#undef SR_ADD2
#undef SR_MAX2
#undef SR_MIN2

/* ---- exponentials */

/* x*2^n for integral -300 < n < 300, rounded once. */
SR_FN sr_f32 sr_scale(sr_f32 x, sr_f32 t, sr_f32 n) {
#if SIRIUS_LANES == 16 && defined(__AVX512F__)
    (void)t;
    return (sr_f32)__builtin_ia32_scalefps512_mask(x, n, x, (unsigned short)-1, 4);
#else
    (void)n;
    const sr_i32 i = (sr_i32)t - (sr_i32)(sr_f32)SIRIUS_MAGIC, half = i >> 1;
    return x * (sr_f32)((half + 127) << 23) * (sr_f32)((i - half + 127) << 23);
#endif
}

/* e^x / 2^n for the integer n next to x/ln 2, which *t holds beside SIRIUS_MAGIC */
SR_FN sr_f32 sr_exp_rest(sr_f32 x, sr_f32 *t) {
    *t = sr_fma(x, SIRIUS_LOG2_E, SIRIUS_MAGIC);
    const sr_f32 n = *t - SIRIUS_MAGIC;
    sr_f32 r = sr_fma(n, -SIRIUS_LN2_HI, x);
    r = sr_fma(n, -SIRIUS_LN2_LO, r);
    return sr_fma(SIRIUS_EXP_REST(sr_fma, r), r * r, r) + 1.0f;
}

/* exp for -104 <= x <= 89 or NaN */
SR_FN sr_f32 sr_exp_core(sr_f32 x) {
    sr_f32 t;
    const sr_f32 y = sr_exp_rest(x, &t);
    return sr_scale(y, t, t - SIRIUS_MAGIC);
}

/* exp for -104 <= x <= 40 or NaN: 2^(n + 64) is a float, and the product with 2^-64 is rounded once */
SR_FN sr_f32 sr_exp_low(sr_f32 x) {
    sr_f32 t;
    const sr_f32 y = sr_exp_rest(x, &t);
    return y * (sr_f32)(((sr_i32)t - (sr_i32)(sr_f32)SIRIUS_MAGIC + (127 + 64)) << 23) * 0x1p-64f;
}

/* The comparisons are false on NaN, which thus passes the clamp (also below). exp(-104) rounds to 0. */
SR_FN sr_f32 sr_exp(sr_f32 x) {
    x = x < -104.0f ? (sr_f32)-104.0f : x;
    x = x > 89.0f ? (sr_f32)89.0f : x;
    return sr_exp_core(x);
}

SR_FN sr_f32 sr_expm1(sr_f32 x) {
    sr_f32 c = x < -30.0f ? (sr_f32)-30.0f : x;
    c = c > 89.0f ? (sr_f32)89.0f : c;
    const sr_f32 t = sr_fma(c, SIRIUS_LOG2_E, SIRIUS_MAGIC), n = t - SIRIUS_MAGIC;
    sr_f32 r = sr_fma(n, -SIRIUS_LN2_HI, c);
    r = sr_fma(n, -SIRIUS_LN2_LO, r);
    sr_f32 q = sr_fma(r, 0.0001955501938937232f, 0.0013934052549302578f);
    q = sr_fma(q, r, 0.008333912119269371f);
    q = sr_fma(q, r, 0.04166647419333458f);
    q = sr_fma(q, r, 0.166666641831398f);
    q = sr_fma(q, r, 0.5f);
    const sr_f32 p = sr_fma(q, r * r, r);
    /* half of 2^n, since 2^128 is no float */
    const sr_f32 s = (sr_f32)(((sr_i32)t - (sr_i32)(sr_f32)SIRIUS_MAGIC + 126) << 23);
    const sr_f32 y = 2.0f * sr_fma(p, s, s - 0.5f);
    return sr_abs(x) < 0x1p-25f ? x : y; /* halving would round a subnormal, and -0 would lose its sign */
}

SR_FN sr_f32 sr_sigmoid(sr_f32 x) {
    const sr_f32 a = -sr_abs(x), e = sr_exp_low(a < -104.0f ? (sr_f32)-104.0f : a);
    const sr_f32 d = 1.0f + e, lost = e - (d - 1.0f);
    const sr_f32 y = (x < 0.0f ? e : (sr_f32)1.0f) / d;
    return sr_fma(-y, lost, y); /* without what the sum lost, the error reaches 2.2 ulp */
}

SR_FN sr_f32 sr_tanh(sr_f32 x) {
    const sr_f32 a = sr_abs(x), s = x * x;
    sr_f32 p = sr_fma(s, -0.005700091831386089f, 0.02063411846756935f);
    p = sr_fma(p, s, -0.05373793840408325f);
    p = sr_fma(p, s, 0.13331416249275208f);
    p = sr_fma(p, s, -0.3333328068256378f);
    p = sr_fma(p * s, x, x);
    /* the result is 1 from 9.02 on */
    const sr_f32 e = sr_exp_low(2.0f * (a > 9.125f ? (sr_f32)9.125f : a));
    const sr_f32 y = 1.0f - 2.0f / (e + 1.0f);
    return sr_copysign(a < 0.625f ? p : y, x); /* p is +0 for -0 */
}

SR_FN sr_f32 sr_erf(sr_f32 x) {
    const sr_f32 a = sr_abs(x), s = x * x;
    sr_f32 p = sr_fma(s, -0.0005981807480566204f, 0.004991641268134117f);
    p = sr_fma(p, s, -0.02676580473780632f);
    p = sr_fma(p, s, 0.11281804740428925f);
    p = sr_fma(p, s, -0.37612494826316833f);
    p = sr_fma(p, s, 0.12837915122509003f);
    p = sr_fma(p, x, x);
    const sr_f32 c = a > 4.0f ? (sr_f32)4.0f : a; /* erf(4) rounds to 1 */
    sr_f32 q = sr_fma(c, -1.1231892131036147e-05f, 0.00032281267340295017f);
    q = sr_fma(q, c, -0.003642505966126919f);
    q = sr_fma(q, c, 0.023762183263897896f);
    q = sr_fma(q, c, -0.10623703896999359f);
    q = sr_fma(q, c, -0.635151207447052f);
    q = sr_fma(q, c, -1.1286485195159912f);
    const sr_f32 y = 1.0f - sr_exp_low(q * c);
    return a < 0.92f ? p : sr_copysign(y, x);
}

/* ---- logarithms */

/* log(1 + f) + e*ln2 */
SR_FN sr_f32 sr_log_core(sr_f32 f, sr_f32 e) {
    sr_f32 p = sr_fma(f, 0.06733028590679169f, -0.1166066899895668f);
    p = sr_fma(p, f, 0.11886202543973923f);
    p = sr_fma(p, f, -0.12408196181058884f);
    p = sr_fma(p, f, 0.14220233261585236f);
    p = sr_fma(p, f, -0.1666785478591919f);
    p = sr_fma(p, f, 0.20002073049545288f);
    p = sr_fma(p, f, -0.25000011920928955f);
    p = sr_fma(p, f, 0.3333331346511841f);
    const sr_f32 g = f * f;
    sr_f32 y = sr_fma(p * f, g, e * SIRIUS_LN2_LO);
    y = sr_fma(g, -0.5f, y);
    return sr_fma(e, SIRIUS_LN2_HI, f + y);
}

SR_FN sr_f32 sr_log(sr_f32 x) {
    const sr_m32 small = x < 0x1p-126f;
    const sr_i32 bits = (sr_i32)(small ? x * 0x1p23f : x);
    const sr_i32 e = (bits - 0x3f3504f3) >> 23; /* 0x3f3504f3 is sqrt(1/2) */
    const sr_f32 f = (sr_f32)(bits - (e << 23)) - 1.0f;
    sr_f32 y = sr_log_core(f, __builtin_convertvector(e - (small & 23), sr_f32));
    y = x == 0.0f ? (sr_f32)-__builtin_inff() : y;
    y = x < 0.0f ? (sr_f32)__builtin_nanf("") : y;
    return x < __builtin_inff() ? y : x + ((x == x) ? (sr_f32)0.0f : x); /* inf and NaN are themselves */
}

SR_FN sr_f32 sr_log1p(sr_f32 x) {
    const sr_f32 u = x + 1.0f;
    const sr_i32 bits = (sr_i32)u;
    const sr_i32 e = (bits - 0x3f3504f3) >> 23;
    const sr_f32 m = (sr_f32)(bits - (e << 23));
    const sr_f32 s = (sr_f32)((127 - e) << 23); /* 2^-e; a wrong one (e > 126) is not used */
    const sr_f32 f = e > 25 ? m - 1.0f : sr_fma(x, s, s - 1.0f);
    sr_f32 y = sr_log_core(f, __builtin_convertvector(e, sr_f32));
    y = x == -1.0f ? (sr_f32)-__builtin_inff() : y;
    y = x < -1.0f ? (sr_f32)__builtin_nanf("") : y;
    y = x < __builtin_inff() ? y : x;
    return sr_abs(x) < 0x1p-25f ? x : y; /* keeps the sign of -0 */
}

/* ---- through double */

SR_FN sr_f64 sr_log2_f64(sr_f64 x) { /* 0 < x, normal */
    const sr_u64 bits = (sr_u64)x;
    const sr_u64 shifted = bits - 0x3fe6a09e667f3bcdu + ((uint64_t)1023 << 52); /* sqrt(1/2) becomes 2^0 */
    const sr_u64 e = (shifted >> 52) - 1023;
    const sr_f64 m = (sr_f64)(bits - (e << 52));
    const sr_f64 s = (m - 1.0) / (m + 1.0), z = s * s;
    sr_f64 p = sr_fma_f64(z, 1.0 / 15, 1.0 / 13);
    p = sr_fma_f64(p, z, 1.0 / 11);
    p = sr_fma_f64(p, z, 1.0 / 9);
    p = sr_fma_f64(p, z, 1.0 / 7);
    p = sr_fma_f64(p, z, 1.0 / 5);
    p = sr_fma_f64(p, z, 1.0 / 3);
    p = sr_fma_f64(p, z, 1.0);
    /* by way of i32: AVX2 has no conversion from i64 */
    const sr_f64 ef = __builtin_convertvector(__builtin_convertvector((sr_i64)e, sr_i32), sr_f64);
    return sr_fma_f64(s * p, 2.8853900817779268, ef);
}

#define SR_MAGIC64 6755399441055744.0 /* 1.5*2^52 */

SR_FN sr_f64 sr_exp2_f64(sr_f64 x) { /* -1000 < x < 1000 or NaN */
    const sr_f64 t = x + SR_MAGIC64, r = (x - (t - SR_MAGIC64)) * SIRIUS_LN2;
    sr_f64 p = sr_fma_f64(r, 1.0 / 362880, 1.0 / 40320);
    p = sr_fma_f64(p, r, 1.0 / 5040);
    p = sr_fma_f64(p, r, 1.0 / 720);
    p = sr_fma_f64(p, r, 1.0 / 120);
    p = sr_fma_f64(p, r, 1.0 / 24);
    p = sr_fma_f64(p, r, 1.0 / 6);
    p = sr_fma_f64(p, r, 0.5);
    p = sr_fma_f64(p, r, 1.0);
    p = sr_fma_f64(p, r, 1.0);
    const sr_u64 n = (sr_u64)t - (sr_u64)(sr_f64)SR_MAGIC64;
    return p * (sr_f64)((n + 1023) << 52);
}

/* erfc(a) = t*exp(p(t) - a*a) with t = 2/(2 + a), to 1.1e-8 of it; in double, as a*a must not be rounded. */
SR_FN sr_f32 sr_erfc(sr_f32 x) {
    const sr_f32 c = sr_abs(x);
    const sr_f64 a = __builtin_convertvector(c > 10.5f ? (sr_f32)10.5f : c, sr_f64); /* rounds to 0 */
    const sr_f64 t = 2.0 / (2.0 + a);
    const sr_f64 p = SIRIUS_ERFC_LOG(sr_fma_f64, t);
    const sr_f64 y = t * sr_exp2_f64(sr_fma_f64(-a, a, p) * SIRIUS_LOG2_E_F64);
    return __builtin_convertvector(__builtin_convertvector(x, sr_f64) < 0.0 ? 2.0 - y : y, sr_f32);
}

SR_FN sr_f32 sr_pow(sr_f32 x, sr_f32 y) {
    const sr_f32 a = sr_abs(x), h = y * 0.5f;
    const sr_m32 integral = sr_floor(y) == y, odd = integral & (sr_floor(h) != h);
    sr_f64 l = sr_log2_f64(__builtin_convertvector(a, sr_f64));
    const sr_f64 w = __builtin_convertvector(a, sr_f64);
    l = w == 0.0 ? (sr_f64)-__builtin_inf() : l;
    l = w == __builtin_inf() ? (sr_f64)__builtin_inf() : l;
    sr_f64 q = l * __builtin_convertvector(y, sr_f64);
    q = l == 0.0 ? (sr_f64)0.0 : q; /* |x| = 1 and y infinite */
    q = q < -300.0 ? (sr_f64)-300.0 : q;
    q = q > 300.0 ? (sr_f64)300.0 : q;
    sr_f32 r = __builtin_convertvector(sr_exp2_f64(q), sr_f32);
    /* the sign bit of x, so that (-0)^-1 is -inf */
    r = (sr_f32)((sr_i32)r | (odd & (sr_i32)x & (sr_i32)INT32_MIN));
    r = ((x < 0.0f) & ~integral & (a < __builtin_inff())) ? (sr_f32)__builtin_nanf("") : r;
    r = ((x != x) | (y != y)) ? x + y : r;
    return ((y == 0.0f) | (x == 1.0f)) ? (sr_f32)1.0f : r;
}

#define SR_HUGE 0x1p40f

/* The quadrant of a finite |x| >= 2^40 and what is left. x*2/pi = m*2^e*2/pi for integers m < 2^24 and e; of
 * 2^e*2/pi only the part below 4 matters, kept with 126 bits of fraction. */
static __attribute__((noinline, cold, unused)) double sr_reduce_huge(float x, int64_t *quadrant) {
    static const uint64_t two_over_pi[4] = {0xa2f9836e4e441529u, 0xfc2757d1f534ddc0u, 0xdb6295993c439041u,
                                            0xfe5163abdebbc561u};
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    const int start = (int)((bits >> 23) & 255) - 150 - 2; /* the bit of 2/pi that weighs 2 */
    const int word = start >> 6, shift = start & 63;
    uint64_t hi = two_over_pi[word] << shift, lo = two_over_pi[word + 1] << shift;
    if (shift) {
        hi |= two_over_pi[word + 1] >> (64 - shift);
        lo |= two_over_pi[word + 2] >> (64 - shift);
    }
    const unsigned __int128 f = (((unsigned __int128)hi << 64) | lo) * ((bits & 0x7fffff) | 0x800000);
    const uint64_t top = (uint64_t)(f >> 64), q = (top + ((uint64_t)1 << 61)) >> 62; /* to nearest */
    const int64_t rest = (int64_t)(top - (q << 62));
    const double r = ((double)rest * 0x1p-62 + (double)(uint64_t)f * 0x1p-126) * SIRIUS_PI_2_HI;
    const int negative = bits >> 31;
    *quadrant = negative ? -(int64_t)q : (int64_t)q;
    return negative ? -r : r;
}

/* sin(x + shift*pi/2) */
SR_FN sr_f32 sr_sincos(sr_f32 x, int64_t shift) {
    const sr_f64 d = __builtin_convertvector(x, sr_f64);
    const sr_f64 t = sr_fma_f64(d, (sr_f64)SIRIUS_2_PI, (sr_f64)SR_MAGIC64), n = t - SR_MAGIC64;
    sr_i64 quadrant = (sr_i64)t;
    sr_f64 r = sr_fma_f64(n, (sr_f64)-SIRIUS_PI_2_HI, d);
    r = sr_fma_f64(n, (sr_f64)-SIRIUS_PI_2_LO, r);
    const sr_m32 huge = (sr_abs(x) >= SR_HUGE) & (sr_abs(x) < __builtin_inff());
    if (__builtin_expect(__builtin_reduce_or(huge) != 0, 0)) {
        for (int i = 0; i < SIRIUS_LANES; i++) {
            int64_t q;
            if (huge[i]) r[i] = sr_reduce_huge(x[i], &q), quadrant[i] = q;
        }
    }
    quadrant += shift;
    const sr_f64 z = r * r;
    sr_f64 s = sr_fma_f64(z, -1.0 / 39916800, 1.0 / 362880);
    s = sr_fma_f64(s, z, -1.0 / 5040);
    s = sr_fma_f64(s, z, 1.0 / 120);
    s = sr_fma_f64(s, z, -1.0 / 6);
    s = r * sr_fma_f64(s, z, 1.0); /* a product, so that -0 stays */
    sr_f64 c = sr_fma_f64(z, 1.0 / 479001600, -1.0 / 3628800);
    c = sr_fma_f64(c, z, 1.0 / 40320);
    c = sr_fma_f64(c, z, -1.0 / 720);
    c = sr_fma_f64(c, z, 1.0 / 24);
    c = sr_fma_f64(c, z, -0.5);
    c = sr_fma_f64(c, z, 1.0);
    const sr_f64 y = (quadrant & 1) != 0 ? c : s;
    const sr_i64 sign = (sr_i64)((sr_u64)(quadrant & 2) << 62);
    return __builtin_convertvector((sr_f64)((sr_i64)y ^ sign), sr_f32);
}

SR_FN sr_f32 sr_sin(sr_f32 x) { return sr_sincos(x, 0); }
SR_FN sr_f32 sr_cos(sr_f32 x) { return sr_sincos(x, 1); }

#endif
