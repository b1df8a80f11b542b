/* SPDX-License-Identifier: Apache-2.0
 *
 * sirius_math.h and sirius_math64.h over arrays, for test_math*.py. Every loop ends with a partial vector, as generated
 * code does. ALL_UNARY(f) is f of each function of one argument; conftest.py defines it.
 */
#include "sirius_math.h"
#include "sirius_math64.h"

#define UNARY(f)                                                                                             \
    void t_##f(const float *x, const float *unused, float *y, int64_t n) {                                   \
        (void)unused;                                                                                        \
        int64_t i = 0;                                                                                       \
        for (; i + SIRIUS_LANES <= n; i += SIRIUS_LANES) sr_store(y + i, sr_##f(sr_load(x + i)));            \
        sr_store_n(y + i, (int)(n - i), sr_##f(sr_load_n(x + i, (int)(n - i))));                             \
    }
#define BINARY(f)                                                                                            \
    void t_##f(const float *x, const float *z, float *y, int64_t n) {                                        \
        int64_t i = 0;                                                                                       \
        for (; i + SIRIUS_LANES <= n; i += SIRIUS_LANES)                                                     \
            sr_store(y + i, sr_##f(sr_load(x + i), sr_load(z + i)));                                         \
        const int k = (int)(n - i);                                                                          \
        sr_store_n(y + i, k, sr_##f(sr_load_n(x + i, k), sr_load_n(z + i, k)));                              \
    }
ALL_UNARY(UNARY)
BINARY(max)
BINARY(min)
BINARY(pow)
BINARY(atan2)

/* Numbers of one lane that are stored as halves: clang must make them without a call. */
#define HALF(f)                                                                                                  uint16_t t_##f##_half(float x) { return __builtin_bit_cast(uint16_t, (_Float16)sr_##f((sr_f32)x)[0]); }
#define HALF2(f)                                                                                                 uint16_t t_##f##_half(float x, float y) {                                                                        return __builtin_bit_cast(uint16_t, (_Float16)sr_##f((sr_f32)x, (sr_f32)y)[0]);                          }
ALL_UNARY(HALF)
HALF2(pow)
HALF2(atan2)

#define UNARY64(f)                                                                                           \
    void t_##f##_f64(const double *x, const double *unused, double *y, int64_t n) {                          \
        (void)unused;                                                                                        \
        for (int64_t i = 0; i < n; i += SIRIUS_LANES) sr_store_f64(y + i, sr_##f##_f64(sr_load_f64(x + i))); \
    }
#define BINARY64(f)                                                                                          \
    void t_##f##_f64(const double *x, const double *z, double *y, int64_t n) {                               \
        for (int64_t i = 0; i < n; i += SIRIUS_LANES)                                                        \
            sr_store_f64(y + i, sr_##f##_f64(sr_load_f64(x + i), sr_load_f64(z + i)));                       \
    }
ALL_UNARY(UNARY64)
BINARY64(max)
BINARY64(min)
BINARY64(pow)
BINARY64(atan2)

int t_lanes(void) { return SIRIUS_LANES; }
float t_reduce_add(const float *x) { return sr_reduce_add(sr_load(x)); }
float t_reduce_max(const float *x) { return sr_reduce_max(sr_load(x)); }
float t_reduce_min(const float *x) { return sr_reduce_min(sr_load(x)); }

#define COPY(suffix, type)                                                                                   \
    void t_copy_##suffix(const type *x, type *y, int n) {                                                    \
        sr_store_n_##suffix(y, n, sr_load_n_##suffix(x, n));                                                 \
    }
COPY(f32, float)
COPY(f64, double)
COPY(i32, int32_t)
COPY(i64, int64_t)
COPY(u16, uint16_t)
COPY(f16, _Float16)

/* To half precision and back; n is a multiple of the lanes. */
void t_round_bf16(const float *x, uint16_t *half, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += SIRIUS_LANES) {
        const sr_u16 h = sr_to_bf16v(sr_load(x + i));
        sr_store_u16(half + i, h);
        sr_store(y + i, sr_from_bf16v(h));
    }
}
void t_round_bf16_alone(const float *x, uint16_t *half, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = sr_from_bf16(half[i] = sr_to_bf16(x[i]));
}
void t_round_f16(const float *x, _Float16 *half, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += SIRIUS_LANES) {
        const sr_f16 h = __builtin_convertvector(sr_load(x + i), sr_f16);
        sr_store_f16(half + i, h);
        sr_store(y + i, __builtin_convertvector(h, sr_f32));
    }
}
