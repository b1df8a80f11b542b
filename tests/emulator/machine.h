/* SPDX-License-Identifier: Apache-2.0
 *
 * The machine that runs a grid: a fiber for each CUDA thread, scheduled within its block; blocks one after the
 * other, or all of them resident in a cooperative launch. A kernel that misuses a barrier, a warp or memory
 * ends the process with a message (exit status 3).
 */
#pragma once
#include <stdarg.h>
#include <string.h>

#include "fiber.h"

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

namespace emu {

constexpr int kSharedBytes = 232448, kMaxArrays = 64, kMaxThreads = 1024;
constexpr int kIdleRounds = 20000; /* rounds without progress after which blocks spin for ever */

enum State { READY, AT_BARRIER, IN_WARP, EXITED };
enum Order { FORWARD, REVERSE, RANDOM };

struct Copy { void *to; const void *from; int bytes, group; };
struct Block;
struct Thread : Fiber {
  Block *block;
  int id, line;        /* where it waits */
  State state;
  int grid_barriers;   /* entered so far */
  Copy *copies;        /* cp.async that no wait has retired */
  int n_copies, copies_room, committed;
};
/* Lanes that meet in a collective operation, each with its operands. */
struct Group { unsigned mask, arrived; int kind, line; void *operands[32]; };
struct Warp { Group groups[4]; unsigned exist, exited; };
struct Array { const void *key; char *memory; size_t bytes; };
struct Block {
  int index, alive, arrived, line;
  unsigned barriers;           /* completed so far */
  char tags[2];                /* of barriers in turns: an early one's release must not reach a late one's acquire */
  Thread **ready;              /* a ring */
  int first, n_ready;
  Warp *warps;
  Thread *threads;
  Array arrays[kMaxArrays];
  int n_arrays;
};

static struct {
  const char *kernel;
  void (*call)(void **);
  void **args;
  int blocks, threads, order;
  bool cooperative;
  size_t dynamic_bytes;
  uint64_t random;
  Fiber fiber;
  Thread *thread; /* that runs */
  Block *block;
  long progress;
  int grid_barriers, grid_lines[2]; /* entered by any thread; the lines of the last two, others are past */
  char start_tag, end_tag;
} machine;

[[noreturn]] EMU_UNCHECKED static void fail(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "%s: ", machine.kernel);
  if (machine.thread) fprintf(stderr, "block %d, thread %d: ", machine.block->index, machine.thread->id);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  fflush(stderr);
  _exit(3);
}

EMU_UNCHECKED static unsigned draw(unsigned n) {
  machine.random = machine.random * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
  return (unsigned)(machine.random >> 33) % n;
}
/* The k-th of n in the order of this launch; random is what take_ready makes of it. */
EMU_UNCHECKED static int ordered(int k, int n) { return machine.order == REVERSE ? n - 1 - k : k; }

EMU_UNCHECKED static void make_ready(Thread *thread) {
  Block *block = thread->block;
  thread->state = READY;
  block->ready[(block->first + block->n_ready++) % machine.threads] = thread;
}
EMU_UNCHECKED static Thread *take_ready(Block *block) {
  if (!block->n_ready) return nullptr;
  Thread **head = &block->ready[block->first];
  if (machine.order == RANDOM) {
    Thread **other = &block->ready[(block->first + draw(block->n_ready)) % machine.threads];
    Thread *swapped = *head;
    *head = *other;
    *other = swapped;
  }
  block->first = (block->first + 1) % machine.threads;
  block->n_ready--;
  return *head;
}

EMU_UNCHECKED static void run(Thread *thread) {
  Fiber *from = machine.thread ? (Fiber *)machine.thread : &machine.fiber;
  machine.thread = thread;
  threadIdx = {(unsigned)thread->id, 0, 0};
  if (from != thread) switch_fiber(from, thread);
}
/* To the next thread of the block, or to the machine if there is none. */
EMU_UNCHECKED static void run_next() {
  if (Thread *next = take_ready(machine.block)) return run(next);
  Thread *from = machine.thread;
  machine.thread = nullptr;
  switch_fiber(from, &machine.fiber);
}
/* Lets other blocks go on: what a spinning thread waits for may come from them. */
EMU_UNCHECKED static void yield() {
  Thread *from = machine.thread;
  make_ready(from);
  machine.thread = nullptr;
  switch_fiber(from, &machine.fiber);
}

