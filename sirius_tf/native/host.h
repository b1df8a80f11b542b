/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens bundles and calls their regions. Nothing here knows TensorFlow; runtime/native.py binds it with ctypes.
 */
#ifndef SIRIUS_HOST_H
#define SIRIUS_HOST_H
#include <stddef.h>

#include "sirius_abi.h"

/* What went wrong in sirius_call, or in sirius_open. */
#define SIRIUS_OK 0
#define SIRIUS_INVALID 1   /* the inputs do not fit the region */
#define SIRIUS_EXHAUSTED 2 /* no memory */
#define SIRIUS_INTERNAL 3

/* What else went wrong in sirius_open. */
#define SIRIUS_MISSING 4 /* a file is not there */
#define SIRIUS_DAMAGED 5 /* a file is not as it was written */
#define SIRIUS_STALE 6   /* what does not belong together: graph, code, weights, version, CPU */

/* Why else a call ended. */
#define SIRIUS_LATE 7 /* it took longer than it may */
#define SIRIUS_CANCELLED 8

/* Provide output `index`: set *data to room for it (it may be NULL if empty). Returns 0, or 1 on failure. */
typedef int32_t (*SiriusAllocate)(void *context, int32_t index, int32_t dtype, const int64_t *dims,
                                  int32_t rank, void **data);

/* A bundle in memory. */
typedef struct SiriusOpened SiriusOpened;

/* Opens the bundle in a file, which must be whole, and have the weights of the checkpoint beside it. SIRIUS_OK, or another
 * code and a message. It stays in memory until sirius_close is called as often as this was. */
int32_t sirius_open(const char *path, SiriusOpened **opened, char *error, size_t error_bytes);
void sirius_close(SiriusOpened *opened);
const SiriusBundle *sirius_opened_bundle(const SiriusOpened *opened);

/* An open bundle is that of its path for the model that has checked it, whatever file is there later: it is the one that
 * sirius_pinned opens, or NULL, if it has a region of that name and digest. sirius_unpin closes it, too. */
void sirius_pin(SiriusOpened *opened);
void sirius_unpin(SiriusOpened *opened);
SiriusOpened *sirius_pinned(const char *path, const char *region, const char *digest);

/* The path of a file of the SavedModel that has the file `path` among its assets; NULL if there is no memory for it. The
 * caller frees it. */
char *sirius_beside(const char *path, const char *file);

/* Whether a call is cancelled. Asked by the thread that calls, every few milliseconds. */
typedef int32_t (*SiriusPoll)(void *context);

/* Who calls. */
typedef struct {
  SiriusAllocate allocate;
  SiriusPoll poll;  /* NULL if nobody can cancel the call */
  void *context;    /* of both */
  int64_t deadline; /* of CLOCK_MONOTONIC in nanoseconds; 0 if there is none. SIRIUS_CALL_LIMIT_MS may be another one */
} SiriusCaller;

/* The region of that name, or NULL. */
const SiriusRegionInfo *sirius_find_region(const SiriusBundle *bundle, const char *name);

/* The best code this CPU runs (SIRIUS_ISA_*; SIRIUS_ISA=v3 in the environment lowers it), or -1 if none. */
int32_t sirius_isa(void);

/* What a CPU is to run that was found to run `detected`, if `wanted` is what the environment says; NULL if nothing. */
int32_t sirius_isa_of(int32_t detected, const char *wanted);

/* Run a region on at most `threads` workers (0: the default). Returns SIRIUS_OK, or another code and a message. */
int32_t sirius_call(const SiriusBundle *bundle, const SiriusRegionInfo *region, const SiriusTensor *in,
                    int32_t n_in, const SiriusCaller *caller, int32_t threads, char *error, size_t error_bytes);

/* 1 if the checks hold that a call makes before it runs. */
int32_t sirius_accepts(const SiriusBundle *bundle, const SiriusRegionInfo *region, const SiriusTensor *in, int32_t n_in);

#endif
