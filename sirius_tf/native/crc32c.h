/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SIRIUS_CRC32C_H
#define SIRIUS_CRC32C_H
#include <stddef.h>
#include <stdint.h>

#define SIRIUS_CRC_BLOCK (3 * 8192) /* a multiple of this many bytes is checked the fastest */

/* CRC-32C (Castagnoli) of some bytes, which go on where those of `crc` ended; 0 at first. On CPUs with SSE4.2. */
uint32_t sirius_crc32c(uint32_t crc, const void *data, size_t bytes);

#endif