EMU_UNCHECKED static void made_progress() { machine.progress++; }

/* ---- barriers of a block */

EMU_UNCHECKED static void barrier(int line) {
  Block *block = machine.block;
  Thread *self = machine.thread;
  void *tag = &block->tags[block->barriers % 2];
  if (block->alive != machine.threads)
    fail("divergent barrier: line %d is reached after %d of %d threads exited", line,
         machine.threads - block->alive, machine.threads);
  if (block->arrived && block->line != line)
    fail("divergent barrier: line %d is reached while %d threads wait at line %d", line, block->arrived, block->line);
  release(tag);
  block->line = self->line = line;
  self->state = AT_BARRIER;
  if (++block->arrived == machine.threads) {
    block->arrived = 0;
    block->barriers++;
    machine.progress++;
    for (int k = 0; k < machine.threads; k++) make_ready(&block->threads[ordered(k, machine.threads)]);
  }
  run_next();
  acquire(tag);
}

/* A barrier of the grid, at a line that must be the same for all threads that enter their n-th one. */
EMU_UNCHECKED static void enter_grid_barrier(int line) {
  if (!machine.cooperative) fail("grid barrier at line %d in a launch that is not cooperative", line);
  const int n = machine.thread->grid_barriers++;
  int *first = &machine.grid_lines[n % 2];
  if (n == machine.grid_barriers) {
    machine.grid_barriers++;
    *first = line;
  }
  if (*first != line)
    fail("divergent grid barrier: number %d is at line %d here, at line %d elsewhere", n, line, *first);
}

/* ---- collective operations of a warp */

/* Calls `work(operands of all lanes, mask)` once all lanes of `mask` are here, of which each passes its own;
 * operations that differ in `kind` or `line` do not meet. */
EMU_UNCHECKED static void collective(unsigned mask, int kind, int line, void *operands, void (*work)(void **, unsigned)) {
  Thread *self = machine.thread;
  Warp *warp = &self->block->warps[self->id / 32];
  const int lane = self->id % 32;
  if (!(mask >> lane & 1)) fail("warp operation at line %d: lane %d is not in its own mask %08x", line, lane, mask);
  mask &= warp->exist;
  if (mask & warp->exited)
    fail("warp operation at line %d: lanes %08x of its mask exited", line, mask & warp->exited);
  Group *group = nullptr;
  for (Group &g : warp->groups) {
    if (!g.arrived && !group) group = &g;
    if (g.arrived && g.mask == mask) {
      group = &g;
      break;
    }
    if (g.arrived && g.mask & mask)
      fail("warp operation at line %d: its mask %08x overlaps %08x, for which others wait at line %d", line, mask,
           g.mask, g.line);
  }
  if (!group) fail("warp operation at line %d: the warp waits in more than 4 groups", line);
  if (!group->arrived) { /* not by an initializer: that is a memset, of which TSan learns */
    group->mask = mask;
    group->kind = kind;
    group->line = line;
  }
  if (group->kind != kind || group->line != line)
    fail("divergent warp operation: lane %d is at line %d, others at line %d", lane, line, group->line);
  group->arrived |= 1u << lane;
  group->operands[lane] = operands;
  self->line = line;
  self->state = IN_WARP;
  if (group->arrived == mask) {
#if EMU_TSAN
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
    work(group->operands, mask);
#if EMU_TSAN
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
    group->arrived = 0;
    machine.progress++;
    for (int k = 0; k < 32; k++)
      if (mask >> ordered(k, 32) & 1) make_ready(&self->block->threads[self->id / 32 * 32 + ordered(k, 32)]);
  }
  run_next();
}

/* ---- shared memory: an allocation for each block and array, full of NaN, with zones that must stay so */

constexpr size_t kZone = 256;

