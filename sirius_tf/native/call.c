/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a region on the CPU: how many workers are worth it, and the memory that they need.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"
#include "environment.h"
#include "request.h"
#include "team.h"
#include "workspace.h"

/* Multiplications that are worth waking a worker: 20 to 60 us. In a server it sleeps between calls, and the call
 * waits up to 90 us for it (measured: 120 us with two workers, 31 us with one, for 280 000 multiplications). */
#define WORK_PER_THREAD 1000000
#define ALONE_FIRST_NS 10000000 /* for which one worker runs a region on a crowded machine: at first, */
#define ALONE_MOST_NS 320000000 /* and at most */
#define MOST_PER_NS 64 /* multiplications that a worker does in a nanosecond, with 16 lanes at 4 GHz */
#define LOOK_NS 100000 /* after which to look at the clock again, which takes 30 ns: not for each tile, some are as short */
#define MOST_REST 63   /* tiles that are begun without a look, at most, */
#define NEVER (1 << 30) /* unless there is nothing to look for */
#define POLL_NS 2000000 /* from one question whether the call is cancelled to the next, at least, */
#define POLL_SHARE 20   /* or so many times as long as the answer took */
#define STACK_ITEMS 64  /* params and outputs of nearly all regions fit on the stack */

typedef struct {
  SiriusCall call;                     /* the first member: who has the one has the other */
  SiriusRun run;
  const SiriusCaller *caller;
  int64_t deadline, next_poll, looked; /* nanoseconds */
  int32_t code;       /* why the call is to stop */
  uint32_t denormals; /* the caller's treatment of them */
} Job;

static void run_job(void *job, int32_t worker) { ((Job *)job)->run(&((Job *)job)->call, worker); }

/* A poll may wait for a lock that others need (Python's): it takes a twentieth of the time at most. */
static int32_t poll(Job *job, int64_t now) {
  sirius_restore_denormals(job->denormals);
  const int32_t cancelled = job->caller->poll(job->caller->context);
  sirius_flush_denormals();
  const int64_t after = sirius_now(), pause = POLL_SHARE * (after - now);
  job->next_poll = after + (pause > POLL_NS ? pause : POLL_NS);
  return cancelled ? SIRIUS_CANCELLED : SIRIUS_OK;
}

static int32_t look(SiriusCall *call, int32_t tiles) {
  Job *job = (Job *)call;
  if (job->deadline == INT64_MAX && job->next_poll == INT64_MAX) return NEVER;
  const int64_t now = sirius_now();
  if (now >= job->deadline)
    job->code = SIRIUS_LATE;
  else if (now >= job->next_poll)
    job->code = poll(job, now);
  if (job->code != SIRIUS_OK) {
    __atomic_store_n(&call->stop, 1, __ATOMIC_RELAXED);
    if (call->threads <= 1) call->stopped = 1; /* there are no barriers */
    return NEVER;
  }
  const int64_t since = now - job->looked;
  job->looked = now;
  if (tiles == 0) return 0;
  return since * MOST_REST < LOOK_NS * tiles ? MOST_REST : (int32_t)(LOOK_NS * tiles / since);
}

static int64_t deadline_of(const SiriusCaller *caller, int64_t began) {
  const int64_t limit = sirius_call_limit();
  const int64_t common = limit ? began + limit : INT64_MAX;
  return caller->deadline && caller->deadline < common ? caller->deadline : common;
}

/* Writes why a call was stopped; returns that. */
static int32_t report_stop(const SiriusRequest *r, int32_t code, int64_t began) {
  const char *why = code == SIRIUS_LATE ? "reached its deadline" : "was cancelled";
  snprintf(r->error, r->error_bytes, "the call of region %s %s after %lld ms", r->region->name, why,
           (long long)(sirius_now() - began) / 1000000);
  return code;
}

/* Outputs of which the run has found the shape were computed in memory of ours: hand them over. */
static int32_t hand_over(const SiriusRequest *r) {
  r->region->shapes(r->params, r->dims);
  const int32_t fits = sirius_check_sizes(r);
  if (fits != SIRIUS_OK) return fits;
  for (int32_t i = 0; i < r->region->n_out; ++i) {
    if (!sirius_is_late(r->region, i)) continue;
    void *data = NULL;
    const int32_t code = sirius_allocate_output(r, i, &data);
    if (code != SIRIUS_OK) return code;
    const size_t bytes = sirius_output_bytes(r, i);
    if (bytes) memcpy(data, r->out[i], bytes);
  }
  return SIRIUS_OK;
}

/* Of a call, by its shapes. */
typedef struct {
  int32_t threads;
  int64_t workspace[2]; /* bytes, as plan has them */
  int64_t work;         /* multiplications */
} Cost;

