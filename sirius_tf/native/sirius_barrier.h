/* SPDX-License-Identifier: Apache-2.0
 *
 * The barrier between the phases of a region, and what makes them end early, inlined into generated code.
 *
 * A worker that is to stop begins no tile any more. Hence a tile of a later phase, which might take garbage for
 * subscripts, is run by nobody: at the barrier all have learnt it. Loops around phases are left by all workers at once,
 * since none may wait for one that has left.
 */
#ifndef SIRIUS_BARRIER_H
#define SIRIUS_BARRIER_H
#include "sirius_abi.h"

/* Phases are often shorter than a trip through the kernel: spin first. Not for long: when other load has put two
 * workers on one CPU, every spin is time taken from the one that is awaited (measured: 70 us a call, not 4). */
#define SIRIUS_BARRIER_SPINS 200

/* Wait until all `call->threads` workers are here; what they wrote before is visible afterwards. From here on they may
 * be fewer: a worker from call->threads on returns. */
static inline __attribute__((unused)) void sirius_barrier(SiriusCall *call) {
  const int32_t threads = call->threads;
  if (threads <= 1) return;
  SiriusBarrier *barrier = call->barrier;
  /* The generation cannot move before this worker has arrived, so a plain read is enough. */
  const int32_t generation = __atomic_load_n(&barrier->generation, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL) == threads) {
    __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
    call->stopped = __atomic_load_n(&call->stop, __ATOMIC_RELAXED);
    if (__atomic_load_n(&call->crowded, __ATOMIC_RELAXED)) __atomic_store_n(&call->threads, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&barrier->generation, (int32_t)((uint32_t)generation + 1u), __ATOMIC_SEQ_CST);
    call->wake(&barrier->generation);
    return;
  }
  for (int spin = 0; spin < SIRIUS_BARRIER_SPINS; ++spin) {
    if (__atomic_load_n(&barrier->generation, __ATOMIC_ACQUIRE) != generation) return;
    __builtin_ia32_pause();
  }
  while (__atomic_load_n(&barrier->generation, __ATOMIC_ACQUIRE) == generation)
    call->wait(call, &barrier->generation, generation);
}

/* How often the first worker need not look now: what is left of that, and what it was at the last look, -1 if that says
 * nothing of the tiles that follow. */
typedef struct {
  int32_t left, given;
} SiriusRest;

/* Before tiles of another kind, which may take longer. */
static inline __attribute__((unused)) void sirius_other_tiles(SiriusRest *rest) { *rest = (SiriusRest){0, -1}; }

/* Whether a worker is to begin no tile any more. */
static inline __attribute__((unused)) int32_t sirius_stops(SiriusCall *call, int32_t worker, SiriusRest *rest) {
  if (worker == 0 && --rest->left < 0) rest->left = rest->given = call->look(call, rest->given + 1);
  return __atomic_load_n(&call->stop, __ATOMIC_RELAXED);
}

/* Whether all workers are to leave a loop around phases. */
static inline __attribute__((unused)) int32_t sirius_leaves(SiriusCall *call, int32_t worker, SiriusRest *rest) {
  (void)sirius_stops(call, worker, rest);
  return call->stopped;
}

#endif
