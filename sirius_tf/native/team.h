/* SPDX-License-Identifier: Apache-2.0
 *
 * One persistent team of threads per process.
 */
#ifndef SIRIUS_TEAM_H
#define SIRIUS_TEAM_H
#include "sirius_abi.h"

#define SIRIUS_MAX_THREADS 256

/* Take the team for one call. Returns how many workers may run, at most `threads`; 1 means that the
 * team was not taken (busy, or no thread could be started) and must not be released. */
int32_t sirius_team_acquire(int32_t threads);

/* Run job(argument, worker) for worker = 0 .. threads-1 and return when all have returned; the caller is
 * worker 0. `threads` is at most what the caller acquired. */
void sirius_team_run(int32_t threads, void (*job)(void *argument, int32_t worker), void *argument);

void sirius_team_release(void);

/* From now on every call has so many workers, however little work, if nobody else has the team (0: no more). For tests. */
void sirius_fix_workers(int32_t workers);
int32_t sirius_fixed_workers(void);

/* The callbacks of SiriusCall. */
void sirius_wait(SiriusCall *call, int32_t *word, int32_t old);
void sirius_wake(int32_t *word);

/* Nanoseconds of a clock. */
int64_t sirius_now(void);

/* 1 if a call would be faster with one worker, as far as this one can tell: other processes have CPUs that workers need, and
 * at every barrier some wait for those. */
int32_t sirius_is_crowded(const SiriusCall *call);

/* What pthread_atfork is made of. That one is not in glibc's shared objects of all versions. */
extern int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *object);

/* Denormals as zero in this thread, as TensorFlow's kernels have it. Returns the former state. */
uint32_t sirius_flush_denormals(void);
void sirius_restore_denormals(uint32_t state);

#endif
