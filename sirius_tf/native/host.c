/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "host.h"

#include <cpuid.h>
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cpus.h"
#include "cuda.h"
#include "request.h"
#include "team.h"

/* Multiplications that are worth waking a worker: 20 to 60 us. In a server it sleeps between calls, and the call
 * waits up to 90 us for it (measured: 120 us with two workers, 31 us with one, for 280 000 multiplications). */
#define WORK_PER_THREAD 1000000
#define ALONE_FIRST_NS 10000000 /* for which one worker runs a region on a crowded machine: at first, */
#define ALONE_MOST_NS 320000000 /* and at most */
#define MOST_PER_NS 64 /* multiplications that a worker does in a nanosecond, with 16 lanes at 4 GHz */
#define STACK_ITEMS 64        /* params and outputs of nearly all regions fit on the stack */
#define POOL 32               /* workspaces kept for later calls */

/* ---- CPU ---- */

static int32_t detect_isa(void) {
  unsigned a, b, c, d, b7, ext;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return -1;
  const unsigned need1 = bit_FMA | bit_MOVBE | bit_OSXSAVE | bit_AVX | bit_F16C | bit_POPCNT;
  if ((c & need1) != need1) return -1;
  if (!__get_cpuid(0x80000001u, &a, &b, &ext, &d) || !(ext & bit_LZCNT)) return -1;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c, &d)) return -1;
  const unsigned need7 = bit_AVX2 | bit_BMI | bit_BMI2;
  if ((b7 & need7) != need7) return -1;
  unsigned low, high; /* the registers that the operating system saves */
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0x6u) != 0x6u) return -1;
  const unsigned need512 = bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL;
  return (b7 & need512) == need512 && (low & 0xe6u) == 0xe6u ? SIRIUS_ISA_V4 : SIRIUS_ISA_V3;
}

int32_t sirius_isa(void) {
  static int32_t cached; /* 0: not known yet; else the ISA + 2 */
  int32_t isa = __atomic_load_n(&cached, __ATOMIC_RELAXED) - 2;
  if (isa == -2) {
    isa = detect_isa();
    const char *wanted = getenv("SIRIUS_ISA");
    if (wanted && strcmp(wanted, "v3") == 0 && isa > SIRIUS_ISA_V3) isa = SIRIUS_ISA_V3;
    __atomic_store_n(&cached, isa + 2, __ATOMIC_RELAXED);
  }
  return isa;
}

/* ---- opening ---- */

typedef struct Opened {
  struct Opened *next;
  char *path;
  dev_t device;
  ino_t inode;
  struct timespec modified;
  void *handle;
  const SiriusBundle *bundle;
} Opened;

static Opened *opened;
static pthread_mutex_t opened_mutex = PTHREAD_MUTEX_INITIALIZER;

/* The path spelt with `turns` times "/." before its last part: the loader compares spellings before files, and
 * would return the former object for a file that has been replaced. */
static char *respell(const char *path, int turns) {
  const char *slash = strrchr(path, '/');
  const size_t head = slash ? (size_t)(slash - path) : 0;
  char *result = malloc(strlen(path) + 2 * (size_t)turns + 3);
  if (!result) return NULL;
  char *end = result;
  if (slash) {
    memcpy(end, path, head);
    end += head;
  } else {
    *end++ = '.'; /* a bare name would be searched for in the library path */
  }
  for (int i = 0; i < turns; ++i) {
    memcpy(end, "/.", 2);
    end += 2;
  }
  *end++ = '/';
  strcpy(end, slash ? slash + 1 : path);
  return result;
}

/* NULL, or what is wrong with a loaded bundle. */
static const char *check(const SiriusBundle *bundle) {
  static char version[128];
  if (!bundle) return "not a sirius_tf bundle (no symbol sirius_bundle)";
  if (bundle->abi_version != SIRIUS_ABI_VERSION) {
    snprintf(version, sizeof version, "bundle has ABI version %d, this sirius_tf has %d: convert the model again",
             bundle->abi_version, SIRIUS_ABI_VERSION);
    return version;
  }
  return NULL;
}

