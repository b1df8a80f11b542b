/* SPDX-License-Identifier: Apache-2.0
 *
 * A call is two copies and a launch on a stream. What it needs on the device is one piece of memory,
 *
 *     inputs | control | outputs | workspace
 *
 * of which all but the workspace has a twin in page-locked memory of the host: what is in front of the outputs
 * is copied there, what is behind the inputs comes back.
 */
#define _GNU_SOURCE
#include "cuda.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_api.h"
#include "team.h"

#define ALIGN 256 /* of arrays, as cuMemAlloc aligns */

/* SiriusSync and SiriusFailure of sirius_cuda.cuh, zero at first, and the parameters: the kernel overwrites
 * those that data decides. */
typedef struct {
  struct { uint32_t arrived, generation; } sync;
  struct { int32_t failed, format; int64_t args[2]; } failure;
  int64_t decided[];
} Control;

static const char *const formats[] = {"index %lld is not in [0, %lld)", "integer division by zero"};

/* A region's kernel on the device. Loaded once, and kept: bundles are never closed. */
typedef struct Kernel {
  struct Kernel *next;
  const SiriusCuda *code;
  SiriusProblem problem; /* why it cannot be used */
  CUmodule module;
  CUfunction function;
  CUdeviceptr weights;
  int32_t blocks;
} Kernel;

/* What a call has to itself. */
typedef struct Frame {
  struct Frame *next;
  CUstream stream;
  CUdeviceptr device;
  size_t device_bytes;
  char *host;
  size_t host_bytes;
} Frame;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* of the lists */
static Kernel *kernels;
static Frame *idle; /* as many as calls ever ran at once */
static int64_t copied_to, copied_from, launches;
static int32_t held; /* how many hold calls on the CPU */

static void lock(void) { pthread_mutex_lock(&mutex); }
static void unlock(void) { pthread_mutex_unlock(&mutex); }

__attribute__((constructor)) static void watch_forks(void) { __register_atfork(lock, unlock, unlock, NULL); }

static void count(int64_t *counter, int64_t n) { __atomic_add_fetch(counter, n, __ATOMIC_RELAXED); }

void sirius_cuda_counters(int64_t counters[3]) {
  counters[0] = __atomic_load_n(&copied_to, __ATOMIC_RELAXED);
  counters[1] = __atomic_load_n(&copied_from, __ATOMIC_RELAXED);
  counters[2] = __atomic_load_n(&launches, __ATOMIC_RELAXED);
}

void sirius_cuda_hold(int32_t change) { __atomic_add_fetch(&held, change, __ATOMIC_RELAXED); }

