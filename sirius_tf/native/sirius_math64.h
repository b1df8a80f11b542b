/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementary functions of vectors of doubles, as sirius_math.h has them of floats: within 3 ulp over all doubles
 * (erfc: 5) when the thread does not flush subnormals; signed zeros, infinities and NaN behave as in numpy
 * (tests/native/test_math64.py). They are rarely what a program spends its time on, so they are plain.
 *
 * Methods. Series are Taylor's, long enough for their interval.
 *   exp      n = round(x/ln2), r = x - n ln2 (hi and lo), 1 + r + r^2 Q(r) to r^13; scaled by 2^n in two halves
 *   expm1    the same reduction; 2^n p + (2^n - 1) with one fma
 *   log      x = 2^e m, f = m - 1, sqrt(1/2) <= m < sqrt(2), s = f/(2 + f): f - f^2/2 + s (f^2/2 + R(s^2))
 *   log1p    log(u) + (x - (u - 1))/u for u = 1 + x, rounded
 *   tanh     by expm1(-2|x|) below 1, by expm1(2|x|) above
 *   erf      |x| < 1: Taylor to x^37; above, 1 - erfc
 *   erfc     |x| < 1/2: 1 - erf; above, t exp(P(t) - x^2) with t = 2/(2 + |x|), P by Chebyshev's nodes, 3e-17
 *   pow      log in two doubles by the atanh series, exp of y times that
 *   sin cos  pi/2 in three parts by fma, Taylor to r^17 and r^16. A vector with some |x| >= 2^20 reduces those
 *            lanes one by one with 1280 bits of 2/pi
 *   atan2    of a quotient q <= 1: that of (q - c)/(1 + c q) beside the angle of c, for c of 0, 0.41 and 1; Taylor to
 *            t^25. Of floats it is computed in double, too
 */
#ifndef SIRIUS_MATH64_H
#define SIRIUS_MATH64_H
#include "sirius_math.h"

#define SR_INF64 __builtin_inf()
#define SR_NAN64 __builtin_nan("")

/* ---- exact functions */

SR_FN sr_f64 sr_abs_f64(sr_f64 x) { return __builtin_elementwise_abs(x); }
SR_FN sr_f64 sr_floor_f64(sr_f64 x) { return __builtin_elementwise_floor(x); }
SR_FN sr_f64 sr_ceil_f64(sr_f64 x) { return __builtin_elementwise_ceil(x); }
SR_FN sr_f64 sr_round_f64(sr_f64 x) { return __builtin_elementwise_roundeven(x); }
SR_FN sr_f64 sr_sqrt_f64(sr_f64 x) { return __builtin_elementwise_sqrt(x); }
SR_FN sr_f64 sr_rsqrt_f64(sr_f64 x) { return 1.0 / __builtin_elementwise_sqrt(x); }
SR_FN sr_f64 sr_max_f64(sr_f64 a, sr_f64 b) { return ((a > b) | (a != a)) ? a : b; }
SR_FN sr_f64 sr_min_f64(sr_f64 a, sr_f64 b) { return ((a < b) | (a != a)) ? a : b; }

/* The polynomial with `n` coefficients, that of the greatest power first. */
SR_FN sr_f64 sr_poly_f64(sr_f64 x, const double *c, int n) {
    sr_f64 y = c[0];
#pragma clang loop unroll(full)
    for (int i = 1; i < n; i++) y = sr_fma_f64(y, x, c[i]);
    return y;
}
#define SR_POLY64(x, ...)                                                                                    \
    sr_poly_f64(x, (const double[]){__VA_ARGS__}, sizeof((const double[]){__VA_ARGS__}) / sizeof(double))

/* ---- exponentials */

#define SR_LN2_HI64 SIRIUS_LN2
#define SR_LN2_LO64 0x1.abc9e3b39803fp-56