/* A region whose workers found the machine crowded in two calls, one after the other, is run by one for a while, twice
 * as long each time that happens again. One call may be late since workers had slept for long. Two regions may share an
 * entry, and two calls write it at once: it is only a guess. */
typedef struct {
  int32_t crowded;     /* whether the last call by a team was, and one that follows counts */
  int64_t until, span; /* nanoseconds */
} Load;
static Load loads[64];

static Load *load_of(const SiriusRegionInfo *region) { return &loads[(uintptr_t)region / sizeof *region % 64]; }

static void note_load(const SiriusRegionInfo *region, int32_t crowded) {
  Load *load = load_of(region);
  const int32_t again = crowded && __atomic_load_n(&load->crowded, __ATOMIC_RELAXED);
  __atomic_store_n(&load->crowded, crowded && !again, __ATOMIC_RELAXED);
  const int64_t before = __atomic_load_n(&load->span, __ATOMIC_RELAXED);
  const int64_t next = !crowded ? 0 : !again ? before : before ? 2 * before : ALONE_FIRST_NS;
  const int64_t span = next < ALONE_MOST_NS ? next : ALONE_MOST_NS;
  __atomic_store_n(&load->span, span, __ATOMIC_RELAXED);
  if (again) __atomic_store_n(&load->until, sirius_now() + span, __ATOMIC_RELAXED);
}

static int32_t run_region(const SiriusRequest *r, SiriusRun run, const Cost *cost, char *workspace) {
  const SiriusRegionInfo *region = r->region;
  const int32_t threads = cost->threads;
  SiriusBarrier barrier = {0};
  SiriusQueue queues[threads];
  memset(queues, 0, sizeof queues);
  const int64_t began = sirius_now();
  Job job = {.call = {.in = r->in,
                      .out = r->out,
                      .params = r->params,
                      .workspace = workspace,
                      .weights = r->bundle->weights + region->weights_offset,
                      .threads = threads,
                      .barrier = &barrier,
                      .queues = queues,
                      .began = began,
                      .expected = cost->work / MOST_PER_NS / threads,
                      .wait = sirius_wait,
                      .wake = sirius_wake,
                      .look = look},
             .run = run,
             .caller = r->caller,
             .deadline = deadline_of(r->caller, began),
             .next_poll = r->caller->poll ? began + POLL_NS : INT64_MAX,
             .looked = began};
  const SiriusCall *call = &job.call;
  job.denormals = sirius_flush_denormals();
  sirius_team_run(threads, run_job, &job);
  if (threads > 1) note_load(region, call->crowded || sirius_is_crowded(call));
  sirius_restore_denormals(job.denormals);
  return call->failed ? sirius_report(r, &call->error) : job.code ? report_stop(r, job.code, began) : SIRIUS_OK;
}

static int64_t aligned(size_t bytes) { return ((int64_t)bytes + 63) & -64; }

/* With the shapes planned for so many workers: allocate and run. Outputs of which data decides the shape are behind the
 * workspace until it is known. */
static int32_t execute(const SiriusRequest *r, SiriusRun run, const Cost *cost) {
  const SiriusRegionInfo *region = r->region;
  int32_t code = sirius_check_sizes(r);
  if (code == SIRIUS_OK) code = sirius_check_workspace(r, cost->workspace[0]);
  int64_t bytes = cost->workspace[0];
  for (int32_t i = 0; i < region->n_out && code == SIRIUS_OK; ++i) {
    r->out[i] = NULL;
    if (!sirius_is_late(region, i))
      code = sirius_allocate_output(r, i, &r->out[i]);
    else
      bytes += aligned(sirius_output_bytes(r, i));
  }
  if (code == SIRIUS_OK) code = sirius_check_workspace(r, bytes);
  if (code != SIRIUS_OK) return code;
  SiriusWorkspace workspace;
  if (sirius_take_workspace((size_t)bytes, (size_t)cost->workspace[1], &workspace)) {
    snprintf(r->error, r->error_bytes, "cannot allocate %lld bytes of workspace for region %s", (long long)bytes,
             region->name);
    return SIRIUS_EXHAUSTED;
  }
  char *late = (char *)workspace.data + cost->workspace[0];
  for (int32_t i = 0; i < region->n_out; ++i) {
    if (!sirius_is_late(region, i)) continue;
    r->out[i] = late;
    late += aligned(sirius_output_bytes(r, i));
  }
  code = run_region(r, run, cost, workspace.data);
  if (code == SIRIUS_OK && region->shapes) code = hand_over(r);
  sirius_give_workspace(workspace, sirius_now());
  return code;
}

