/* SPDX-License-Identifier: Apache-2.0
 *
 * Every worker has its own mailbox, so a call that takes few workers disturbs no other one, and no worker can
 * read a job that is not its own. Nothing is waited for in the kernel before a while of spinning.
 */
#define _GNU_SOURCE
#include "team.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <xmmintrin.h>

#include "environment.h"

/* About as long as a trip through the kernel takes, since the awaited thread may need this very CPU. A yield is no way
 * between spinning and sleep: it gives the CPU to others for a whole tick, however little they are worth to the scheduler,
 * where a sleeper that is woken takes it back from them at once. */
#define SPINS 2000
/* Waiting that is no accident: more than the one slice, of 3 or 4 ms, that a scheduler gives others now and then. */
#define CROWDED_NS 6000000
/* Longer than a worker is late for a barrier while all have their CPUs. */
#define LONG_NS 20000
/* Waiting in a call that takes longer than a worker needs to wake up, so that it may be on the CPU of another one. */
#define LATE_NS 200000

typedef struct {
  _Alignas(64) int32_t ticket; /* changes when there is a job */
  int32_t cpu;                 /* where its worker was seen last */
  int32_t places;              /* the team's, when its worker went there */
} Mailbox;

static struct {
  int32_t busy;    /* 1 while a call owns the team */
  int32_t started; /* workers that exist, the caller included */
  int32_t threads;
  void (*job)(void *, int32_t);
  void *argument;
  cpu_set_t allowed; /* where the thread that calls may run */
  int32_t places;    /* changes with `allowed` */
  _Alignas(64) int32_t running; /* workers other than the caller still in the job */
  _Alignas(64) int32_t sleepers; /* threads in, or on their way into, a futex wait */
  Mailbox mailbox[SIRIUS_MAX_THREADS];
} team = {.started = 1};

static int32_t fixed; /* workers of every call, for tests; 0 if these are not fixed */

static pthread_once_t once = PTHREAD_ONCE_INIT;

uint32_t sirius_flush_denormals(void) {
  const uint32_t state = _mm_getcsr();
  _mm_setcsr(state | 0x8040u); /* FTZ, DAZ */
  return state;
}

void sirius_restore_denormals(uint32_t state) { _mm_setcsr(state); }

static int64_t nanoseconds(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

int64_t sirius_now(void) { return nanoseconds(CLOCK_MONOTONIC); }

static int64_t own_time(void) { return nanoseconds(CLOCK_THREAD_CPUTIME_ID); }

/* Of the job that this thread runs: which worker it is, how long it has waited for others, and its CPU time when it
 * began, plus what it has spent waiting. */
static _Thread_local struct {
  int32_t worker;
  int64_t waited, idle;
} self;

static void note_cpu(void) { __atomic_store_n(&team.mailbox[self.worker].cpu, sched_getcpu(), __ATOMIC_RELAXED); }

/* A worker on the CPU of one before it moves to another CPU. Linux looks for none where the CPUs have been busy of late
 * (SIS_UTIL): it wakes a worker where the other one runs, and the two take turns at every barrier, for a tick or two,
 * beside an idle CPU. The host's own thread, which is number 0, stays where it is. */
static void move_apart(void) {
  if (!sirius_may_move()) return;
  note_cpu();
  cpu_set_t before, allowed, rest;
  CPU_ZERO(&before);
  for (int32_t other = 0; other < self.worker; ++other)
    CPU_SET(__atomic_load_n(&team.mailbox[other].cpu, __ATOMIC_RELAXED), &before);
  if (!CPU_ISSET(team.mailbox[self.worker].cpu, &before) || sched_getaffinity(0, sizeof allowed, &allowed)) return;
  CPU_AND(&rest, &allowed, &before);
  CPU_XOR(&rest, &allowed, &rest);
  if (CPU_COUNT(&rest) == 0 || sched_setaffinity(0, sizeof rest, &rest)) return;
  sched_setaffinity(0, sizeof allowed, &allowed);
  note_cpu();
}

/* Workers follow the thread that calls: it may have been pinned, or its CPUs may have become more. */
static void follow(Mailbox *mine) {
  if (mine->places == team.places) return;
  mine->places = team.places;
  if (sirius_may_move()) sched_setaffinity(0, sizeof team.allowed, &team.allowed);
}

static void run(int32_t worker) {
  self.worker = worker;
  note_cpu();
  self.waited = 0;
  self.idle = own_time();
  team.job(team.argument, worker);
}

static void await(int32_t *word, int32_t old) {
  for (int i = 0; i < SPINS; ++i) {
    if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != old) return;
    __builtin_ia32_pause();
  }
  /* Counted before the kernel compares *word: whoever changes *word either sees the count or is seen. */
  __atomic_add_fetch(&team.sleepers, 1, __ATOMIC_SEQ_CST);
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
  __atomic_sub_fetch(&team.sleepers, 1, __ATOMIC_RELAXED);
}

/* One alone does the work of all: it takes what this one took when it did not wait, or twice its CPU time, if others took
 * even more of it; they will of the one that is alone. What is left of a long call comes on top: to be late for it is no reason. */