static const SiriusBundle *open_locked(const char *path, const struct stat *info, char *error, size_t size) {
  int turns = 0;
  for (const Opened *o = opened; o; o = o->next) {
    if (strcmp(o->path, path) != 0) continue;
    if (o->device == info->st_dev && o->inode == info->st_ino &&
        o->modified.tv_sec == info->st_mtim.tv_sec && o->modified.tv_nsec == info->st_mtim.tv_nsec)
      return o->bundle;
    ++turns;
  }
  char *spelling = respell(path, turns);
  Opened *entry = calloc(1, sizeof *entry);
  char *copy = strdup(path);
  const char *problem = "out of memory";
  void *handle = NULL;
  if (spelling && entry && copy) {
    handle = dlopen(spelling, RTLD_NOW | RTLD_LOCAL);
    problem = handle ? check(dlsym(handle, "sirius_bundle")) : dlerror();
  }
  if (handle && !problem) {
    for (const Opened *o = opened; o; o = o->next)
      if (o->handle == handle && (o->modified.tv_sec != info->st_mtim.tv_sec ||
                                  o->modified.tv_nsec != info->st_mtim.tv_nsec))
        problem = "bundle was overwritten while in use; replace the file by renaming, or restart the process";
  }
  if (problem) snprintf(error, size, "%s: %s", path, problem);
  free(spelling);
  if (problem) {
    if (handle) dlclose(handle);
    free(copy);
    free(entry);
    return NULL;
  }
  *entry = (Opened){opened, copy, info->st_dev, info->st_ino, info->st_mtim, handle,
                    dlsym(handle, "sirius_bundle")};
  opened = entry;
  return entry->bundle;
}

/* FNV-1a-64 of a file. Returns 0, or 1 if it cannot be read. */
static int hash_file(const char *path, uint64_t *hash) {
  FILE *file = fopen(path, "rb");
  if (!file) return 1;
  uint64_t h = 0xcbf29ce484222325u;
  unsigned char buffer[4096];
  size_t n;
  while ((n = fread(buffer, 1, sizeof buffer, file)) > 0)
    for (size_t i = 0; i < n; ++i) h = (h ^ buffer[i]) * 0x100000001b3u;
  const int failed = ferror(file);
  fclose(file);
  *hash = h;
  return failed;
}

/* A bundle in the assets of a SavedModel holds copies of its variables. Returns 0 if they are those of the
 * checkpoint, which may have changed since the file was opened first. */
static int check_variables(const char *path, const SiriusBundle *bundle, char *error, size_t size) {
  if (bundle->variables_hash[0] == '\0') return 0;
  const char *slash = strrchr(path, '/');
  char *index = NULL, hex[17];
  if (asprintf(&index, "%.*s/../variables/variables.index", slash ? (int)(slash - path) : 1, slash ? path : ".") < 0) {
    snprintf(error, size, "out of memory");
    return 1;
  }
  uint64_t hash = 0;
  const int missing = hash_file(index, &hash);
  snprintf(hex, sizeof hex, "%016llx", (unsigned long long)hash);
  const int differs = missing || strcmp(hex, bundle->variables_hash) != 0;
  if (differs)
    snprintf(error, size, "%s: its weights are not those of %s, which %s; renew them with tools/convert --refresh",
             path, index, missing ? "cannot be read" : "has changed");
  free(index);
  return differs;
}

const SiriusBundle *sirius_open(const char *path, char *error, size_t error_bytes) {
  struct stat info;
  if (sirius_isa() < 0) {
    snprintf(error, error_bytes, "%s: this CPU lacks x86-64-v3 (AVX2, FMA, BMI2), which sirius_tf needs", path);
    return NULL;
  }
  if (stat(path, &info) != 0) {
    snprintf(error, error_bytes, "%s: %m", path);
    return NULL;
  }
  pthread_mutex_lock(&opened_mutex);
  const SiriusBundle *bundle = open_locked(path, &info, error, error_bytes);
  pthread_mutex_unlock(&opened_mutex);
  return bundle && check_variables(path, bundle, error, error_bytes) == 0 ? bundle : NULL;
}