EMU_UNCHECKED static void fill_array(Array *array) {
#if EMU_ASAN
  ASAN_UNPOISON_MEMORY_REGION(array->memory - kZone, array->bytes + 2 * kZone);
#endif
  memset(array->memory - kZone, 0xff, array->bytes + 2 * kZone);
#if EMU_ASAN
  ASAN_POISON_MEMORY_REGION(array->memory - kZone, kZone);
  ASAN_POISON_MEMORY_REGION(array->memory + array->bytes, kZone);
#endif
}
EMU_UNCHECKED static void check_array(const Array *array) {
  for (size_t i = 0; i < kZone; i++)
    if ((array->memory[-1 - (long)i] & array->memory[array->bytes + i] & 0xff) != 0xff)
      fail("shared memory is written out of bounds: beside an array of %zu bytes", array->bytes);
}
/* The calling block's array that is declared at `key`. */
EMU_UNCHECKED static void *shared(const void *key, size_t bytes) {
  Block *block = machine.block;
  size_t total = bytes;
  for (int i = 0; i < block->n_arrays; i++) {
    if (block->arrays[i].key == key) {
      acquire(&block->arrays[i]);
      return block->arrays[i].memory;
    }
    total += block->arrays[i].bytes;
  }
  if (total > kSharedBytes) fail("%zu bytes of shared memory, of at most %d", total, kSharedBytes);
  if (block->n_arrays == kMaxArrays) fail("more than %d shared arrays", kMaxArrays);
#if EMU_TSAN
  /* as if the machine did it before the launch: no order among threads comes of it */
  __tsan_switch_to_fiber(machine.fiber.tsan, __tsan_switch_to_fiber_no_sync);
#endif
  char *memory = (char *)aligned_alloc(kZone, (bytes + 3 * kZone - 1) / kZone * kZone);
  Array *array = &block->arrays[block->n_arrays++];
  *array = {key, memory + kZone, bytes};
  fill_array(array);
  release(array);
#if EMU_TSAN
  __tsan_switch_to_fiber(machine.thread->tsan, __tsan_switch_to_fiber_no_sync);
#endif
  acquire(array);
  return array->memory;
}
EMU_UNCHECKED static void *dynamic_shared() {
  static char key;
  if (!machine.dynamic_bytes) fail("dynamic shared memory is used, and none was asked for");
  return shared(&key, machine.dynamic_bytes);
}

/* ---- running a grid */

EMU_UNCHECKED static void thread_main() {
  enter_fiber(&machine.fiber);
  for (;;) {
    acquire(&machine.start_tag);
    machine.call(machine.args);
    Thread *self = machine.thread;
    Block *block = self->block;
    if (has_overflowed(self)) fail("its stack of %zu bytes overflows", kStackBytes);
    if (self->n_copies) fail("exits with %d copies (cp.async) for which it never waited", self->n_copies);
    if (block->arrived)
      fail("divergent barrier: a thread exits while %d threads wait at line %d", block->arrived, block->line);
    self->state = EXITED;
    block->warps[self->id / 32].exited |= 1u << self->id % 32;
    block->alive--;
    machine.progress++;
    release(&machine.end_tag);
    run_next();
  }
}

EMU_UNCHECKED static void start_block(Block *block, int index) {
  const int n = machine.threads;
  block->index = index;
  block->alive = n;
  block->arrived = block->first = block->n_ready = 0;
  memset(block->warps, 0, (n + 31) / 32 * sizeof(Warp));
#if EMU_TSAN
  block->n_arrays = 0; /* what another block had is not used again: accesses of both would look like a race */
#endif
  for (int i = 0; i < block->n_arrays; i++) fill_array(&block->arrays[i]);
  for (int k = 0; k < n; k++) {
    Thread *thread = &block->threads[ordered(k, n)];
    thread->grid_barriers = thread->n_copies = thread->committed = 0;
#if EMU_TSAN
    char name[32];
    snprintf(name, sizeof name, "block %d, thread %d", index, thread->id);
    __tsan_set_fiber_name(thread->tsan, name);
#endif
    block->warps[thread->id / 32].exist |= 1u << thread->id % 32;
    make_ready(thread);
  }
}

