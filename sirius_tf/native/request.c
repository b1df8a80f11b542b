/* SPDX-License-Identifier: Apache-2.0 */
#include "request.h"

#include <stdio.h>

int32_t sirius_report(const SiriusRequest *r, const SiriusError *failure) {
  const long long *args = (const long long *)failure->args;
  if (failure->format)
    snprintf(r->error, r->error_bytes, failure->format, args[0], args[1], args[2], args[3]);
  else
    snprintf(r->error, r->error_bytes, "%s", r->region->messages[args[0]]);
  return SIRIUS_INVALID;
}

int32_t sirius_check_inputs(const SiriusRequest *r, int32_t n_in) {
  const SiriusRegionInfo *region = r->region;
  if (n_in != region->n_in) {
    snprintf(r->error, r->error_bytes, "region %s takes %d inputs, got %d", region->name, region->n_in, n_in);
    return SIRIUS_INVALID;
  }
  for (int32_t i = 0; i < n_in; ++i) {
    const SiriusTensor *in = &r->in[i];
    const char *what = in->dtype != region->in_dtype[i]  ? "dtype"
                       : in->rank != region->in_rank[i] ? "rank"
                                                         : NULL;
    if (!what) continue;
    const int is_rank = what[0] == 'r';
    snprintf(r->error, r->error_bytes, "input %d of region %s must have %s %d, got %d", i, region->name, what,
             is_rank ? region->in_rank[i] : region->in_dtype[i], is_rank ? in->rank : in->dtype);
    return SIRIUS_INVALID;
  }
  return SIRIUS_OK;
}

int32_t sirius_is_late(const SiriusRegionInfo *region, int32_t output) {
  return region->shapes && region->out_late[output];
}

static int64_t item_bytes(int32_t dtype) {
  switch (dtype) { /* TensorFlow's DataType */
    case 1: case 3: return 4;           /* float, int32 */
    case 2: case 9: return 8;           /* double, int64 */
    case 5: case 14: case 19: return 2; /* int16, bfloat16, half */
    case 4: case 6: case 10: return 1;  /* uint8, int8, bool */
    default: return 16;
  }
}

int64_t sirius_array_bytes(int32_t dtype, const int64_t *dims, int32_t rank) {
  int64_t bytes = item_bytes(dtype);
  for (int32_t d = 0; d < rank; ++d)
    if (dims[d] < 0 || __builtin_mul_overflow(bytes, dims[d], &bytes)) return -1;
  return bytes;
}

int32_t sirius_check_sizes(const SiriusRequest *r) {
  for (int32_t i = 0; i < r->region->n_out; ++i) {
    const int64_t bytes = sirius_array_bytes(r->region->out_dtype[i], r->dims[i], r->region->out_rank[i]);
    if (bytes >= 0 && bytes <= SIRIUS_MOST_BYTES) continue;
    snprintf(r->error, r->error_bytes, "output %d of region %s %s", i, r->region->name,
             bytes < 0 ? "has a negative size, or more bytes than 64 bits can count" : "needs more than 2^47 bytes");
    return bytes < 0 ? SIRIUS_INVALID : SIRIUS_EXHAUSTED;
  }
  return SIRIUS_OK;
}

int32_t sirius_check_workspace(const SiriusRequest *r, int64_t bytes) {
  if (bytes >= 0 && bytes <= SIRIUS_MOST_BYTES) return SIRIUS_OK;
  snprintf(r->error, r->error_bytes, "region %s needs more than 2^47 bytes of workspace", r->region->name);
  return SIRIUS_EXHAUSTED;
}

size_t sirius_output_bytes(const SiriusRequest *r, int32_t output) {
  return (size_t)sirius_array_bytes(r->region->out_dtype[output], r->dims[output], r->region->out_rank[output]);
}

int32_t sirius_allocate_output(const SiriusRequest *r, int32_t output, void **data) {
  const SiriusRegionInfo *region = r->region;
  *data = NULL;
  const SiriusCaller *caller = r->caller;
  const int32_t dtype = region->out_dtype[output], rank = region->out_rank[output];
  if (!caller->allocate(caller->context, output, dtype, r->dims[output], rank, data) &&
      (*data || sirius_output_bytes(r, output) == 0))
    return SIRIUS_OK;
  snprintf(r->error, r->error_bytes, "cannot allocate output %d of region %s", output, region->name);
  return SIRIUS_EXHAUSTED;
}
