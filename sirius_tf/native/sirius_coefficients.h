/* SPDX-License-Identifier: Apache-2.0
 *
 * Coefficients of elementary functions that code for CPUs and for GPUs computes in the same way: the first includes
 * this file (sirius_math.h, which says how they were fitted), the others have its text in theirs (sirius_cuda.cuh).
 * Polynomials are Horner's rule in terms of the target's `fma(a, b, c)`, a * b + c with one rounding.
 */
#ifndef SIRIUS_COEFFICIENTS_H
#define SIRIUS_COEFFICIENTS_H

/* Adding 1.5*2^23 leaves round-to-even(x) in the low bits: rounding and conversion at once, and no
 * conversion of a NaN, which would be undefined. */
#define SIRIUS_MAGIC 12582912.0f
#define SIRIUS_LOG2_E 1.44269504f
#define SIRIUS_LN2_HI 0.6931471824645996f
#define SIRIUS_LN2_LO (-1.9046542121259336e-09f)

/* In double: ln 2, 1/ln 2, 2/pi, and pi/2 in two parts. */
#define SIRIUS_LN2 0x1.62e42fefa39efp-1
#define SIRIUS_LOG2_E_F64 1.4426950408889634
#define SIRIUS_2_PI 0.63661977236758134308
#define SIRIUS_PI_2_HI 0x1.921fb54442d18p+0
#define SIRIUS_PI_2_LO 0x1.1a62633145c07p-54

/* (e^r - 1 - r)/r^2 for |r| <= ln2/2 */
#define SIRIUS_EXP_REST(fma, r)                                                                              \
    fma(fma(fma(fma(r, 0.0013864266220480204f, 0.008366551250219345f), r, 0.04166750609874725f), r,          \
            0.1666654348373413f),                                                                            \
        r, 0.4999999701976776f)

/* log(erfc(a)/t) + a*a with t = 2/(2 + a), for 0 <= a <= 10.5, in double */
#define SIRIUS_ERFC_LOG(fma, t)                                                                              \
    fma(fma(fma(fma(fma(fma(fma(fma(fma(fma(t, -0.14881162489379834, 1.0119477082316453), t,                 \
                                        -2.8891730194808463),                                                \
                                    t, 4.386361931493367),                                                   \
                                t, -3.6910113087541245),                                                     \
                            t, 1.7539963290830298),                                                          \
                        t, -0.7479752247089942),                                                             \
                    t, 0.23553370931453374),                                                                 \
                t, 0.35287214480531737),                                                                     \
            t, 1.0018376453436886),                                                                          \
        t, -1.2655782900148866)

#endif
