/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens bundles and calls their regions. Nothing here knows TensorFlow; runtime/native.py binds it with ctypes.
 */
#ifndef SIRIUS_HOST_H
#define SIRIUS_HOST_H
#include <stddef.h>

#include "sirius_abi.h"

/* What went wrong in sirius_call. */
#define SIRIUS_OK 0
#define SIRIUS_INVALID 1   /* the inputs do not fit the region */
#define SIRIUS_EXHAUSTED 2 /* no memory */
#define SIRIUS_INTERNAL 3

/* Provide output `index`: set *data to room for it (it may be NULL if empty). Returns 0, or 1 on failure. */
typedef int32_t (*SiriusAllocate)(void *context, int32_t index, int32_t dtype, const int64_t *dims,
                                  int32_t rank, void **data);

/* The bundle in a file, or NULL with a message in `error`. Bundles stay open for the life of the process. */
const SiriusBundle *sirius_open(const char *path, char *error, size_t error_bytes);

/* The region of that name, or NULL. */
const SiriusRegionInfo *sirius_find_region(const SiriusBundle *bundle, const char *name);

/* The best code this CPU runs (SIRIUS_ISA_*; SIRIUS_ISA=v3 in the environment lowers it), or -1 if none. */
int32_t sirius_isa(void);

/* Run a region on at most `threads` workers (0: the default). Returns SIRIUS_OK, or another code and a message. */
int32_t sirius_call(const SiriusBundle *bundle, const SiriusRegionInfo *region, const SiriusTensor *in,
                    int32_t n_in, SiriusAllocate allocate, void *context, int32_t threads, char *error,
                    size_t error_bytes);

#endif
