/* SPDX-License-Identifier: Apache-2.0
 *
 * A program that is linked with a bundle's code and the host's, and calls the first region on the arrays of its standard
 * input, once for each number of workers among its arguments. Every array has a block of memory of its own.
 *
 * Input: the weights, then for each input of the region its rank, its extents and its elements. An array is its bytes
 * behind their number. Numbers are int64. Output: for each call the rank, the extents and the elements of each output.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "request.h"
#include "team.h"

extern const SiriusBundle sirius_bundle;

typedef struct {
  void *data;
  int64_t dims[SIRIUS_MAX_RANK];
  int32_t rank;
} Array;

static void *take(size_t bytes) {
  void *data = NULL;
  if (posix_memalign(&data, 64, bytes)) abort();
  return data;
}

static void get(void *data, size_t bytes) {
  if (bytes && fread(data, bytes, 1, stdin) != 1) abort();
}

static int64_t number(void) {
  int64_t value;
  get(&value, sizeof value);
  return value;
}

static void *array(void) {
  const size_t bytes = (size_t)number();
  void *data = take(bytes);
  get(data, bytes);
  return data;
}

static int32_t allocate(void *context, int32_t index, int32_t dtype, const int64_t *dims, int32_t rank, void **data) {
  Array *output = (Array *)context + index;
  output->rank = rank;
  memcpy(output->dims, dims, (size_t)rank * sizeof *dims);
  *data = output->data = take((size_t)sirius_array_bytes(dtype, dims, rank));
  return 0;
}

static void put(const void *data, size_t bytes) {
  if (bytes && fwrite(data, bytes, 1, stdout) != 1) abort();
}

static void call(const SiriusBundle *bundle, const SiriusTensor *in, int32_t workers) {
  const SiriusRegionInfo *region = bundle->regions;
  Array *outputs = calloc((size_t)region->n_out, sizeof *outputs);
  const SiriusCaller caller = {.allocate = allocate, .context = outputs};
  char error[512];
  sirius_fix_workers(workers);
  if (sirius_call(bundle, region, in, region->n_in, &caller, 0, error, sizeof error)) {
    fprintf(stderr, "%s\n", error);
    exit(1);
  }
  for (int32_t k = 0; k < region->n_out; ++k) {
    const int64_t rank = outputs[k].rank;
    put(&rank, sizeof rank);
    put(outputs[k].dims, (size_t)rank * sizeof *outputs[k].dims);
    put(outputs[k].data, (size_t)sirius_array_bytes(region->out_dtype[k], outputs[k].dims, outputs[k].rank));
    free(outputs[k].data);
  }
  free(outputs);
}

int main(int count, char **arguments) {
  SiriusBundle bundle = sirius_bundle;
  SiriusRegionInfo region = bundle.regions[0];
  for (int isa = 0; isa < SIRIUS_ISAS; ++isa) /* there is code for one */
    if (!region.run[isa]) region.run[isa] = region.run[SIRIUS_ISA_V3] ? region.run[SIRIUS_ISA_V3] : region.run[SIRIUS_ISA_V4];
  bundle.regions = &region;
  bundle.weights = array();
  SiriusTensor *in = calloc((size_t)region.n_in + 1, sizeof *in);
  for (int32_t k = 0; k < region.n_in; ++k) {
    const int64_t rank = number();
    int64_t *dims = take((size_t)rank * sizeof *dims);
    get(dims, (size_t)rank * sizeof *dims);
    in[k] = (SiriusTensor){array(), dims, (int32_t)rank, region.in_dtype[k]};
  }
  for (int k = 1; k < count; ++k) call(&bundle, in, atoi(arguments[k]));
  return 0;
}
