/* SPDX-License-Identifier: Apache-2.0
 *
 * One call of a region, and what it does alike on every device: checks, messages, outputs.
 */
#ifndef SIRIUS_REQUEST_H
#define SIRIUS_REQUEST_H
#include "host.h"

typedef struct {
  const SiriusBundle *bundle;
  const SiriusRegionInfo *region;
  const SiriusTensor *in;
  int64_t *params;                 /* room for those of the region */
  void **out;                      /* likewise, for its outputs */
  int64_t (*dims)[SIRIUS_MAX_RANK];
  const SiriusCaller *caller;
  char *error;
  size_t error_bytes;
} SiriusRequest;

/* Writes the message of a failure; returns SIRIUS_INVALID. */
int32_t sirius_report(const SiriusRequest *r, const SiriusError *failure);

/* SIRIUS_INVALID and a message if `n_in` inputs are not as many as the region takes, or of another dtype or rank. */
int32_t sirius_check_inputs(const SiriusRequest *r, int32_t n_in);

/* A code and a message if an output would have a negative size, or more bytes than there can be. */
int32_t sirius_check_sizes(const SiriusRequest *r);

/* SIRIUS_EXHAUSTED and a message if plan found that a workspace would have more bytes than there can be. */
int32_t sirius_check_workspace(const SiriusRequest *r, int64_t bytes);

/* 1 if plan has but an upper bound of the output's shape. */
int32_t sirius_is_late(const SiriusRegionInfo *region, int32_t output);

/* Bytes of a dense array of a TensorFlow DataType; -1 if a size is negative, or they do not fit into 64 bits. */
int64_t sirius_array_bytes(int32_t dtype, const int64_t *dims, int32_t rank);

/* Bytes of an output of the shape in r->dims, which has been checked. */
size_t sirius_output_bytes(const SiriusRequest *r, int32_t output);

/* Has the caller provide an output of that shape. SIRIUS_EXHAUSTED and a message if it cannot. */
int32_t sirius_allocate_output(const SiriusRequest *r, int32_t output, void **data);

#endif
