/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs regions on a GPU, where the bundle has code for it. SIRIUS_DEVICE in the environment is "cpu" or "cuda";
 * without it, a call takes the GPU if it can, else the CPU.
 */
#ifndef SIRIUS_CUDA_H
#define SIRIUS_CUDA_H
#include "request.h"

#define SIRIUS_ELSEWHERE (-1) /* the CPU shall run the region */

/* Runs a region on the GPU. SIRIUS_OK, SIRIUS_ELSEWHERE, or another code and a message. Several threads may
 * call it at once: each call has a stream and memory of its own. */
int32_t sirius_cuda_call(const SiriusRequest *request);

/* What calls of this process did: SIRIUS_COUNTERS numbers (cuda_api.h). */
void sirius_cuda_counters(int64_t *counters);

/* With 1, until it is called with -1, the CPU runs all regions of the process. */
void sirius_cuda_hold(int32_t change);

#endif