const SiriusRegionInfo *sirius_find_region(const SiriusBundle *bundle, const char *name) {
  for (int32_t i = 0; i < bundle->n_regions; ++i)
    if (strcmp(bundle->regions[i].name, name) == 0) return &bundle->regions[i];
  return NULL;
}

/* ---- workspaces ---- */

typedef struct {
  void *data;
  size_t bytes;
} Workspace;

/* As many as calls ever ran at once, not as threads ever called. */
static struct {
  pthread_mutex_t mutex;
  int32_t count;
  Workspace free[POOL];
} pool = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void lock_all(void) {
  pthread_mutex_lock(&opened_mutex);
  pthread_mutex_lock(&pool.mutex);
}

static void unlock_all(void) {
  pthread_mutex_unlock(&pool.mutex);
  pthread_mutex_unlock(&opened_mutex);
}

/* A fork must not copy a mutex that another thread holds. */
__attribute__((constructor)) static void watch_forks(void) {
  __register_atfork(lock_all, unlock_all, unlock_all, NULL);
}

static int take_workspace(size_t bytes, Workspace *result) {
  *result = (Workspace){NULL, 0};
  if (bytes == 0) return 0;
  pthread_mutex_lock(&pool.mutex);
  if (pool.count > 0) {
    int32_t best = pool.count - 1; /* the most recently used that fits, as it is still in cache */
    for (int32_t i = pool.count - 1; i >= 0; --i) {
      if (pool.free[i].bytes >= bytes) {
        best = i;
        break;
      }
    }
    *result = pool.free[best];
    --pool.count;
    memmove(&pool.free[best], &pool.free[best + 1], (size_t)(pool.count - best) * sizeof(Workspace));
  }
  pthread_mutex_unlock(&pool.mutex);
  if (result->bytes >= bytes) return 0;
  free(result->data);
  *result = (Workspace){NULL, 0};
  if (posix_memalign(&result->data, 64, bytes) != 0) return 1;
  result->bytes = bytes;
  return 0;
}

static void give_workspace(Workspace workspace) {
  if (!workspace.data) return;
  pthread_mutex_lock(&pool.mutex);
  const int kept = pool.count < POOL;
  if (kept) pool.free[pool.count++] = workspace;
  pthread_mutex_unlock(&pool.mutex);
  if (!kept) free(workspace.data);
}

/* ---- calling ---- */

typedef struct {
  SiriusCall *call;
  SiriusRun run;
} Job;

static void run_job(void *job, int32_t worker) { ((Job *)job)->run(((Job *)job)->call, worker); }

/* Outputs of which the run has found the shape were computed in memory of ours: hand them over. */
static int32_t hand_over(const SiriusRequest *r) {
  r->region->shapes(r->params, r->dims);
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
  int64_t workspace; /* bytes */
  int64_t work;      /* multiplications */
} Cost;

static int32_t run_region(const SiriusRequest *r, SiriusRun run, const Cost *cost);

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

/* With the shapes planned for so many workers: allocate and run. */
static int32_t execute(const SiriusRequest *r, SiriusRun run, const Cost *cost) {
  const SiriusRegionInfo *region = r->region;
  int32_t code = sirius_check_sizes(r);
  for (int32_t i = 0; i < region->n_out; ++i) r->out[i] = NULL;
  for (int32_t i = 0; i < region->n_out && code == SIRIUS_OK; ++i) {
    if (!sirius_is_late(region, i)) {
      code = sirius_allocate_output(r, i, &r->out[i]);
    } else if (posix_memalign(&r->out[i], 64, sirius_output_bytes(r, i) + 1) != 0) {
      snprintf(r->error, r->error_bytes, "cannot allocate output %d of region %s", i, region->name);
      code = SIRIUS_EXHAUSTED;
    }
  }
  if (code == SIRIUS_OK) code = run_region(r, run, cost);
  if (code == SIRIUS_OK && region->shapes) code = hand_over(r);
  for (int32_t i = 0; i < region->n_out; ++i)
    if (sirius_is_late(region, i)) free(r->out[i]);
  return code;
}