/* x*2^n for integral |n| < 2000, where t = n + SR_MAGIC64 */
SR_FN sr_f64 sr_scale_f64(sr_f64 x, sr_f64 t) {
    const sr_i64 n = (sr_i64)t - (sr_i64)(sr_f64)SR_MAGIC64, half = n >> 1;
    return x * (sr_f64)((half + 1023) << 52) * (sr_f64)((n - half + 1023) << 52);
}

/* exp(r) - 1 for what is left of x + low when n ln2 is taken away, where t = n + SR_MAGIC64 */
SR_FN sr_f64 sr_expm1_core_f64(sr_f64 x, sr_f64 low, sr_f64 *t) {
    *t = sr_fma_f64(x, SIRIUS_LOG2_E_F64, SR_MAGIC64);
    const sr_f64 n = *t - SR_MAGIC64;
    const sr_f64 r = sr_fma_f64(n, -SR_LN2_LO64, sr_fma_f64(n, -SR_LN2_HI64, x)) + low;
    const sr_f64 q = SR_POLY64(r, 1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
                               1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5);
    return sr_fma_f64(q, r * r, r);
}

/* exp(x + low) for |x| <= 1000 or NaN, and a small |low| */
SR_FN sr_f64 sr_exp_core_f64(sr_f64 x, sr_f64 low) {
    sr_f64 t;
    const sr_f64 p = sr_expm1_core_f64(x, low, &t);
    return sr_scale_f64(p + 1.0, t);
}

/* The comparisons are false on NaN, which thus passes the clamp (also below). */
SR_FN sr_f64 sr_exp_f64(sr_f64 x) {
    x = x < -750.0 ? (sr_f64)-750.0 : x;
    x = x > 710.0 ? (sr_f64)710.0 : x;
    return sr_exp_core_f64(x, (sr_f64)0.0);
}

SR_FN sr_f64 sr_expm1_f64(sr_f64 x) {
    sr_f64 t, c = x < -60.0 ? (sr_f64)-60.0 : x;
    c = c > 710.0 ? (sr_f64)710.0 : c;
    const sr_f64 p = sr_expm1_core_f64(c, (sr_f64)0.0, &t);
    /* half of 2^n, since 2^1024 is no double */
    const sr_f64 s = (sr_f64)(((sr_i64)t - (sr_i64)(sr_f64)SR_MAGIC64 + 1022) << 52);
    const sr_f64 y = 2.0 * sr_fma_f64(p, s, s - 0.5);
    return sr_abs_f64(x) < 0x1p-54 ? x : y; /* halving would round a subnormal, and -0 would lose its sign */
}

SR_FN sr_f64 sr_sigmoid_f64(sr_f64 x) {
    const sr_f64 e = sr_exp_f64(-sr_abs_f64(x)), d = 1.0 + e, lost = e - (d - 1.0);
    const sr_f64 y = (x < 0.0 ? e : (sr_f64)1.0) / d;
    return sr_fma_f64(-y, lost, y);
}

SR_FN sr_f64 sr_tanh_f64(sr_f64 x) {
    const sr_f64 a = sr_abs_f64(x), c = a > 22.0 ? (sr_f64)22.0 : a; /* tanh(22) rounds to 1 */
    const sr_f64 e = sr_expm1_f64(a < 1.0 ? -2.0 * c : 2.0 * c);
    const sr_f64 y = a < 1.0 ? -e / (e + 2.0) : 1.0 - 2.0 / (e + 2.0);
    return __builtin_elementwise_copysign(y, x);
}

/* ---- logarithms */

/* m in [sqrt(1/2), sqrt(2)), and e, with x = 2^e m, for x > 0 */
SR_FN sr_f64 sr_frexp_f64(sr_f64 x, sr_f64 *e) {
    const sr_m64 small = x < 0x1p-1022;
    const sr_i64 bits = (sr_i64)(small ? x * 0x1p54 : x);
    const sr_i64 n = (bits - 0x3fe6a09e667f3bcd) >> 52; /* the bits of sqrt(1/2) */
    *e = __builtin_convertvector(__builtin_convertvector(n - (small & 54), sr_i32), sr_f64);
    return (sr_f64)(bits - (n << 52));
}

