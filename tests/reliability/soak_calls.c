/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls of regions by several threads for as long as it takes, while all around them changes.
 *
 * usage: soak_calls BUNDLE CALLS CALLERS REGION:EXTENT,...[:EXTENT,...] ...
 *
 * Each request is of a region whose inputs are floats. A thread replaces the bundle by its copy BUNDLE.next, forks, moves
 * all threads to other CPUs, and changes the number of workers; a timer interrupts whoever runs. Each line that is printed
 * has the counts so far, in the order of COUNTS, of which the last four have to be 0. Behind the last one is an
 * empty line: nothing runs any more, and the process waits until its input ends, so that all it holds can be looked at.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host.h"
#include "request.h"
#include "team.h"

#define COUNTS(X) X(calls) X(late) X(opened) X(replaced) X(forks) X(moves) X(alarms) X(wrong) X(failed) X(killed) X(hung)
#define MOST_REQUESTS 16
#define MOST_OUTPUTS 4
#define CALLS_OF_A_BUNDLE 5000 /* by one thread, before it opens what is there by then */
#define LINES 20

static struct {
#define COUNT(name) int64_t name;
  COUNTS(COUNT)
} counts;
#define ADD(name) __atomic_fetch_add(&counts.name, 1, __ATOMIC_RELAXED)

typedef struct {
  char name[64];
  SiriusTensor in[4];
  int32_t n_in;
  void *wanted[MOST_OUTPUTS];
} Request;

static Request requests[MOST_REQUESTS];
static int32_t n_requests;
static const char *path;
static int64_t calls_to_make;
static int32_t over;

typedef struct {
  void *data[MOST_OUTPUTS];
  size_t bytes[MOST_OUTPUTS], room[MOST_OUTPUTS];
} Outputs;

static void *reserve(size_t bytes) {
  void *data = NULL;
  if (posix_memalign(&data, 64, bytes + 64)) abort();
  return data;
}

static int32_t allocate(void *context, int32_t index, int32_t dtype, const int64_t *dims, int32_t rank, void **data) {
  Outputs *outputs = context;
  outputs->bytes[index] = (size_t)sirius_array_bytes(dtype, dims, rank);
  if (outputs->room[index] < outputs->bytes[index]) {
    free(outputs->data[index]);
    outputs->data[index] = reserve(outputs->room[index] = outputs->bytes[index]);
  }
  *data = memset(outputs->data[index], 0xab, outputs->bytes[index]);
  return 0;
}

static uint64_t drawn(uint64_t *state) { return (*state = *state * 6364136223846793005u + 1442695040888963407u) >> 33; }

static SiriusOpened *opened(void) {
  char error[512];
  SiriusOpened *bundle = NULL;
  if (sirius_open(path, &bundle, error, sizeof error)) {
    fprintf(stderr, "%s\n", error);
    abort();
  }
  ADD(opened);
  return bundle;
}

/* Whether a call ended as it should: with the result of the first one, or behind its deadline, if it has one. */
static int right(SiriusOpened *bundle, const Request *request, Outputs *outputs, int64_t deadline) {
  const SiriusBundle *code = sirius_opened_bundle(bundle);
  const SiriusRegionInfo *region = sirius_find_region(code, request->name);
  const SiriusCaller caller = {.allocate = allocate, .context = outputs, .deadline = deadline};
  char error[512];
  const int32_t failure = sirius_call(code, region, request->in, request->n_in, &caller, 0, error, sizeof error);
  if (failure == SIRIUS_LATE && deadline) return ADD(late), 1;
  if (failure) return fprintf(stderr, "%s\n", error), ADD(failed), 0;
  for (int32_t k = 0; k < region->n_out; ++k)
    if (memcmp(outputs->data[k], request->wanted[k], outputs->bytes[k])) return ADD(wrong), 0;
  return 1;
}

static void *calls(void *seed) {
  uint64_t state = (uint64_t)(uintptr_t)seed;
  Outputs outputs = {0};
  while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
    SiriusOpened *bundle = opened();
    for (int k = 0; k < CALLS_OF_A_BUNDLE && ADD(calls) < calls_to_make; ++k) {
      const int64_t deadline = drawn(&state) % 64 ? 0 : sirius_now() + (int64_t)(drawn(&state) % 20000);
      right(bundle, &requests[drawn(&state) % (uint64_t)n_requests], &outputs, deadline);
    }
    sirius_close(bundle);
    if (__atomic_load_n(&counts.calls, __ATOMIC_RELAXED) >= calls_to_make) __atomic_store_n(&over, 1, __ATOMIC_RELAXED);
  }
  return NULL;
}

/* Puts the same bytes in the place of the bundle, as another file. */
static void replace_bundle(void) {
  char next[4096], copy[4096], command[16384];
  snprintf(next, sizeof next, "%s.next", path);
  snprintf(copy, sizeof copy, "%s.copy", path);
  snprintf(command, sizeof command, "cp '%s' '%s'", next, copy);
  if (system(command) || rename(copy, path)) abort();
  ADD(replaced);
}