EMU_UNCHECKED static void create_block(Block *block, int number) {
  const int n = machine.threads;
  *block = {};
  block->ready = (Thread **)calloc(n, sizeof(Thread *));
  block->warps = (Warp *)calloc((n + 31) / 32, sizeof(Warp));
  block->threads = (Thread *)calloc(n, sizeof(Thread));
  char *stacks = create_stacks(n);
  for (int i = 0; i < n; i++) {
    create_fiber(&block->threads[i], stacks + i * kStackBytes, number * n + i, thread_main);
    block->threads[i].block = block;
    block->threads[i].id = i;
  }
}

EMU_UNCHECKED static void destroy_block(Block *block) {
  for (int i = 0; i < machine.threads; i++) {
    free(block->threads[i].copies);
    destroy_fiber(&block->threads[i]);
  }
  destroy_stacks(block->threads[0].stack, machine.threads);
  for (int i = 0; i < block->n_arrays; i++) free(block->arrays[i].memory - kZone);
  free(block->threads);
  free(block->warps);
  free(block->ready);
}

/* Runs a block until it has exited or, spinning, waits for others. */
EMU_UNCHECKED static void run_block(Block *block) {
  machine.block = block;
  blockIdx = {(unsigned)block->index, 0, 0};
  if (Thread *thread = take_ready(block)) return run(thread);
  for (int i = 0; i < machine.threads; i++) {
    const Thread *thread = &block->threads[i];
    if (thread->state == AT_BARRIER || thread->state == IN_WARP)
      fail("deadlock in block %d: %d threads wait at a barrier; thread %d waits %s at line %d", block->index,
           block->arrived, i, thread->state == IN_WARP ? "for its warp" : "at a barrier", thread->line);
  }
}

EMU_UNCHECKED static void finish_block(Block *block) {
#if !EMU_ASAN /* which has seen it already */
  for (int i = 0; i < block->n_arrays; i++) check_array(&block->arrays[i]);
#endif
  (void)block;
}

/* Runs resident blocks in turns until all have exited. */
EMU_UNCHECKED static void run_resident(Block *blocks, int n) {
  long seen = -1;
  int idle = 0;
  for (bool alive = true; alive;) {
    alive = false;
    for (int k = 0; k < n; k++) {
      Block *block = &blocks[machine.order == RANDOM ? draw(n) : (unsigned)ordered(k, n)];
      if (block->alive) run_block(block);
    }
    for (int k = 0; k < n; k++) alive |= blocks[k].alive > 0;
    idle = machine.progress == seen ? idle + 1 : 0;
    seen = machine.progress;
    if (idle > kIdleRounds) fail("livelock: threads spin, and nothing that they wait for comes");
  }
  for (int k = 0; k < n; k++) finish_block(&blocks[k]);
}

EMU_UNCHECKED static void run_grid() {
  const int total = machine.blocks;
  int resident = machine.cooperative ? total : 1;
  /* Neighbours are run by other fibers, so that TSan sees a race between them. */
  if (EMU_TSAN && !machine.cooperative)
    while (resident < total && (resident < 2 || resident * machine.threads < 512)) resident++;
  Block *blocks = (Block *)calloc(resident, sizeof(Block));
  int *indices = (int *)calloc(total, sizeof(int));
  for (int k = 0; k < resident; k++) create_block(&blocks[k], k);
  for (int k = 0; k < total; k++) {
    const int other = machine.order == RANDOM ? (int)draw(k + 1) : k; /* Fisher and Yates */
    indices[k] = indices[other];
    indices[other] = ordered(k, total);
  }
  machine.grid_barriers = 0;
  release(&machine.start_tag);
  if (machine.cooperative) {
    for (int k = 0; k < total; k++) start_block(&blocks[k], k);
    run_resident(blocks, total);
  } else {
    for (int k = 0; k < total; k++) {
      start_block(&blocks[k % resident], indices[k]);
      run_resident(&blocks[k % resident], 1);
    }
  }
  acquire(&machine.end_tag);
  for (int k = 0; k < resident; k++) destroy_block(&blocks[k]);
  free(blocks);
  free(indices);
}

}  // namespace emu
