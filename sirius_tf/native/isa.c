/* SPDX-License-Identifier: Apache-2.0 */
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"

static int32_t detect_isa(void) {
  unsigned a, b, c, d, b7, ext;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return -1;
  const unsigned need1 = bit_FMA | bit_MOVBE | bit_OSXSAVE | bit_AVX | bit_F16C | bit_POPCNT;
  if ((c & need1) != need1) return -1;
  if (!__get_cpuid(0x80000001u, &a, &b, &ext, &d) || !(ext & bit_LZCNT)) return -1;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c, &d)) return -1;
  const unsigned need7 = bit_AVX2 | bit_BMI | bit_BMI2;
  if ((b7 & need7) != need7) return -1;
  unsigned low, high; /* the registers that the operating system saves */
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0x6u) != 0x6u) return -1;
  const unsigned need512 = bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL;
  return (b7 & need512) == need512 && (low & 0xe6u) == 0xe6u ? SIRIUS_ISA_V4 : SIRIUS_ISA_V3;
}

int32_t sirius_isa_of(int32_t detected, const char *wanted) {
  return wanted && strcmp(wanted, "v3") == 0 && detected > SIRIUS_ISA_V3 ? SIRIUS_ISA_V3 : detected;
}

int32_t sirius_isa(void) {
  static int32_t cached; /* 0: not known yet; else the ISA + 2 */
  int32_t isa = __atomic_load_n(&cached, __ATOMIC_RELAXED) - 2;
  if (isa == -2) {
    isa = sirius_isa_of(detect_isa(), getenv("SIRIUS_ISA"));
    __atomic_store_n(&cached, isa + 2, __ATOMIC_RELAXED);
  }
  return isa;
}