static void fork_and_call(void) {
  const pid_t child = fork();
  if (!child) {
    Outputs outputs = {0};
    SiriusOpened *bundle = opened();
    int wrong = 0;
    for (int32_t k = 0; k < 4 * n_requests; ++k) wrong |= !right(bundle, &requests[k % n_requests], &outputs, 0);
    _exit(wrong);
  }
  int status = 0, waited = 0;
  while (waitpid(child, &status, WNOHANG) == 0 && ++waited < 6000) usleep(5000);
  if (waited >= 6000) {
    ADD(hung);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
  } else if (status) {
    ADD(killed);
  }
  ADD(forks);
}

/* Lets all threads run on some CPUs only. */
static void move(uint64_t *state, const cpu_set_t *all) {
  cpu_set_t some;
  CPU_ZERO(&some);
  while (!CPU_COUNT(&some))
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, all) && drawn(state) % 2) CPU_SET(cpu, &some);
  DIR *tasks = opendir("/proc/self/task");
  for (struct dirent *task; tasks && (task = readdir(tasks));)
    if (atoi(task->d_name)) sched_setaffinity(atoi(task->d_name), sizeof some, &some);
  if (tasks) closedir(tasks);
  ADD(moves);
}

static void alarmed(int signal) {
  (void)signal;
  ADD(alarms);
}

static void print_counts(void) {
#define NAME(name) printf("%s %lld ", #name, (long long)__atomic_load_n(&counts.name, __ATOMIC_RELAXED));
  COUNTS(NAME)
  printf("\n");
  fflush(stdout);
}

static void change_all_around(void) {
  cpu_set_t all;
  sched_getaffinity(0, sizeof all, &all);
  uint64_t state = 99;
  for (int64_t line = 0; !__atomic_load_n(&over, __ATOMIC_RELAXED);) {
    sirius_fix_workers(drawn(&state) % 8 ? 0 : 1 + (int32_t)(drawn(&state) % 4));
    switch (drawn(&state) % 4) {
      case 0: replace_bundle(); break;
      case 1: fork_and_call(); break;
      default: move(&state, &all);
    }
    usleep(10000);
    if (__atomic_load_n(&counts.calls, __ATOMIC_RELAXED) >= line * (calls_to_make / LINES)) print_counts(), ++line;
  }
}

static SiriusTensor tensor(char *extents, uint64_t *state) {
  int64_t *dims = calloc(SIRIUS_MAX_RANK, sizeof *dims), count = 1;
  int32_t rank = 0;
  for (char *at = extents; *at && rank < SIRIUS_MAX_RANK; at += *at == ',') count *= dims[rank++] = strtoll(at, &at, 10);
  float *data = reserve((size_t)count * sizeof *data);
  for (int64_t k = 0; k < count; ++k) data[k] = (float)(drawn(state) % 2048) / 1024.0f - 1.0f;
  return (SiriusTensor){data, dims, rank, 1};
}

/* The request of an argument, and what one worker answers. */
static void prepare(SiriusOpened *bundle, char *argument, Request *request) {
  uint64_t state = (uint64_t)n_requests;
  char *rest = NULL;
  snprintf(request->name, sizeof request->name, "%s", strtok_r(argument, ":", &rest));
  for (char *extents; (extents = strtok_r(NULL, ":", &rest));) request->in[request->n_in++] = tensor(extents, &state);
  Outputs outputs = {0};
  const SiriusRegionInfo *region = sirius_find_region(sirius_opened_bundle(bundle), request->name);
  const SiriusCaller caller = {.allocate = allocate, .context = &outputs};
  char error[512];
  sirius_fix_workers(1);
  if (!region || sirius_call(sirius_opened_bundle(bundle), region, request->in, request->n_in, &caller, 0, error, 512)) {
    fprintf(stderr, "%s: %s\n", request->name, region ? error : "not there");
    exit(2);
  }
  memcpy(request->wanted, outputs.data, sizeof request->wanted);
  ++n_requests;
}

int main(int argc, char **argv) {
  if (argc < 5) return 2;
  path = argv[1], calls_to_make = atoll(argv[2]);
  const int callers = atoi(argv[3]);
  SiriusOpened *bundle = opened();
  for (int k = 4; k < argc && k - 4 < MOST_REQUESTS; ++k) prepare(bundle, argv[k], &requests[k - 4]);
  sirius_close(bundle);
  const struct sigaction action = {.sa_handler = alarmed};
  const struct itimerval often = {{0, 1000}, {0, 1000}};
  sigaction(SIGALRM, &action, NULL);
  setitimer(ITIMER_REAL, &often, NULL);
  pthread_t threads[64];
  for (int k = 0; k < callers && k < 64; ++k) pthread_create(&threads[k], NULL, calls, (void *)(uintptr_t)(k + 1));
  change_all_around();
  for (int k = 0; k < callers && k < 64; ++k) pthread_join(threads[k], NULL);
  print_counts();
  printf("\n");
  fflush(stdout);
  while (getchar() != EOF) {
  }
  return 0;
}
