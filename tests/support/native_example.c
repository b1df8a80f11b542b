/* SPDX-License-Identifier: Apache-2.0
 *
 * A hand-written bundle: y = a * x + b over [n], in two phases (t = a * x, y = t + b) that split [n]
 * differently among the workers, so that a missing barrier shows. Compiled once per ISA (-DISA=run_v3 ...) plus
 * once with -DTABLES. With n = 17 the first worker waits a hundred times, for as long as the clock says that it did, and
 * the last of y says how many workers there were at first and in the end; with n = 19 the second one crashes.
 */
#include "sirius_abi.h"
#include "sirius_barrier.h"

#ifdef ISA
__attribute__((visibility("hidden"))) void ISA(SiriusCall *call, int32_t worker) {
  const int64_t n = call->params[0], threads = call->threads;
  const float *x = call->in[0].data, *a = call->in[1].data, *b = call->in[2].data;
  float *y = call->out[0], *t = (float *)call->workspace;
  for (int64_t i = worker; i < n; i += threads) t[i] = a[0] * x[i];
  int32_t *late = (void *)call->queues;
  if (n == 17 && threads > 1 && worker == 1) {
    __atomic_store_n(late, 1, __ATOMIC_SEQ_CST);
    call->wake(late);
  }
  for (int k = 0; n == 17 && threads > 1 && worker == 0 && k < 100; ++k) call->wait(call, late, 0);
  if (n == 19 && worker == 1) *(volatile int32_t *)16 = 0;
  sirius_barrier(call);
  if (worker >= call->threads) return;
  const int64_t left = call->threads;
  for (int64_t i = n * worker / left; i < n * (worker + 1) / left; ++i) y[i] = t[i] + b[i];
  sirius_barrier(call);
  if (worker >= call->threads) return;
  if (n == 17 && worker == 0) y[n - 1] = (float)(10 * threads + call->threads);
  if (n == 13 && worker == 0 && !__atomic_exchange_n(&call->failed, 1, __ATOMIC_RELAXED))
    call->error = (SiriusError){"n = %lld brings bad luck", {n}};
}
#endif

#ifdef TABLES
#define HIDDEN __attribute__((visibility("hidden")))
HIDDEN void run_v3(SiriusCall *call, int32_t worker);
HIDDEN void run_v4(SiriusCall *call, int32_t worker);

static int32_t plan(const SiriusTensor *in, int32_t threads, int64_t *params,
                    int64_t (*out_dims)[SIRIUS_MAX_RANK], int64_t workspace_bytes[2], int64_t *work,
                    SiriusError *error) {
  (void)threads;
  const int64_t n = in[0].dims[0];
  if (in[2].dims[0] != n) {
    *error = (SiriusError){"x has %lld elements, b has %lld", {n, in[2].dims[0]}};
    return 1;
  }
  params[0] = n;
  out_dims[0][0] = n;
  workspace_bytes[0] = workspace_bytes[1] = n * 4;
  *work = n * 1000000; /* not true: makes the host use its team */
  return 0;
}

#ifdef CONSTRUCTOR
__attribute__((constructor)) static void run_at_load(void) { __builtin_trap(); }
#endif
#ifdef IMPORT
extern const char *const *environ __attribute__((weak));
HIDDEN const void *imported = &environ;
#endif

static const int32_t ranks[] = {1, 0, 1}, dtypes[] = {1, 1, 1};
static const SiriusRegionInfo regions[] = {
    {"axpb", 3, 1, 1, ranks, dtypes, ranks, dtypes, plan, {run_v3, run_v4}, 0, 0, 0, 0, 0, ""}};
static const char manifest[] = "{\"name\": \"example\"}";
#ifndef ABI
#define ABI SIRIUS_ABI_VERSION
#endif
const SiriusBundle sirius_bundle = {ABI, 1, regions, manifest, sizeof manifest - 1, 0, 0, ""};
#endif
