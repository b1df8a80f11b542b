/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

#include "cuda.h"
#include "cuda_api.h"
#include "host.h"
#include "team.h"

static struct {
  pthread_mutex_t mutex;
  int32_t tried;
  SiriusDevice device;
  SiriusProblem problem;
} opened = {.mutex = PTHREAD_MUTEX_INITIALIZER};

void sirius_driver_problem(const SiriusCudaApi *cu, const char *function, CUresult result, SiriusProblem *problem) {
  const char *text = NULL;
  cu->cuGetErrorString(result, &text);
  problem->code = result == CUDA_ERROR_OUT_OF_MEMORY ? SIRIUS_EXHAUSTED : SIRIUS_INTERNAL;
  snprintf(problem->text, sizeof problem->text, "%s failed: %s", function, text ? text : "unknown error");
}

static int64_t counters[SIRIUS_COUNTERS];

void sirius_cuda_count(int counter, int64_t n) { __atomic_add_fetch(&counters[counter], n, __ATOMIC_RELAXED); }

void sirius_cuda_counters(int64_t *result) {
  for (int k = 0; k < SIRIUS_COUNTERS; ++k) result[k] = __atomic_load_n(&counters[k], __ATOMIC_RELAXED);
}

static void give_up(SiriusProblem *problem, int32_t expected, const char *text) {
  problem->code = SIRIUS_INTERNAL;
  problem->expected = expected;
  snprintf(problem->text, sizeof problem->text, "%s", text);
}

/* 0, or 1 with a problem. */
static int resolve(SiriusCudaApi *cu, SiriusProblem *problem) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    give_up(problem, 1, "there is no CUDA driver (libcuda.so.1)");
    return 1;
  }
#define RESOLVE(name, parameters)                                                                           \
  *(void **)(&cu->name) = dlsym(library, #name);                                                            \
  if (!cu->name) {                                                                                          \
    give_up(problem, 0, "the CUDA driver is too old: it has no " #name);                                    \
    return 1;                                                                                               \
  }
  SIRIUS_CUDA_API(RESOLVE)
  return 0;
}

/* 0, or 1 with a problem. */
static int open_device(SiriusDevice *d, SiriusProblem *problem) {
  if (resolve(&d->cu, problem)) return 1;
  int count = 0, cooperative = 0;
  CUdevice device = 0;
  const CUresult result = d->cu.cuInit(0);
  if (result == CUDA_SUCCESS) TRY(cuDeviceGetCount, &count);
  if (result == CUDA_ERROR_NO_DEVICE || (result == CUDA_SUCCESS && count == 0)) {
    give_up(problem, 1, "there is no CUDA device, or CUDA_VISIBLE_DEVICES hides it");
    return 1;
  }
  if (result != CUDA_SUCCESS) {
    sirius_driver_problem(&d->cu, "cuInit", result, problem);
    return 1;
  }
  TRY(cuDeviceGet, &device, 0);
  TRY(cuDeviceGetAttribute, &d->major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
  TRY(cuDeviceGetAttribute, &d->minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
  TRY(cuDeviceGetAttribute, &d->multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
  TRY(cuDeviceGetAttribute, &cooperative, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, device);
  if (!cooperative) {
    give_up(problem, 0, "the CUDA device has no cooperative launches");
    return 1;
  }
  TRY(cuDevicePrimaryCtxRetain, &d->context, device);
  return 0;
}

const SiriusDevice *sirius_device(SiriusProblem *problem) {
  pthread_mutex_lock(&opened.mutex);
  if (!opened.tried) {
    open_device(&opened.device, &opened.problem);
    opened.tried = 1;
  }
  const int failed = opened.problem.code != SIRIUS_OK;
  if (failed) *problem = opened.problem;
  pthread_mutex_unlock(&opened.mutex);
  return failed ? NULL : &opened.device;
}

static void lock(void) { pthread_mutex_lock(&opened.mutex); }
static void unlock(void) { pthread_mutex_unlock(&opened.mutex); }

/* A context does not survive fork. */
static void unlock_in_child(void) {
  if (opened.device.context)
    give_up(&opened.problem, 0, "this process was forked from one that had used the CUDA device");
  unlock();
}

/* Before open.c does, which takes this mutex while it holds its own: what is registered first is locked last. */
__attribute__((constructor(101))) static void watch_forks(void) {
  __register_atfork(lock, unlock, unlock_in_child, NULL);
}
