/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels of regions on the device.
 */
#ifndef SIRIUS_CUDA_KERNELS_H
#define SIRIUS_CUDA_KERNELS_H
#include "cuda_api.h"
#include "request.h"

#define SIRIUS_CUDA_ALIGN 256 /* of arrays in bytes, as cuMemAlloc aligns */

/* Those of one region. Loaded once, and kept while the bundle is open. */
typedef struct SiriusKernels {
  struct SiriusKernels *next;
  uint64_t number; /* that no others in this process have */
  const SiriusCuda *code;
  SiriusProblem problem; /* why they cannot be used */
  CUmodule module;
  CUdeviceptr weights;
  int32_t blocks; /* the most of a launch */
  CUfunction functions[];
} SiriusKernels;

/* The kernels of the region, or NULL with a problem; in the device's context. A thread that finds them being
 * loaded waits. What lacks memory is tried again by the next call. */
const SiriusKernels *sirius_cuda_kernels(const SiriusDevice *device, const SiriusRequest *request,
                                         SiriusProblem *problem);

/* Gives back what the regions of a bundle have on the device; no call of them is under way, or will be. */
void sirius_cuda_forget(const SiriusBundle *bundle);

#endif
