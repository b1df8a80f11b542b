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
} SiriusWorkspace;

/* Returns 0, or 1 if there is no memory. */
int32_t sirius_take_workspace(size_t bytes, SiriusWorkspace *result);

void sirius_give_workspace(SiriusWorkspace workspace);

#endif