int32_t sirius_is_crowded(const SiriusCall *call) {
  const int64_t threads = __atomic_load_n(&call->threads, __ATOMIC_RELAXED);
  if (threads <= 1 || sirius_fixed_workers() || self.waited <= CROWDED_NS) return 0;
  const int64_t so_far = sirius_now() - call->began, twice = 2 * (own_time() - self.idle);
  const int64_t left = call->expected > so_far ? call->expected - so_far : 0;
  const int64_t worked = so_far - self.waited < twice ? so_far - self.waited : twice;
  return so_far + left > threads * (worked + left);
}

void sirius_wait(SiriusCall *call, int32_t *word, int32_t old) {
  const int64_t before = sirius_now(), spent = own_time();
  await(word, old);
  const int64_t waited = sirius_now() - before;
  self.waited += waited;
  if (waited < LONG_NS) return;
  self.idle += own_time() - spent;
  if (self.waited > LATE_NS) move_apart();
  if (sirius_is_crowded(call)) __atomic_store_n(&call->crowded, 1, __ATOMIC_RELAXED);
}

void sirius_wake(int32_t *word) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (__atomic_load_n(&team.sleepers, __ATOMIC_SEQ_CST) > 0)
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

static void *work(void *mailbox) {
  Mailbox *mine = mailbox;
  const int32_t worker = (int32_t)(mine - team.mailbox);
  int32_t ticket = 0; /* a mailbox starts at 0 */
  sirius_flush_denormals();
  for (;;) {
    while (__atomic_load_n(&mine->ticket, __ATOMIC_ACQUIRE) == ticket) await(&mine->ticket, ticket);
    ticket = __atomic_load_n(&mine->ticket, __ATOMIC_RELAXED);
    follow(mine);
    run(worker);
    if (__atomic_sub_fetch(&team.running, 1, __ATOMIC_SEQ_CST) == 0) sirius_wake(&team.running);
  }
  return NULL;
}

/* The threads are not copied by fork: the child starts its own. */
static void after_fork(void) {
  memset(&team, 0, sizeof team);
  team.started = 1;
}

static void watch_forks(void) { __register_atfork(NULL, NULL, after_fork, NULL); }

static int32_t start(int32_t threads) {
  /* Signals are for the host's threads, but for those that an instruction of the worker's own raises. */
  static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
  sigset_t others, before;
  sigfillset(&others);
  for (size_t i = 0; i < sizeof own / sizeof *own; ++i) sigdelset(&others, own[i]);
  pthread_sigmask(SIG_SETMASK, &others, &before);
  while (team.started < threads) {
    pthread_t thread;
    Mailbox *mailbox = &team.mailbox[team.started];
    mailbox->places = team.places; /* inherited */
    if (pthread_create(&thread, NULL, work, mailbox) != 0) break;
    pthread_detach(thread);
    ++team.started;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return team.started < threads ? team.started : threads;
}

static void note_places(void) {
  cpu_set_t now;
  CPU_ZERO(&now);
  if (sched_getaffinity(0, sizeof now, &now) != 0 || CPU_EQUAL(&now, &team.allowed)) return;
  team.allowed = now;
  ++team.places;
}

int32_t sirius_team_acquire(int32_t threads) {
  if (threads > SIRIUS_MAX_THREADS) threads = SIRIUS_MAX_THREADS;
  if (threads <= 1) return 1;
  pthread_once(&once, watch_forks);
  if (__atomic_exchange_n(&team.busy, 1, __ATOMIC_ACQUIRE)) return 1;
  note_places();
  const int32_t got = team.started >= threads ? threads : start(threads);
  if (got <= 1) sirius_team_release();
  return got < 1 ? 1 : got;
}

void sirius_fix_workers(int32_t workers) { __atomic_store_n(&fixed, workers, __ATOMIC_RELAXED); }

int32_t sirius_fixed_workers(void) { return __atomic_load_n(&fixed, __ATOMIC_RELAXED); }

void sirius_team_release(void) { __atomic_store_n(&team.busy, 0, __ATOMIC_RELEASE); }

void sirius_team_run(int32_t threads, void (*job)(void *, int32_t), void *argument) {
  if (threads <= 1) {
    job(argument, 0);
    return;
  }
  team.job = job;
  team.argument = argument;
  __atomic_store_n(&team.running, threads - 1, __ATOMIC_RELAXED);
  for (int32_t worker = 1; worker < threads; ++worker) {
    int32_t *ticket = &team.mailbox[worker].ticket;
    const uint32_t next = (uint32_t)__atomic_load_n(ticket, __ATOMIC_RELAXED) + 1u;
    __atomic_store_n(ticket, (int32_t)next, __ATOMIC_SEQ_CST);
    sirius_wake(ticket);
  }
  run(0);
  const int64_t done = sirius_now();
  for (int32_t running; (running = __atomic_load_n(&team.running, __ATOMIC_ACQUIRE)) != 0;)
    await(&team.running, running);
  self.waited += sirius_now() - done;
}