static int32_t run_region(const SiriusRequest *r, SiriusRun run, const Cost *cost) {
  const SiriusRegionInfo *region = r->region;
  const int32_t threads = cost->threads;
  Workspace workspace;
  if (cost->workspace < 0 || take_workspace((size_t)cost->workspace, &workspace)) {
    snprintf(r->error, r->error_bytes, "cannot allocate %lld bytes of workspace for region %s",
             (long long)cost->workspace, region->name);
    return SIRIUS_EXHAUSTED;
  }
  SiriusBarrier barrier = {0};
  SiriusQueue queues[threads];
  memset(queues, 0, sizeof queues);
  SiriusCall call = {.in = r->in,
                     .out = r->out,
                     .params = r->params,
                     .workspace = workspace.data,
                     .weights = r->bundle->weights + region->weights_offset,
                     .threads = threads,
                     .barrier = &barrier,
                     .queues = queues,
                     .began = sirius_now(),
                     .expected = cost->work / MOST_PER_NS / threads,
                     .wait = sirius_wait,
                     .wake = sirius_wake};
  Job job = {&call, run};
  const uint32_t denormals = sirius_flush_denormals();
  sirius_team_run(threads, run_job, &job);
  if (threads > 1) note_load(region, call.crowded || sirius_is_crowded(&call));
  sirius_restore_denormals(denormals);
  give_workspace(workspace);
  return call.failed ? sirius_report(r, &call.error) : SIRIUS_OK;
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
  if (r->region->plan(r->in, 1, r->params, r->dims, &cost.workspace, &cost.work, &problem))
    return sirius_report(r, &problem);
  threads = sirius_team_acquire(workers_for(r, threads, cost.work));
  if (threads <= 1) return execute(r, run, &cost);
  cost.threads = threads;
  int32_t code;
  if (r->region->plan(r->in, threads, r->params, r->dims, &cost.workspace, &cost.work, &problem))
    code = sirius_report(r, &problem);
  else
    code = execute(r, run, &cost);
  sirius_team_release();
  return code;
}

int32_t sirius_call(const SiriusBundle *bundle, const SiriusRegionInfo *region, const SiriusTensor *in,
                    int32_t n_in, SiriusAllocate allocate, void *context, int32_t threads, char *error,
                    size_t error_bytes) {
  int64_t params[STACK_ITEMS], dims[STACK_ITEMS][SIRIUS_MAX_RANK];
  void *out[STACK_ITEMS];
  SiriusRequest request = {bundle, region, in, params, out, dims, allocate, context, error, error_bytes};
  int32_t code = sirius_check_inputs(&request, n_in);
  if (code != SIRIUS_OK) return code;
  const size_t n_params = (size_t)region->n_params, n_out = (size_t)region->n_out;
  void *heap = NULL;
  if (n_params > STACK_ITEMS || n_out > STACK_ITEMS) {
    heap = malloc(n_params * sizeof *params + n_out * (sizeof *dims + sizeof *out));
    if (!heap) {
      snprintf(error, error_bytes, "out of memory");
      return SIRIUS_EXHAUSTED;
    }
    request.params = heap;
    request.dims = (int64_t(*)[SIRIUS_MAX_RANK])(request.params + n_params);
    request.out = (void **)(request.dims + n_out);
  }
  code = sirius_cuda_call(&request);
  if (code == SIRIUS_ELSEWHERE) code = plan_and_execute(&request, threads);
  free(heap);
  return code;
}
