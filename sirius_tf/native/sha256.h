/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SIRIUS_SHA256_H
#define SIRIUS_SHA256_H
#include <stddef.h>
#include <stdint.h>

#define SIRIUS_SHA256_DIGITS 64 /* in hex */

/* SHA-256 (FIPS 180-4) of bytes that come in pieces. */
typedef struct {
  uint32_t state[8];
  uint64_t bytes;
  unsigned char block[64];
} SiriusSha256;

void sirius_sha256_begin(SiriusSha256 *sha);
void sirius_sha256_add(SiriusSha256 *sha, const void *data, size_t bytes);
void sirius_sha256_end(SiriusSha256 *sha, char hex[SIRIUS_SHA256_DIGITS + 1]);

#endif