SR_FN sr_f64 sr_log_f64(sr_f64 x) {
    sr_f64 e;
    const sr_f64 f = sr_frexp_f64(x, &e) - 1.0, s = f / (2.0 + f), z = s * s, half = 0.5 * f * f;
    const sr_f64 r = z * SR_POLY64(z, 2.0 / 21, 2.0 / 19, 2.0 / 17, 2.0 / 15, 2.0 / 13, 2.0 / 11, 2.0 / 9, 2.0 / 7,
                                   2.0 / 5, 2.0 / 3);
    sr_f64 y = f - (half - sr_fma_f64(e, SR_LN2_LO64, s * (half + r)));
    y = sr_fma_f64(e, SR_LN2_HI64, y);
    y = x == 0.0 ? (sr_f64)-SR_INF64 : y;
    y = x < 0.0 ? (sr_f64)SR_NAN64 : y;
    return x < SR_INF64 ? y : x + ((x == x) ? (sr_f64)0.0 : x); /* inf and NaN are themselves */
}

SR_FN sr_f64 sr_log1p_f64(sr_f64 x) {
    const sr_f64 u = 1.0 + x, lost = x > 1.0 ? 1.0 - (u - x) : x - (u - 1.0);
    sr_f64 y = sr_log_f64(u);
    y = ((x > -1.0) & (x < SR_INF64)) ? y + lost / u : y;
    return sr_abs_f64(x) < 0x1p-54 ? x : y; /* keeps the sign of -0 */
}

/* log(x) as the sum of a double and `low`, to 2^-65 of it, for a normal or subnormal x > 0 */
SR_FN sr_f64 sr_log2sum_f64(sr_f64 x, sr_f64 *low) {
    sr_f64 e;
    const sr_f64 m = sr_frexp_f64(x, &e), f = m - 1.0;
    const sr_f64 d = m + 1.0, d_low = m - (d - 1.0); /* the sum is exact */
    const sr_f64 s = f / d, s_low = (sr_fma_f64(-s, d, f) - s * d_low) / d;
    const sr_f64 z = s * s, z_low = sr_fma_f64(s, s, -z) + 2.0 * s * s_low;
    /* log(m) = 2 s (1 + q), q = z/3 + z^2/5 + ... */
    const sr_f64 rest = SR_POLY64(z, 1.0 / 25, 1.0 / 23, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                                  1.0 / 9, 1.0 / 7, 1.0 / 5);
    const sr_f64 third = 0x1.5555555555555p-2, third_low = 0x1.5555555555555p-56;
    const sr_f64 q1 = z * third, q2 = sr_fma_f64(z, third, -q1) + z * third_low + z_low * third + z * z * rest;
    const sr_f64 q = q1 + q2, q_low = q1 - q + q2, s2 = 2.0 * s;
    const sr_f64 p = s2 * q, p_low = sr_fma_f64(s2, q, -p) + s2 * q_low + 2.0 * s_low * q;
    const sr_f64 h = s2 + p, h_low = s2 - h + p + p_low + 2.0 * s_low;
    const sr_f64 n = e * SR_LN2_HI64, n_low = sr_fma_f64(e, SR_LN2_HI64, -n) + e * SR_LN2_LO64;
    const sr_f64 sum = n + h, back = sum - n;
    *low = (n - (sum - back)) + (h - back) + h_low + n_low;
    return sum;
}