/* How many are worth it, of at most `threads` (0: the default). */
static int32_t workers_for(const SiriusRequest *r, int32_t threads, int64_t work) {
  if (sirius_fixed_workers()) return sirius_fixed_workers();
  const int64_t worth = work / WORK_PER_THREAD;
  if (worth <= 1) return 1;
  if (threads <= 0) threads = sirius_default_threads();
  if (threads > 1 && sirius_now() < __atomic_load_n(&load_of(r->region)->until, __ATOMIC_RELAXED)) return 1;
  return worth < threads ? (int32_t)worth : threads;
}

static int32_t plan_and_execute(const SiriusRequest *r, int32_t threads) {
  const int32_t isa = sirius_isa();
  SiriusRun run = isa >= 0 ? r->region->run[isa] : NULL;
  if (!run && isa > SIRIUS_ISA_V3) run = r->region->run[SIRIUS_ISA_V3];
  if (!run) {
    snprintf(r->error, r->error_bytes, "region %s has no code for this CPU", r->region->name);
    return SIRIUS_INTERNAL;
  }
  SiriusError problem = {0};
  Cost cost = {.threads = 1};
  /* Planned for one worker first: only then is it known whether more of them are worth it. */
  if (r->region->plan(r->in, 1, r->params, r->dims, cost.workspace, &cost.work, &problem))
    return sirius_report(r, &problem);
  threads = sirius_team_acquire(workers_for(r, threads, cost.work));
  if (threads <= 1) return execute(r, run, &cost);
  cost.threads = threads;
  int32_t code;
  if (r->region->plan(r->in, threads, r->params, r->dims, cost.workspace, &cost.work, &problem))
    code = sirius_report(r, &problem);
  else
    code = execute(r, run, &cost);
  sirius_team_release();
  return code;
}

static int32_t call_anywhere(const SiriusRequest *r, int32_t threads) {
  const int32_t code = sirius_cuda_call(r);
  return code == SIRIUS_ELSEWHERE ? plan_and_execute(r, threads) : code;
}

static int32_t plan_only(const SiriusRequest *r, int32_t threads) {
  SiriusError problem = {0};
  int64_t workspace[2], work;
  if (r->region->plan(r->in, threads, r->params, r->dims, workspace, &work, &problem)) return SIRIUS_INVALID;
  const int32_t code = sirius_check_sizes(r);
  return code == SIRIUS_OK ? sirius_check_workspace(r, workspace[0]) : code;
}

/* Checks the inputs, and does the rest with room for parameters and outputs. */
static int32_t handle(SiriusRequest request, int32_t n_in, int32_t (*rest)(const SiriusRequest *, int32_t),
                      int32_t threads) {
  const SiriusRegionInfo *region = request.region;
  int64_t params[STACK_ITEMS], dims[STACK_ITEMS][SIRIUS_MAX_RANK];
  void *out[STACK_ITEMS];
  request.params = params;
  request.dims = dims;
  request.out = out;
  int32_t code = sirius_check_inputs(&request, n_in);
  if (code != SIRIUS_OK) return code;
  const size_t n_params = (size_t)region->n_params, n_out = (size_t)region->n_out;
  void *heap = NULL;
  if (n_params > STACK_ITEMS || n_out > STACK_ITEMS) {
    heap = malloc(n_params * sizeof *params + n_out * (sizeof *dims + sizeof *out));
    if (!heap) {
      snprintf(request.error, request.error_bytes, "out of memory");
      return SIRIUS_EXHAUSTED;
    }
    request.params = heap;
    request.dims = (int64_t(*)[SIRIUS_MAX_RANK])(request.params + n_params);
    request.out = (void **)(request.dims + n_out);
  }
  code = rest(&request, threads);
  free(heap);
  return code;
}

int32_t sirius_call(const SiriusBundle *bundle, const SiriusRegionInfo *region, const SiriusTensor *in,
                    int32_t n_in, const SiriusCaller *caller, int32_t threads, char *error, size_t error_bytes) {
  SiriusRequest request = {.bundle = bundle, .region = region, .in = in, .caller = caller, .error = error,
                           .error_bytes = error_bytes};
  return handle(request, n_in, call_anywhere, threads);
}

int32_t sirius_accepts(const SiriusBundle *bundle, const SiriusRegionInfo *region, const SiriusTensor *in, int32_t n_in) {
  char error[256];
  SiriusRequest request = {.bundle = bundle, .region = region, .in = in, .error = error, .error_bytes = sizeof error};
  return handle(request, n_in, plan_only, 1) == SIRIUS_OK;
}
