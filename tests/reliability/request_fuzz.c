/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests out of bytes, for libFuzzer: each byte chooses a region, a rank, an extent, a type, or a number out of a table.
 * Every array has a block of memory of its own, of just its size. Behind the last byte there are zeros.
 */
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "request.h"
#include "team.h"

extern const SiriusBundle sirius_bundle;

#define MOST_RANK (SIRIUS_MAX_RANK + 1) /* one more than a call may have */
#define MOST_ELEMENTS 4096
#define MOST_BYTES (1 << 26) /* of an output: there is no memory for more here */
#define LENGTH(table) (sizeof(table) / sizeof *(table))

static const int64_t EXTENTS[] = {0, 1, 2, 3, 7, 8, 9, 33};
static const int32_t SHORT[] = {INT32_MIN, INT32_MIN + 1, -1000, -8, -2, -1, 0, 1, 2, 3, 7, 8, 9, 33, 1 << 30, INT32_MAX - 1, INT32_MAX};
static const int64_t LONG[] = {INT64_MIN, INT64_MIN + 1, -(1LL << 62), -(1LL << 32), -1000, -8, -2, -1, 0, 1, 2, 3, 7, 8, 9, 33,
                               1LL << 46, 1LL << 48, 1LL << 61, 1LL << 62, INT64_MAX - 19, INT64_MAX - 1, INT64_MAX};
enum { DT_INT32 = 3, DT_INT64 = 9 };

static struct {
  const uint8_t *data;
  size_t left;
} input;

/* What has been reached: the linker knows where that is. AddressSanitizer's runtime has functions of the names that the
 * compiler calls with it, which do nothing, so libFuzzer is told here. */
extern uint8_t __start___sancov_cntrs[], __stop___sancov_cntrs[];
extern uintptr_t __start___sancov_pcs[], __stop___sancov_pcs[];

void sirius_fuzz_count(void (*counters)(uint8_t *, uint8_t *), void (*places)(const uintptr_t *, const uintptr_t *)) {
  counters(__start___sancov_cntrs, __stop___sancov_cntrs);
  places(__start___sancov_pcs, __stop___sancov_pcs);
}

static void *block(int64_t bytes) {
  void *data = NULL;
  if (bytes && posix_memalign(&data, 64, (size_t)bytes)) abort();
  return data;
}

static uint8_t byte(void) { return input.left ? (--input.left, *input.data++) : 0; }

static void fill(uint8_t *data, int64_t bytes, int32_t dtype) {
  for (int64_t k = 0; dtype == DT_INT32 && k < bytes / 4; ++k) ((int32_t *)data)[k] = SHORT[byte() % LENGTH(SHORT)];
  for (int64_t k = 0; dtype == DT_INT64 && k < bytes / 8; ++k) ((int64_t *)data)[k] = LONG[byte() % LENGTH(LONG)];
  for (int64_t k = 0; dtype != DT_INT32 && dtype != DT_INT64 && k < bytes; ++k) data[k] = byte();
}

static SiriusTensor tensor(int32_t rank, int32_t dtype) {
  const uint8_t other = byte();
  if (other >= 248) rank = other % (MOST_RANK + 1);
  if (other >= 240 && other < 248) dtype = other - 240;
  int64_t *dims = malloc((size_t)(rank ? rank : 1) * sizeof *dims), count = 1;
  for (int32_t k = 0; k < rank; ++k) {
    dims[k] = EXTENTS[byte() % LENGTH(EXTENTS)];
    if (count * dims[k] > MOST_ELEMENTS) dims[k] = 1;
    count *= dims[k];
  }
  const int64_t item = sirius_array_bytes(dtype, NULL, 0), bytes = count * (item > 0 ? item : 1);
  uint8_t *data = block(bytes);
  fill(data, bytes, dtype);
  return (SiriusTensor){data, dims, rank, dtype};
}

typedef struct {
  void *outputs[64];
} Caller;

static int32_t allocate(void *context, int32_t index, int32_t dtype, const int64_t *dims, int32_t rank, void **data) {
  const int64_t bytes = sirius_array_bytes(dtype, dims, rank);
  if (bytes > MOST_BYTES) return 1;
  *data = ((Caller *)context)->outputs[index] = block(bytes);
  return 0;
}

/* Answer one request; aborts if a call that sirius_accepts refuses has results. */
void sirius_fuzz(const char *weights, const uint8_t *data, size_t size) {
  SiriusBundle bundle = sirius_bundle;
  bundle.weights = weights;
  input.data = data;
  input.left = size;
  const SiriusRegionInfo *region = &bundle.regions[byte() % bundle.n_regions];
  sirius_fix_workers(1 + byte() % 3);
  SiriusTensor *in = calloc((size_t)region->n_in + 1, sizeof *in);
  for (int32_t k = 0; k < region->n_in; ++k) in[k] = tensor(region->in_rank[k], region->in_dtype[k]);
  Caller outputs = {0};
  const SiriusCaller caller = {.allocate = allocate, .context = &outputs};
  char error[512];
  const int32_t accepted = sirius_accepts(&bundle, region, in, region->n_in);
  const int32_t code = sirius_call(&bundle, region, in, region->n_in, &caller, 0, error, sizeof error);
  if (code == SIRIUS_OK && !accepted) abort();
  for (size_t k = 0; k < LENGTH(outputs.outputs); ++k) free(outputs.outputs[k]);
  for (int32_t k = 0; k < region->n_in; ++k) {
    free((void *)in[k].data);
    free((void *)in[k].dims);
  }
  free(in);
}
