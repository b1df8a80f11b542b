/* SPDX-License-Identifier: Apache-2.0 */
#include "sha256.h"

#include <stdio.h>
#include <string.h>

/* The first bits of the fractional parts of the square roots of the first primes, and of their cube roots. */
static const uint32_t roots[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};
static const uint32_t cube_roots[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotated(uint32_t x, int bits) { return x >> bits | x << (32 - bits); }

static void add_block(SiriusSha256 *sha, const unsigned char *block) {
  uint32_t w[64], s[8];
  for (int i = 0; i < 16; ++i)
    w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
  for (int i = 16; i < 64; ++i) {
    const uint32_t a = w[i - 15], b = w[i - 2];
    w[i] = w[i - 16] + (rotated(a, 7) ^ rotated(a, 18) ^ a >> 3) + w[i - 7] + (rotated(b, 17) ^ rotated(b, 19) ^ b >> 10);
  }
  memcpy(s, sha->state, sizeof s);
  for (int i = 0; i < 64; ++i) {
    const uint32_t e = s[4], a = s[0];
    const uint32_t first = s[7] + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & s[5]) ^ (~e & s[6])) +
                           cube_roots[i] + w[i];
    const uint32_t second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
    memmove(s + 1, s, 7 * sizeof *s);
    s[4] += first;
    s[0] = first + second;
  }
  for (int i = 0; i < 8; ++i) sha->state[i] += s[i];
}

void sirius_sha256_begin(SiriusSha256 *sha) {
  memcpy(sha->state, roots, sizeof roots);
  sha->bytes = 0;
}

void sirius_sha256_add(SiriusSha256 *sha, const void *data, size_t bytes) {
  const unsigned char *next = data;
  while (bytes) {
    const size_t filled = sha->bytes % sizeof sha->block, room = sizeof sha->block - filled;
    const size_t taken = bytes < room ? bytes : room;
    memcpy(sha->block + filled, next, taken);
    if (taken == room) add_block(sha, sha->block);
    sha->bytes += taken;
    next += taken;
    bytes -= taken;
  }
}

/* A one, zeros up to the last 8 bytes of a block, and the number of bits. */
void sirius_sha256_end(SiriusSha256 *sha, char hex[SIRIUS_SHA256_DIGITS + 1]) {
  static const unsigned char one = 0x80, zero = 0;
  const uint64_t bits = 8 * sha->bytes;
  sirius_sha256_add(sha, &one, 1);
  while (sha->bytes % sizeof sha->block != sizeof sha->block - sizeof bits) sirius_sha256_add(sha, &zero, 1);
  for (int shift = 56; shift >= 0; shift -= 8) {
    const unsigned char byte = (unsigned char)(bits >> shift);
    sirius_sha256_add(sha, &byte, 1);
  }
  for (int i = 0; i < 8; ++i) sprintf(hex + 8 * i, "%08x", sha->state[i]);
}