SR_FN sr_f64 sr_pow_f64(sr_f64 x, sr_f64 y) {
    const sr_f64 a = sr_abs_f64(x), half = y * 0.5;
    const sr_m64 integral = sr_floor_f64(y) == y, odd = integral & (sr_floor_f64(half) != half);
    sr_f64 low, l = sr_log2sum_f64(a, &low);
    l = a == 0.0 ? (sr_f64)-SR_INF64 : l;
    l = a == SR_INF64 ? (sr_f64)SR_INF64 : l;
    sr_f64 q = l == 0.0 ? (sr_f64)0.0 : l * y; /* |x| = 1 and y infinite */
    sr_f64 q_low = sr_fma_f64(l, y, -q) + low * y;
    const sr_m64 near = sr_abs_f64(q) < 1000.0;
    q = q < -1000.0 ? (sr_f64)-1000.0 : q;
    q = q > 1000.0 ? (sr_f64)1000.0 : q;
    q_low = (near & (l != 0.0)) ? q_low : (sr_f64)0.0;
    sr_f64 r = sr_exp_core_f64(q, q_low);
    r = (sr_f64)((sr_i64)r | (odd & (sr_i64)x & (sr_i64)INT64_MIN)); /* the sign bit of x: (-0)^-1 is -inf */
    r = ((x < 0.0) & ~integral & (a < SR_INF64)) ? (sr_f64)SR_NAN64 : r;
    r = ((x != x) | (y != y)) ? x + y : r;
    return ((y == 0.0) | (x == 1.0)) ? (sr_f64)1.0 : r;
}

/* ---- error functions */

/* erf for |x| < 1: x times 2/sqrt(pi) times the sum of (-x^2)^k / (k! (2k + 1)); 2/sqrt(pi) - 1 first */
SR_FN sr_f64 sr_erf_core_f64(sr_f64 x) {
#define SR_TERM(k, factorial) (1.1283791670955126 / (factorial) / (2 * (k) + 1))
    const sr_f64 s = x * x;
    const sr_f64 p = SR_POLY64(s, SR_TERM(18, 6402373705728000.0), -SR_TERM(17, 355687428096000.0),
                               SR_TERM(16, 20922789888000.0), -SR_TERM(15, 1307674368000.0),
                               SR_TERM(14, 87178291200.0), -SR_TERM(13, 6227020800.0), SR_TERM(12, 479001600.0),
                               -SR_TERM(11, 39916800.0), SR_TERM(10, 3628800.0), -SR_TERM(9, 362880.0),
                               SR_TERM(8, 40320.0), -SR_TERM(7, 5040.0), SR_TERM(6, 720.0), -SR_TERM(5, 120.0),
                               SR_TERM(4, 24.0), -SR_TERM(3, 6.0), SR_TERM(2, 2.0), -SR_TERM(1, 1.0),
                               0.1283791670955126);
    return sr_fma_f64(p, x, x);
#undef SR_TERM
}

/* erfc for a >= 1/2 or NaN */
SR_FN sr_f64 sr_erfc_core_f64(sr_f64 a) {
    a = a > 28.0 ? (sr_f64)28.0 : a; /* rounds to 0 */
    const sr_f64 t = 2.0 / (2.0 + a), u = sr_fma_f64(t, 30.0 / 11, (sr_f64)(-13.0 / 11));
    const sr_f64 p = SR_POLY64(
        u, 7.419046931052167e-11, -1.5649791265478404e-10, -5.782123803906862e-10, 2.1589249589263837e-09,
        6.140692684776849e-10, -1.4830342501876278e-08, 1.9308954676236376e-08, 6.259352190168915e-08,
        -2.0280174639436652e-07, -1.210227504205775e-07, 1.3379290163337385e-06, -6.554087096268183e-07,
        -7.261960242128714e-06, 9.671423777328222e-06, 3.684061715257644e-05, -7.96688918879302e-05,
        -0.0001998427495534303, 0.0005815061396650041, 0.0013973696644754105, -0.004366761479667835,
        -0.01584184386483817, 0.03487470250824972, 0.48225779121304757, -0.7605305090234711);
    const sr_f64 square = a * a, low = sr_fma_f64(a, a, -square), x = p - square, back = x + square;
    return t * sr_exp_core_f64(x, (p - back) - (square - (back - x)) - low);
}

SR_FN sr_f64 sr_erf_f64(sr_f64 x) {
    const sr_f64 a = sr_abs_f64(x), y = 1.0 - sr_erfc_core_f64(a);
    return a < 1.0 ? sr_erf_core_f64(x) : __builtin_elementwise_copysign(y, x);
}

