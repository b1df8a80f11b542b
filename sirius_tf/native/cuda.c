/* SPDX-License-Identifier: Apache-2.0
 *
 * A call is a copy, kernels and a copy on a stream, which a graph repeats. What it needs on the device is one piece of memory,
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
#include "cuda_graph.h"
#include "cuda_kernels.h"
#include "team.h"

#define ALIGN SIRIUS_CUDA_ALIGN

/* SiriusSync and SiriusFailure of sirius_cuda.cuh, zero at first, and the parameters: the kernel overwrites
 * those that data decides. */
typedef struct {
  struct { uint32_t arrived, generation; } sync;
  struct { int32_t failed, format; int64_t args[2]; } failure;
  int64_t decided[];
} Control;

static const char *const formats[] = {"index %lld is not in [0, %lld)", "integer division by zero"};

/* What a call has to itself. */
typedef struct Frame {
  struct Frame *next;
  CUstream stream;
  CUdeviceptr device;
  size_t device_bytes;
  char *host;
  size_t host_bytes;
  SiriusGraph *graphs; /* of calls in this memory */
} Frame;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* of the list */
static Frame *idle; /* as many as calls ever ran at once */
static int32_t held; /* how many hold calls on the CPU */

static void lock(void) { pthread_mutex_lock(&mutex); }
static void unlock(void) { pthread_mutex_unlock(&mutex); }

__attribute__((constructor)) static void watch_forks(void) { __register_atfork(lock, unlock, unlock, NULL); }

void sirius_cuda_hold(int32_t change) { __atomic_add_fetch(&held, change, __ATOMIC_RELAXED); }

/* ---- frames */

static void destroy_frame(const SiriusDevice *d, Frame *frame) {
  sirius_graphs_drop(d, &frame->graphs);
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
  if (frame->device_bytes < device_bytes || frame->host_bytes < host_bytes) sirius_graphs_drop(d, &frame->graphs);
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
    *arrays++ = place(&layout.end, (size_t)sirius_array_bytes(r->in[i].dtype, r->in[i].dims, r->in[i].rank));
  layout.control = place(&layout.end, sizeof(Control) + (size_t)region->n_params * sizeof(int64_t));
  layout.outputs = layout.end;
  for (int32_t i = 0; i < region->n_out; ++i) *arrays++ = place(&layout.end, sirius_output_bytes(r, i));
  layout.workspace = place(&layout.end, workspace_bytes);
  return layout;
}

/* What a call puts on its stream. */
typedef struct {
  const SiriusKernels *kernels;
  const Frame *frame;
  const Layout *layout;
  const int32_t *grids;
  void **arguments;
} Launch;

static int enqueue(const SiriusDevice *d, const void *context, CUstream stream, SiriusProblem *problem) {
  const Launch *l = context;
  const SiriusCuda *code = l->kernels->code;
  const unsigned threads = (unsigned)code->threads_per_block, shared = (unsigned)code->shared_bytes;
  TRY(cuMemcpyHtoDAsync_v2, l->frame->device, l->frame->host, l->layout->outputs, stream);
  for (int32_t k = 0; k < code->n_kernels; ++k) {
    const CUfunction function = l->kernels->functions[k];
    const unsigned grid = (unsigned)l->grids[k];
    if (code->cooperative)
      TRY(cuLaunchCooperativeKernel, function, grid, 1, 1, threads, 1, 1, shared, stream, l->arguments);
    else
      TRY(cuLaunchKernel, function, grid, 1, 1, threads, 1, 1, shared, stream, l->arguments, NULL);
  }
  TRY(cuMemcpyDtoHAsync_v2, l->frame->host + l->layout->control, l->frame->device + l->layout->control,
      l->layout->workspace - l->layout->control, stream);
  return 0;
}

