/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "cuda_kernels.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "team.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static SiriusKernels *loaded;

static void lock(void) { pthread_mutex_lock(&mutex); }
static void unlock(void) { pthread_mutex_unlock(&mutex); }

/* Before open.c does, which takes this mutex while it holds its own: what is registered first is locked last. */
__attribute__((constructor(101))) static void watch_forks(void) { __register_atfork(lock, unlock, unlock, NULL); }

/* The machine code for the device: of its architecture, or of the last one before it of the same major number. */
static const SiriusCubin *find_cubin(const SiriusDevice *d, const SiriusCuda *code) {
  const SiriusCubin *best = NULL;
  long best_arch = 0;
  for (int32_t i = 0; i < code->n_cubins; ++i) {
    char *end;
    const long arch = strtol(code->cubins[i].arch + strlen("sm_"), &end, 10);
    const int exact = *end == 'a'; /* sm_90a: for 9.0 alone */
    const long device = 10 * d->major + d->minor;
    if (arch / 10 != d->major || arch > device || (exact && arch != device) || arch < best_arch) continue;
    best = &code->cubins[i];
    best_arch = arch;
  }
  return best;
}

/* How many blocks run at once: of every kernel if they are cooperative, else of one of which most do; 0 if one
 * of them cannot run at all. */
static int count_resident(const SiriusDevice *d, const SiriusKernels *kernels, int *blocks, SiriusProblem *problem) {
  const SiriusCuda *code = kernels->code;
  int least = 0, most = 0;
  for (int32_t k = 0; k < code->n_kernels; ++k) {
    int each = 0; /* of a multiprocessor */
    TRY(cuOccupancyMaxActiveBlocksPerMultiprocessor, &each, kernels->functions[k], code->threads_per_block,
        (size_t)code->shared_bytes);
    least = k == 0 || each < least ? each : least;
    most = each > most ? each : most;
  }
  *blocks = (code->cooperative || !least ? least : most) * d->multiprocessors;
  return 0;
}

static int load(const SiriusDevice *d, const SiriusBundle *bundle, SiriusKernels *kernels, SiriusProblem *problem) {
  const SiriusCuda *code = kernels->code;
  const SiriusCubin *cubin = find_cubin(d, code);
  if (!cubin) {
    problem->code = SIRIUS_INTERNAL;
    snprintf(problem->text, sizeof problem->text,
             "the bundle has no code for compute capability %d.%d: convert the model with --arch=sm_%d%d", d->major,
             d->minor, d->major, d->minor);
    return 1;
  }
  TRY(cuModuleLoadData, &kernels->module, cubin->code);
  for (int32_t k = 0; k < code->n_kernels; ++k) {
    TRY(cuModuleGetFunction, &kernels->functions[k], kernels->module, code->kernels[k]);
    if (code->shared_bytes)
      TRY(cuFuncSetAttribute, kernels->functions[k], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
          code->shared_bytes);
  }
  int resident = 0;
  if (count_resident(d, kernels, &resident, problem)) return 1;
  kernels->blocks = resident < cubin->blocks ? resident : cubin->blocks;
  if (kernels->blocks == 0) {
    problem->code = SIRIUS_INTERNAL;
    snprintf(problem->text, sizeof problem->text, "%s needs more than a multiprocessor has", code->name);
    return 1;
  }
  TRY(cuMemAlloc_v2, &kernels->weights, (size_t)code->weights_bytes + SIRIUS_CUDA_ALIGN); /* there may be none */
  if (code->weights_bytes)
    TRY(cuMemcpyHtoD_v2, kernels->weights, bundle->weights + code->weights_offset, (size_t)code->weights_bytes);
  sirius_cuda_count(SIRIUS_TO_DEVICE, code->weights_bytes);
  return 0;
}

static void unload(const SiriusDevice *d, SiriusKernels *kernels) {
  if (kernels->weights) d->cu.cuMemFree_v2(kernels->weights);
  if (kernels->module) d->cu.cuModuleUnload(kernels->module);
  kernels->weights = 0;
  kernels->module = NULL;
}

/* What is to be kept: kernels, or a problem that stays. NULL if there was no memory. */
static SiriusKernels *create(const SiriusDevice *d, const SiriusRequest *r, SiriusProblem *problem) {
  const SiriusCuda *code = r->region->cuda;
  SiriusKernels *kernels = calloc(1, sizeof *kernels + (size_t)code->n_kernels * sizeof *kernels->functions);
  if (!kernels) {
    problem->code = SIRIUS_EXHAUSTED;
    snprintf(problem->text, sizeof problem->text, "the host is out of memory");
    return NULL;
  }
  static uint64_t count; /* under the mutex */
  kernels->code = code;
  kernels->number = ++count;
  if (!load(d, r->bundle, kernels, &kernels->problem)) return kernels;
  unload(d, kernels);
  if (kernels->problem.code != SIRIUS_EXHAUSTED) return kernels;
  *problem = kernels->problem;
  free(kernels);
  return NULL;
}

const SiriusKernels *sirius_cuda_kernels(const SiriusDevice *d, const SiriusRequest *r, SiriusProblem *problem) {
  lock();
  SiriusKernels *found = loaded;
  while (found && found->code != r->region->cuda) found = found->next;
  if (!found && (found = create(d, r, problem))) {
    found->next = loaded;
    loaded = found;
  }
  unlock();
  if (!found || found->problem.code == SIRIUS_OK) return found;
  *problem = found->problem;
  return NULL;
}

void sirius_cuda_forget(const SiriusBundle *bundle) {
  SiriusKernels *found = NULL;
  lock();
  for (SiriusKernels **place = &loaded; *place;) {
    SiriusKernels *kernels = *place;
    int32_t i = 0;
    while (i < bundle->n_regions && bundle->regions[i].cuda != kernels->code) ++i;
    if (i == bundle->n_regions) {
      place = &kernels->next;
      continue;
    }
    *place = kernels->next;
    kernels->next = found;
    found = kernels;
  }
  unlock();
  if (!found) return;
  SiriusProblem problem;
  const SiriusDevice *d = sirius_device(&problem);
  const int usable = d && d->cu.cuCtxPushCurrent_v2(d->context) == CUDA_SUCCESS;
  while (found) {
    SiriusKernels *next = found->next;
    if (usable) unload(d, found);
    free(found);
    found = next;
  }
  CUcontext own;
  if (usable) d->cu.cuCtxPopCurrent_v2(&own);
}