SR_FN sr_f64 sr_erfc_f64(sr_f64 x) {
    const sr_f64 a = sr_abs_f64(x), y = sr_erfc_core_f64(a);
    return a < 0.5 ? 1.0 - sr_erf_core_f64(x) : (x < 0.0 ? 2.0 - y : y);
}

/* ---- sine and cosine */

/* The quadrant of a finite |x| >= 2^20 and what is left. x*2/pi = m*2^e*2/pi for integers m < 2^53 and e; of
 * 2^e*2/pi only the part below 4 matters, kept with 190 bits of fraction. */
static __attribute__((noinline, cold, unused)) double sr_reduce_huge_f64(double x, int64_t *quadrant) {
    static const uint64_t two_over_pi[21] = {
        0, /* for e < 2 */
        0xa2f9836e4e441529u, 0xfc2757d1f534ddc0u, 0xdb6295993c439041u, 0xfe5163abdebbc561u, 0xb7246e3a424dd2e0u,
        0x06492eea09d1921cu, 0xfe1deb1cb129a73eu, 0xe88235f52ebb4484u, 0xe99c7026b45f7e41u, 0x3991d639835339f4u,
        0x9c845f8bbdf9283bu, 0x1ff897ffde05980fu, 0xef2f118b5a0a6d1fu, 0x6d367ecf27cb09b7u, 0x4f463f669e5fea2du,
        0x7527bac7ebe5f17bu, 0x3d0739f78a5292eau, 0x6bfb5fb11f8d5d08u, 0x56033046fc7b6babu, 0xf0cfbc209af4361du};
    const uint64_t bits = __builtin_bit_cast(uint64_t, x), m = (bits & 0xfffffffffffff) | 0x10000000000000;
    const int start = (int)((bits >> 52) & 2047) - 1075 - 2 + 64; /* the bit of 2/pi that weighs 2 */
    const int word = start >> 6, shift = start & 63;
    uint64_t w[3];
    for (int i = 0; i < 3; i++) {
        w[i] = two_over_pi[word + i] << shift;
        if (shift) w[i] |= two_over_pi[word + i + 1] >> (64 - shift);
    }
    const unsigned __int128 middle = (unsigned __int128)w[1] * m + (((unsigned __int128)w[2] * m) >> 64);
    const uint64_t top = w[0] * m + (uint64_t)(middle >> 64), q = (top + ((uint64_t)1 << 61)) >> 62; /* to nearest */
    unsigned __int128 rest = ((unsigned __int128)(top - (q << 62)) << 64) | (uint64_t)middle;
    const int below = (int)(rest >> 127), negative = (int)(bits >> 63);
    if (below) rest = -rest;
    const double r = ((double)(uint64_t)(rest >> 64) * 0x1p-62 + (double)(uint64_t)rest * 0x1p-126) * SIRIUS_PI_2_HI;
    *quadrant = negative ? -(int64_t)q : (int64_t)q;
    return negative != below ? -r : r;
}

/* sin(x + shift*pi/2) */
SR_FN sr_f64 sr_sincos_f64(sr_f64 x, int64_t shift) {
    const sr_f64 t = sr_fma_f64(x, (sr_f64)SIRIUS_2_PI, (sr_f64)SR_MAGIC64), n = t - SR_MAGIC64;
    sr_i64 quadrant = (sr_i64)t;
    sr_f64 r = sr_fma_f64(n, (sr_f64)-SIRIUS_PI_2_HI, x);
    r = sr_fma_f64(n, (sr_f64)-SIRIUS_PI_2_LO, r);
    r = sr_fma_f64(n, (sr_f64)0x1.f1976b7ed8fbcp-110, r);
    r = n == 0.0 ? x : r;
    const sr_m64 huge = (sr_abs_f64(x) >= 0x1p20) & (sr_abs_f64(x) < SR_INF64);
    if (__builtin_expect(__builtin_reduce_or(huge) != 0, 0)) {
        for (int i = 0; i < SIRIUS_LANES; i++) {
            int64_t q;
            if (huge[i]) r[i] = sr_reduce_huge_f64(x[i], &q), quadrant[i] = q;
        }
    }
    quadrant += shift;
    const sr_f64 z = r * r;
    sr_f64 s = SR_POLY64(z, 1.0 / 355687428096000, -1.0 / 1307674368000, 1.0 / 6227020800, -1.0 / 39916800,
                         1.0 / 362880, -1.0 / 5040, 1.0 / 120, -1.0 / 6);
    s = r * sr_fma_f64(s, z, 1.0); /* a product, so that -0 stays */
    const sr_f64 c = SR_POLY64(z, 1.0 / 20922789888000, -1.0 / 87178291200, 1.0 / 479001600, -1.0 / 3628800,
                               1.0 / 40320, -1.0 / 720, 1.0 / 24, -0.5, 1.0);
    const sr_f64 y = (quadrant & 1) != 0 ? c : s;
    const sr_i64 sign = (sr_i64)((sr_u64)(quadrant & 2) << 62);
    return (sr_f64)((sr_i64)y ^ sign);
}