/* Calls the driver; what fails is noted, and the function returns 1. */
#define TRY(name, ...)                                                                                      \
  do {                                                                                                      \
    const CUresult result = d->cu.name(__VA_ARGS__);                                                        \
    if (result != CUDA_SUCCESS) {                                                                           \
      sirius_driver_problem(&d->cu, #name, result, problem);                                                \
      return 1;                                                                                             \
    }                                                                                                       \
  } while (0)

/* ---- kernels */

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

static int load(const SiriusDevice *d, const SiriusBundle *bundle, Kernel *kernel, SiriusProblem *problem) {
  const SiriusCuda *code = kernel->code;
  const SiriusCubin *cubin = find_cubin(d, code);
  if (!cubin) {
    problem->code = SIRIUS_INTERNAL;
    snprintf(problem->text, sizeof problem->text,
             "the bundle has no code for compute capability %d.%d: convert the model with --arch=sm_%d%d", d->major,
             d->minor, d->major, d->minor);
    return 1;
  }
  TRY(cuModuleLoadData, &kernel->module, cubin->code);
  TRY(cuModuleGetFunction, &kernel->function, kernel->module, code->kernel);
  if (code->shared_bytes)
    TRY(cuFuncSetAttribute, kernel->function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, code->shared_bytes);
  int resident = 0; /* blocks that wait for each other must run at once */
  TRY(cuOccupancyMaxActiveBlocksPerMultiprocessor, &resident, kernel->function, code->threads_per_block,
      (size_t)code->shared_bytes);
  resident *= d->multiprocessors;
  kernel->blocks = resident < cubin->blocks ? resident : cubin->blocks;
  if (kernel->blocks == 0) {
    problem->code = SIRIUS_INTERNAL;
    snprintf(problem->text, sizeof problem->text, "%s needs more than a multiprocessor has", code->kernel);
    return 1;
  }
  TRY(cuMemAlloc_v2, &kernel->weights, (size_t)code->weights_bytes + ALIGN); /* there may be none */
  if (code->weights_bytes)
    TRY(cuMemcpyHtoD_v2, kernel->weights, bundle->weights + code->weights_offset, (size_t)code->weights_bytes);
  count(&copied_to, code->weights_bytes);
  return 0;
}

/* The region's kernel, or NULL with a problem. A thread that finds it being loaded waits. */
static const Kernel *find_kernel(const SiriusDevice *d, const SiriusRequest *r, SiriusProblem *problem) {
  const SiriusCuda *code = r->region->cuda;
  lock();
  Kernel *kernel = kernels;
  while (kernel && kernel->code != code) kernel = kernel->next;
  if (!kernel && (kernel = calloc(1, sizeof *kernel))) {
    kernel->code = code;
    if (load(d, r->bundle, kernel, &kernel->problem)) {
      if (kernel->weights) d->cu.cuMemFree_v2(kernel->weights);
      if (kernel->module) d->cu.cuModuleUnload(kernel->module);
    }
    kernel->next = kernels;
    kernels = kernel;
  }
  unlock();
  if (!kernel) {
    problem->code = SIRIUS_EXHAUSTED;
    snprintf(problem->text, sizeof problem->text, "the host is out of memory");
    return NULL;
  }
  if (kernel->problem.code == SIRIUS_OK) return kernel;
  *problem = kernel->problem;
  return NULL;
}

/* ---- frames */

static void destroy_frame(const SiriusDevice *d, Frame *frame) {
  if (frame->stream) d->cu.cuStreamDestroy_v2(frame->stream);
  if (frame->device) d->cu.cuMemFree_v2(frame->device);
  if (frame->host) d->cu.cuMemFreeHost(frame->host);
  free(frame);
}

static Frame *take_frame(void) {
  lock();
  Frame *frame = idle;
  if (frame) idle = frame->next;
  unlock();
  return frame ? frame : calloc(1, sizeof *frame);
}

static void give_frame(Frame *frame) {
  lock();
  frame->next = idle;
  idle = frame;
  unlock();
}

/* Gives back the memory that no call is using. */
static void drop_idle(const SiriusDevice *d) {
  lock();
  Frame *frame = idle;
  idle = NULL;
  unlock();
  while (frame) {
    Frame *next = frame->next;
    destroy_frame(d, frame);
    frame = next;
  }
}

static int grow_frame(const SiriusDevice *d, Frame *frame, size_t device_bytes, size_t host_bytes,
                      SiriusProblem *problem) {
  if (!frame->stream) TRY(cuStreamCreate, &frame->stream, CU_STREAM_NON_BLOCKING);
  if (frame->device_bytes < device_bytes) {
    if (frame->device) TRY(cuMemFree_v2, frame->device);
    frame->device = frame->device_bytes = 0;
    TRY(cuMemAlloc_v2, &frame->device, device_bytes);
    frame->device_bytes = device_bytes;
  }
  if (frame->host_bytes < host_bytes) {
    if (frame->host) TRY(cuMemFreeHost, frame->host);
    frame->host = NULL;
    frame->host_bytes = 0;
    TRY(cuMemAllocHost_v2, (void **)&frame->host, host_bytes);
    frame->host_bytes = host_bytes;
  }
  return 0;
}

static int make_room(const SiriusDevice *d, Frame *frame, size_t device_bytes, size_t host_bytes,
                     SiriusProblem *problem) {
  if (!grow_frame(d, frame, device_bytes, host_bytes, problem)) return 0;
  if (problem->code != SIRIUS_EXHAUSTED) return 1;
  drop_idle(d);
  return grow_frame(d, frame, device_bytes, host_bytes, problem);
}

/* ---- calls */

/* Where things are in a frame, in bytes from its start. */
typedef struct {
  size_t control, outputs, workspace, end;
} Layout;

static size_t place(size_t *end, size_t bytes) {
  const size_t start = *end;
  *end += (bytes + ALIGN - 1) / ALIGN * ALIGN;
  return start;
}

/* Fills in where each array is, inputs first. */
static Layout lay_out(const SiriusRequest *r, size_t workspace_bytes, uint64_t *arrays) {
  const SiriusRegionInfo *region = r->region;
  Layout layout = {0};
  for (int32_t i = 0; i < region->n_in; ++i)
    *arrays++ = place(&layout.end, sirius_array_bytes(r->in[i].dtype, r->in[i].dims, r->in[i].rank));
  layout.control = place(&layout.end, sizeof(Control) + (size_t)region->n_params * sizeof(int64_t));
  layout.outputs = layout.end;
  for (int32_t i = 0; i < region->n_out; ++i) *arrays++ = place(&layout.end, sirius_output_bytes(r, i));
  layout.workspace = place(&layout.end, workspace_bytes);
  return layout;
}

static int launch(const SiriusDevice *d, const Kernel *kernel, const SiriusRequest *r, const Frame *frame,
                  const Layout *layout, const uint64_t *arrays, SiriusProblem *problem) {
  const SiriusRegionInfo *region = r->region;
  const int32_t n_arrays = region->n_in + region->n_out, n = n_arrays + region->n_params + 5;
  uint64_t values[n]; /* pointers and int64 alike */
  void *arguments[n];
  uint64_t *next = values;
  for (int32_t i = 0; i < n_arrays; ++i) *next++ = frame->device + arrays[i];
  for (int32_t i = 0; i < region->n_params; ++i) *next++ = (uint64_t)r->params[i];
  *next++ = frame->device + layout->workspace;
  *next++ = kernel->weights;
  *next++ = frame->device + layout->control + offsetof(Control, decided);
  *next++ = frame->device + layout->control + offsetof(Control, sync);
  *next++ = frame->device + layout->control + offsetof(Control, failure);
  for (int32_t i = 0; i < n; ++i) arguments[i] = &values[i];
  const SiriusCuda *code = kernel->code;
  TRY(cuMemcpyHtoDAsync_v2, frame->device, frame->host, layout->outputs, frame->stream);
  count(&copied_to, (int64_t)layout->outputs);
  TRY(cuLaunchCooperativeKernel, kernel->function, (unsigned)kernel->blocks, 1, 1, (unsigned)code->threads_per_block,
      1, 1, (unsigned)code->shared_bytes, frame->stream, arguments);
  count(&launches, 1);
  TRY(cuMemcpyDtoHAsync_v2, frame->host + layout->control, frame->device + layout->control,
      layout->workspace - layout->control, frame->stream);
  count(&copied_from, (int64_t)(layout->workspace - layout->control));
  TRY(cuStreamSynchronize, frame->stream);
  return 0;
}

/* What the run has left in the host's part of its frame becomes outputs, or an error. */
static int32_t hand_over(const SiriusRequest *r, const Frame *frame, const Layout *layout, const uint64_t *outputs) {
  const SiriusRegionInfo *region = r->region;
  const Control *control = (const Control *)(frame->host + layout->control);
  if (control->failure.failed) {
    const SiriusError failure = {formats[control->failure.format], {control->failure.args[0], control->failure.args[1]}};
    return sirius_report(r, &failure, NULL);
  }
  if (region->shapes) {
    memcpy(r->params, control->decided, (size_t)region->n_params * sizeof *r->params);
    region->cuda->shapes(r->params, r->dims);
  }
  for (int32_t i = 0; i < region->n_out; ++i) {
    void *data = NULL;
    const int32_t code = sirius_allocate_output(r, i, &data);
    if (code != SIRIUS_OK) return code;
    const size_t bytes = sirius_output_bytes(r, i);
    if (bytes) memcpy(data, frame->host + outputs[i], bytes);
  }
  return SIRIUS_OK;
}

/* In the device's context. SIRIUS_ELSEWHERE if the device has no memory for the call. */
static int32_t run(const SiriusDevice *d, const Kernel *kernel, const SiriusRequest *r, SiriusProblem *problem) {
  const SiriusRegionInfo *region = r->region;
  SiriusError unfit = {0};
  int64_t workspace_bytes = 0, work = 0;
  if (region->cuda->plan(r->in, kernel->blocks, r->params, r->dims, &workspace_bytes, &work, &unfit))
    return sirius_report(r, &unfit, "inputs do not fit the region");
  const int32_t code = sirius_check_sizes(r);
  if (code != SIRIUS_OK) return code;
  uint64_t arrays[region->n_in + region->n_out + 1];
  const Layout layout = lay_out(r, (size_t)workspace_bytes, arrays);
  Frame *frame = take_frame();
  if (!frame) {
    snprintf(r->error, r->error_bytes, "out of memory");
    return SIRIUS_EXHAUSTED;
  }
  /* + ALIGN: no workspace is a place, too */
  if (make_room(d, frame, layout.end + ALIGN, layout.workspace, problem)) {
    destroy_frame(d, frame);
    return SIRIUS_ELSEWHERE;
  }
  for (int32_t i = 0; i < region->n_in; ++i) {
    const size_t bytes = sirius_array_bytes(r->in[i].dtype, r->in[i].dims, r->in[i].rank);
    if (bytes) memcpy(frame->host + arrays[i], r->in[i].data, bytes);
  }
  Control *control = (Control *)(frame->host + layout.control);
  memset(control, 0, sizeof *control);
  memcpy(control->decided, r->params, (size_t)region->n_params * sizeof *r->params);
  SiriusProblem failure = {0};
  if (launch(d, kernel, r, frame, &layout, arrays, &failure)) {
    snprintf(r->error, r->error_bytes, "region %s: %s", region->name, failure.text);
    destroy_frame(d, frame);
    return failure.code;
  }
  const int32_t result = hand_over(r, frame, &layout, arrays + region->n_in);
  give_frame(frame);
  return result;
}

/* ---- the choice of a device */

enum Wanted { EITHER, CPU, GPU, UNKNOWN };

static enum Wanted wanted(void) {
  static int32_t cached; /* 0: not known yet; else the choice + 1 */
  int32_t choice = __atomic_load_n(&cached, __ATOMIC_RELAXED) - 1;
  if (choice < 0) {
    const char *name = getenv("SIRIUS_DEVICE");
    choice = !name || !*name ? EITHER : !strcmp(name, "cpu") ? CPU : !strcmp(name, "cuda") ? GPU : UNKNOWN;
    __atomic_store_n(&cached, choice + 1, __ATOMIC_RELAXED);
  }
  return (enum Wanted)choice;
}

static int32_t try_device(const SiriusRequest *r, SiriusProblem *problem) {
  if (*r->region->cuda->stamp == SIRIUS_STAMP_OFF) {
    snprintf(problem->text, sizeof problem->text, "a check on a GPU found its CUDA code wrong or slower");
    return SIRIUS_ELSEWHERE;
  }
  const SiriusDevice *d = sirius_device(problem);
  if (!d) return SIRIUS_ELSEWHERE;
  const CUresult pushed = d->cu.cuCtxPushCurrent_v2(d->context);
  if (pushed != CUDA_SUCCESS) {
    sirius_driver_problem(&d->cu, "cuCtxPushCurrent", pushed, problem);
    return SIRIUS_ELSEWHERE;
  }
  const Kernel *kernel = find_kernel(d, r, problem);
  const int32_t result = kernel ? run(d, kernel, r, problem) : SIRIUS_ELSEWHERE;
  CUcontext own;
  d->cu.cuCtxPopCurrent_v2(&own);
  return result;
}

int32_t sirius_cuda_call(const SiriusRequest *r) {
  const enum Wanted device = wanted();
  if (device == UNKNOWN) {
    snprintf(r->error, r->error_bytes, "SIRIUS_DEVICE must be cpu, cuda or nothing, got %s", getenv("SIRIUS_DEVICE"));
    return SIRIUS_INTERNAL;
  }
  const int on_cpu = device == CPU || __atomic_load_n(&held, __ATOMIC_RELAXED);
  if (on_cpu || (device == EITHER && !r->region->cuda)) return SIRIUS_ELSEWHERE;
  SiriusProblem problem = {.code = SIRIUS_INTERNAL, .text = "the bundle has no CUDA code: convert with --target=cuda"};
  const int32_t result = r->region->cuda ? try_device(r, &problem) : SIRIUS_ELSEWHERE;
  if (result != SIRIUS_ELSEWHERE) return result;
  if (device == GPU) {
    snprintf(r->error, r->error_bytes, "SIRIUS_DEVICE is cuda, but region %s cannot run there: %s", r->region->name,
             problem.text);
    return problem.code;
  }
  static int32_t told;
  if (!problem.expected && !__atomic_exchange_n(&told, 1, __ATOMIC_RELAXED))
    fprintf(stderr, "sirius_tf: region %s runs on the CPU: %s\n", r->region->name, problem.text);
  return SIRIUS_ELSEWHERE;
}
