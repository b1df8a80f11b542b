/* SPDX-License-Identifier: Apache-2.0
 *
 * What the environment says.
 */
#ifndef SIRIUS_ENVIRONMENT_H
#define SIRIUS_ENVIRONMENT_H
#include <stdint.h>

/* SIRIUS_THREADS, or the CPUs on which the calling thread may run, as far as quotas of control groups leave them. */
int32_t sirius_default_threads(void);

/* CPUs that quotas leave to a process, as its /proc/self/cgroup has its groups, in the folder where these are mounted. */
int32_t sirius_cpu_quota(const char *membership, const char *root);

/* 1 if the team may call sched_setaffinity for its workers: not with SIRIUS_MOVE=0. */
int32_t sirius_may_move(void);

/* Nanoseconds that a call may take, by SIRIUS_CALL_LIMIT_MS, or 0. */
int64_t sirius_call_limit(void);

#endif