SR_FN sr_f64 sr_sin_f64(sr_f64 x) { return sr_sincos_f64(x, 0); }
SR_FN sr_f64 sr_cos_f64(sr_f64 x) { return sr_sincos_f64(x, 1); }

/* ---- arc tangent */

/* The angle of (x, |y|), as C and TensorFlow have it of zeros and infinities. The angles of c = 0.4140625, of 1, and
 * pi/2 and pi have two parts. */
SR_FN sr_f64 sr_angle_f64(sr_f64 y, sr_f64 x) {
    const sr_f64 a = sr_abs_f64(y), b = sr_abs_f64(x);
    const sr_m64 steep = a > b;
    const sr_f64 less = steep ? b : a, more = steep ? a : b;
    sr_f64 q = less == more ? (sr_f64)1.0 : less / more; /* both may be infinite, */
    q = more == 0.0 ? less : q;                          /* or zero, or one of them NaN */
    const sr_m64 first = q < 0.198912367379658, last = q > 0.6681786379192989; /* tangents of pi/16 and 3 pi/16 */
    const sr_f64 c = first ? (sr_f64)0.0 : (last ? (sr_f64)1.0 : (sr_f64)0.4140625);
    const sr_f64 high = first ? (sr_f64)0.0 : (last ? (sr_f64)(SIRIUS_PI_2_HI / 2) : (sr_f64)0x1.91fde7cd0c662p-2);
    const sr_f64 low = first ? (sr_f64)0.0 : (last ? (sr_f64)(SIRIUS_PI_2_LO / 2) : (sr_f64)0x1.1074188054b53p-56);
    const sr_f64 t = (q - c) / sr_fma_f64(c, q, 1.0), z = t * t;
    const sr_f64 p = SR_POLY64(z, 1.0 / 25, -1.0 / 23, 1.0 / 21, -1.0 / 19, 1.0 / 17, -1.0 / 15, 1.0 / 13, -1.0 / 11,
                               1.0 / 9, -1.0 / 7, 1.0 / 5, -1.0 / 3);
    sr_f64 angle = high + (low + sr_fma_f64(p * z, t, t));
    angle = steep ? SIRIUS_PI_2_HI - angle + SIRIUS_PI_2_LO : angle;
    return (sr_i64)x < 0 ? 2 * SIRIUS_PI_2_HI - angle + 2 * SIRIUS_PI_2_LO : angle; /* of -0, too */
}

SR_FN sr_f64 sr_atan2_f64(sr_f64 y, sr_f64 x) { return __builtin_elementwise_copysign(sr_angle_f64(y, x), y); }

/* The sign is that of a float: to store the result as a half, clang would make a half of a double's, by a call. */
SR_FN sr_f32 sr_atan2(sr_f32 y, sr_f32 x) {
    const sr_f64 angle = sr_angle_f64(__builtin_convertvector(y, sr_f64), __builtin_convertvector(x, sr_f64));
    return sr_copysign(__builtin_convertvector(angle, sr_f32), y);
}

#endif
