/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory for the temporaries of calls, kept for later ones.
 */
#ifndef SIRIUS_WORKSPACE_H
#define SIRIUS_WORKSPACE_H
#include <stddef.h>
#include <stdint.h>

typedef struct {
  void *data; /* 64-byte aligned; NULL if there are no bytes */
  size_t bytes;
  int32_t reserved; /* 1 if these are addresses, of which memory is behind those that are touched */
} SiriusWorkspace;

/* Of these bytes `certain` are used at least, and data decides how many more. Returns 0, or 1 if there is no memory. */
int32_t sirius_take_workspace(size_t bytes, size_t certain, SiriusWorkspace *result);

/* At the time `now`, in nanoseconds. */
void sirius_give_workspace(SiriusWorkspace workspace, int64_t now);

/* Bytes that are kept for later calls. */
int64_t sirius_idle_bytes(void);

#endif
