/* SPDX-License-Identifier: Apache-2.0
 *
 * The state of a CRC is a polynomial of degree 31, of which bit 31 is the coefficient of 1. A byte multiplies it by x^8, and
 * crc32 of a word has three cycles of latency: three stretches of bytes are read side by side, each from state 0 but for
 * the first, and what is behind a stretch is multiplied by that power of x afterwards.
 */
#include "crc32c.h"

#include <nmmintrin.h>
#include <string.h>

#define POLYNOMIAL 0x82f63b78u
#define STRETCH (SIRIUS_CRC_BLOCK / 3)

/* The product of two polynomials modulo that of CRC-32C. */
static uint32_t product(uint32_t a, uint32_t b) {
  uint32_t result = 0;
  for (; a; a <<= 1) {
    result ^= b & -(a >> 31);
    b = (b >> 1) ^ (POLYNOMIAL & -(b & 1u));
  }
  return result;
}

__attribute__((target("sse4.2,crc32"))) static uint32_t go_on(uint32_t state, const unsigned char *data, size_t bytes) {
  uint64_t wide = state, word;
  for (; bytes >= sizeof word; bytes -= sizeof word, data += sizeof word) {
    memcpy(&word, data, sizeof word);
    wide = _mm_crc32_u64(wide, word);
  }
  for (; bytes; --bytes) wide = _mm_crc32_u8((uint32_t)wide, *data++);
  return (uint32_t)wide;
}

__attribute__((target("sse4.2,crc32"))) uint32_t sirius_crc32c(uint32_t crc, const void *data, size_t bytes) {
  static const unsigned char zeros[STRETCH];
  const unsigned char *at = data;
  uint32_t state = ~crc;
  if (bytes >= SIRIUS_CRC_BLOCK) {
    const uint32_t once = go_on(1u << 31, zeros, STRETCH), twice = product(once, once);
    for (; bytes >= SIRIUS_CRC_BLOCK; bytes -= SIRIUS_CRC_BLOCK, at += SIRIUS_CRC_BLOCK) {
      uint64_t a = state, b = 0, c = 0, word;
      for (const unsigned char *end = at + STRETCH, *p = at; p < end; p += sizeof word) {
        memcpy(&word, p, sizeof word);
        a = _mm_crc32_u64(a, word);
        memcpy(&word, p + STRETCH, sizeof word);
        b = _mm_crc32_u64(b, word);
        memcpy(&word, p + 2 * STRETCH, sizeof word);
        c = _mm_crc32_u64(c, word);
      }
      state = product((uint32_t)a, twice) ^ product((uint32_t)b, once) ^ (uint32_t)c;
    }
  }
  return ~go_on(state, at, bytes);
}