static int launch(const SiriusDevice *d, const SiriusKernels *kernels, const SiriusRequest *r, Frame *frame,
                  const Layout *layout, const uint64_t *arrays, SiriusProblem *problem) {
  const SiriusRegionInfo *region = r->region;
  const SiriusCuda *code = kernels->code;
  const int32_t n_arrays = region->n_in + region->n_out, n = n_arrays + region->n_params + code->n_slots + 4;
  uint64_t values[n + 2]; /* pointers and int64 alike; behind the arguments, what else the work follows from */
  void *arguments[n];
  int32_t grids[code->n_kernels];
  int64_t bytes[code->n_slots + 1]; /* there may be none */
  uint64_t *next = values;
  for (int32_t i = 0; i < n_arrays; ++i) *next++ = frame->device + arrays[i];
  for (int32_t i = 0; i < region->n_params; ++i) *next++ = (uint64_t)r->params[i];
  code->geometry(r->params, kernels->blocks, grids, bytes);
  CUdeviceptr slot = frame->device + layout->workspace;
  for (int32_t i = 0; i < code->n_slots; slot += (CUdeviceptr)bytes[i++]) *next++ = slot;
  *next++ = kernels->weights;
  *next++ = frame->device + layout->control + offsetof(Control, decided);
  *next++ = frame->device + layout->control + offsetof(Control, sync);
  *next++ = frame->device + layout->control + offsetof(Control, failure);
  *next++ = kernels->number;
  *next = layout->workspace;
  for (int32_t i = 0; i < n; ++i) arguments[i] = &values[i];
  const Launch l = {kernels, frame, layout, grids, arguments};
  const int failed = code->cooperative ? enqueue(d, &l, frame->stream, problem)
                                       : sirius_graph_launch(d, &frame->graphs, values, (size_t)n + 2, enqueue, &l,
                                                             frame->stream, problem);
  if (failed) return 1;
  TRY(cuStreamSynchronize, frame->stream);
  sirius_cuda_count(SIRIUS_TO_DEVICE, (int64_t)layout->outputs);
  sirius_cuda_count(SIRIUS_FROM_DEVICE, (int64_t)(layout->workspace - layout->control));
  sirius_cuda_count(SIRIUS_LAUNCHES, 1);
  return 0;
}

/* What the run has left in the host's part of its frame becomes outputs, or an error. */
static int32_t hand_over(const SiriusRequest *r, const Frame *frame, const Layout *layout, const uint64_t *outputs) {
  const SiriusRegionInfo *region = r->region;
  const Control *control = (const Control *)(frame->host + layout->control);
  if (control->failure.failed) {
    const int32_t format = control->failure.format, message = format - (int32_t)(sizeof formats / sizeof *formats);
    SiriusError failure = {NULL, {message}};
    if (message < 0) failure = (SiriusError){formats[format], {control->failure.args[0], control->failure.args[1]}};
    return sirius_report(r, &failure);
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
static int32_t run(const SiriusDevice *d, const SiriusKernels *kernels, const SiriusRequest *r, SiriusProblem *problem) {
  const SiriusRegionInfo *region = r->region;
  SiriusError unfit = {0};
  int64_t workspace_bytes[2] = {0}, work = 0;
  if (region->cuda->plan(r->in, kernels->blocks, r->params, r->dims, workspace_bytes, &work, &unfit))
    return sirius_report(r, &unfit);
  int32_t code = sirius_check_sizes(r);
  if (code == SIRIUS_OK) code = sirius_check_workspace(r, workspace_bytes[0]);
  if (code != SIRIUS_OK) return code;
  uint64_t arrays[region->n_in + region->n_out + 1];
  const Layout layout = lay_out(r, (size_t)workspace_bytes[0], arrays);
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
    const size_t bytes = (size_t)sirius_array_bytes(r->in[i].dtype, r->in[i].dims, r->in[i].rank);
    if (bytes) memcpy(frame->host + arrays[i], r->in[i].data, bytes);
  }
  Control *control = (Control *)(frame->host + layout.control);
  memset(control, 0, sizeof *control);
  memcpy(control->decided, r->params, (size_t)region->n_params * sizeof *r->params);
  SiriusProblem failure = {0};
  if (launch(d, kernels, r, frame, &layout, arrays, &failure)) {
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
  const SiriusKernels *kernels = sirius_cuda_kernels(d, r, problem);
  if (!kernels && problem->code == SIRIUS_EXHAUSTED) {
    drop_idle(d);
    kernels = sirius_cuda_kernels(d, r, problem);
  }
  const int32_t result = kernels ? run(d, kernels, r, problem) : SIRIUS_ELSEWHERE;
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
