/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of the CUDA driver API (libcuda.so.1) that regions are launched with, declared here so that CUDA's
 * headers are not needed to build, and device 0, opened at run time: the library runs without a driver, too.
 * Types and numbers are those of cuda.h ("CUDA Driver API", NVIDIA).
 */
#ifndef SIRIUS_CUDA_API_H
#define SIRIUS_CUDA_API_H
#include <stddef.h>
#include <stdint.h>

typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;
typedef unsigned long long CUdeviceptr;
typedef int CUresult; /* an enum there, as are attributes */
typedef int CUdevice;

enum { CUDA_SUCCESS = 0, CUDA_ERROR_OUT_OF_MEMORY = 2, CUDA_ERROR_NO_DEVICE = 100 };
enum {
  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
  CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH = 95
};
enum { CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8 };
enum { CU_STREAM_NON_BLOCKING = 1 };
enum { CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1 };

/* X(name, parameters) */
#define SIRIUS_CUDA_API(X)                                                                                  \
  X(cuInit, (unsigned flags))                                                                               \
  X(cuGetErrorString, (CUresult error, const char **text))                                                  \
  X(cuDeviceGetCount, (int *count))                                                                         \
  X(cuDeviceGet, (CUdevice *device, int ordinal))                                                           \
  X(cuDeviceGetAttribute, (int *value, int attribute, CUdevice device))                                     \
  X(cuDevicePrimaryCtxRetain, (CUcontext *context, CUdevice device))                                        \
  X(cuCtxPushCurrent_v2, (CUcontext context))                                                               \
  X(cuCtxPopCurrent_v2, (CUcontext *context))                                                               \
  X(cuModuleLoadData, (CUmodule *module, const void *image))                                                \
  X(cuModuleUnload, (CUmodule module))                                                                      \
  X(cuModuleGetFunction, (CUfunction *function, CUmodule module, const char *name))                         \
  X(cuFuncSetAttribute, (CUfunction function, int attribute, int value))                                    \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor, (int *blocks, CUfunction function, int threads, size_t shared)) \
  X(cuMemAlloc_v2, (CUdeviceptr *memory, size_t bytes))                                                     \
  X(cuMemFree_v2, (CUdeviceptr memory))                                                                     \
  X(cuMemAllocHost_v2, (void **memory, size_t bytes))                                                       \
  X(cuMemFreeHost, (void *memory))                                                                          \
  X(cuMemcpyHtoD_v2, (CUdeviceptr to, const void *from, size_t bytes))                                      \
  X(cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))                \
  X(cuMemcpyDtoHAsync_v2, (void *to, CUdeviceptr from, size_t bytes, CUstream stream))                      \
  X(cuStreamCreate, (CUstream *stream, unsigned flags))                                                     \
  X(cuStreamSynchronize, (CUstream stream))                                                                 \
  X(cuStreamDestroy_v2, (CUstream stream))                                                                  \
  X(cuStreamBeginCapture_v2, (CUstream stream, int mode))                                                   \
  X(cuStreamEndCapture, (CUstream stream, CUgraph *graph))                                                  \
  X(cuGraphInstantiateWithFlags, (CUgraphExec *exec, CUgraph graph, unsigned long long flags))              \
  X(cuGraphDestroy, (CUgraph graph))                                                                        \
  X(cuGraphLaunch, (CUgraphExec exec, CUstream stream))                                                     \
  X(cuGraphExecDestroy, (CUgraphExec exec))                                                                 \
  X(cuLaunchKernel,                                                                                         \
    (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,              \
     unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **arguments, void **extra)) \
  X(cuLaunchCooperativeKernel,                                                                              \
    (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,              \
     unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **arguments))

#define SIRIUS_CUDA_MEMBER(name, parameters) CUresult(*name) parameters;
typedef struct {
  SIRIUS_CUDA_API(SIRIUS_CUDA_MEMBER)
} SiriusCudaApi;
#undef SIRIUS_CUDA_MEMBER

/* What keeps a region from the GPU: a clause such as "there is no CUDA device". */
typedef struct {
  char text[256];
  int32_t code;     /* SIRIUS_EXHAUSTED or SIRIUS_INTERNAL; SIRIUS_OK is no problem */
  int32_t expected; /* 1 where nobody would expect a GPU to be used: not worth a word */
} SiriusProblem;

/* Device 0 with its primary context, which is retained for good. */
typedef struct {
  SiriusCudaApi cu;
  CUcontext context;
  int32_t major, minor, multiprocessors;
} SiriusDevice;

/* The device, opened by the first call of the process; NULL with a problem if it cannot be used. */
const SiriusDevice *sirius_device(SiriusProblem *problem);

/* Notes that a function of the driver failed. */
void sirius_driver_problem(const SiriusCudaApi *cu, const char *function, CUresult result, SiriusProblem *problem);

/* Calls the driver, with `d` the device: what fails is noted in `problem`, and the function returns 1. */
#define TRY(name, ...)                                                                                      \
  do {                                                                                                      \
    const CUresult result = d->cu.name(__VA_ARGS__);                                                        \
    if (result != CUDA_SUCCESS) {                                                                           \
      sirius_driver_problem(&d->cu, #name, result, problem);                                                \
      return 1;                                                                                             \
    }                                                                                                       \
  } while (0)

/* What calls of this process did: bytes copied to the device, weights included; bytes copied back; calls that
 * ran there; those of them that replayed a graph. */
enum { SIRIUS_TO_DEVICE, SIRIUS_FROM_DEVICE, SIRIUS_LAUNCHES, SIRIUS_REPLAYS, SIRIUS_COUNTERS };

void sirius_cuda_count(int counter, int64_t n);

#endif
