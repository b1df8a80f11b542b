/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "workspace.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "team.h"

#define POOL 32                      /* workspaces kept for later calls, */
#define POOL_BYTES ((size_t)1 << 30) /* and their bytes, unless the one that was used last has more */
#define IDLE_NS INT64_C(60000000000) /* after which one goes, in the next call */

typedef struct {
  SiriusWorkspace workspace;
  int64_t used; /* when, in nanoseconds */
} Idle;

/* As many as calls ever ran at once, not as threads ever called. The last one was used last. */
static struct {
  pthread_mutex_t mutex;
  int32_t count;
  size_t bytes;
  Idle idle[POOL];
} pool = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void lock(void) { pthread_mutex_lock(&pool.mutex); }
static void unlock(void) { pthread_mutex_unlock(&pool.mutex); }

/* A fork must not copy a mutex that another thread holds. */
__attribute__((constructor)) static void watch_forks(void) { __register_atfork(lock, unlock, unlock, NULL); }

static SiriusWorkspace remove_idle(int32_t i) {
  const SiriusWorkspace found = pool.idle[i].workspace;
  pool.bytes -= found.bytes;
  --pool.count;
  memmove(&pool.idle[i], &pool.idle[i + 1], (size_t)(pool.count - i) * sizeof(Idle));
  return found;
}

/* One that has been used of late, as it is still in cache. A much larger one is left alone: it was for a call of another
 * size, and goes unless such a call comes again. */
static SiriusWorkspace find(size_t bytes) {
  for (int32_t i = pool.count - 1; i >= 0; --i) {
    const size_t has = pool.idle[i].workspace.bytes;
    if (has >= bytes && has / 2 <= bytes + 4096) return remove_idle(i);
  }
  return (SiriusWorkspace){0};
}

static void *map(size_t bytes, int flags) {
  void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  return data == MAP_FAILED ? NULL : data;
}

/* Addresses for all bytes, of which data decides how many are touched; those that are not need no memory. The system
 * promises them without looking, so it is asked for what is certain first. */
static int32_t reserve(size_t bytes, size_t certain, SiriusWorkspace *result) {
  void *probe = map(certain + 1, 0);
  if (!probe) return 1;
  munmap(probe, certain + 1);
  void *data = map(bytes, MAP_NORESERVE);
  if (!data) return 1;
  *result = (SiriusWorkspace){data, bytes, 1};
  return 0;
}

int32_t sirius_take_workspace(size_t bytes, size_t certain, SiriusWorkspace *result) {
  *result = (SiriusWorkspace){0};
  if (bytes == 0) return 0;
  if (bytes > POOL_BYTES && certain < bytes) return reserve(bytes, certain, result);
  lock();
  *result = find(bytes);
  unlock();
  if (result->data) return 0;
  if (posix_memalign(&result->data, 64, bytes) != 0) return 1;
  result->bytes = bytes;
  return 0;
}

static void drop(SiriusWorkspace workspace) {
  if (workspace.reserved)
    munmap(workspace.data, workspace.bytes);
  else
    free(workspace.data);
}

void sirius_give_workspace(SiriusWorkspace workspace, int64_t now) {
  if (!workspace.data) return;
  if (workspace.reserved) {
    drop(workspace);
    return;
  }
  SiriusWorkspace dropped[POOL];
  int32_t count = 0;
  lock();
  while (pool.count > 0 && (pool.count == POOL || pool.bytes + workspace.bytes > POOL_BYTES ||
                            now - pool.idle[0].used > IDLE_NS))
    dropped[count++] = remove_idle(0);
  pool.idle[pool.count++] = (Idle){workspace, now};
  pool.bytes += workspace.bytes;
  unlock();
  for (int32_t i = 0; i < count; ++i) drop(dropped[i]);
}

int64_t sirius_idle_bytes(void) {
  lock();
  const size_t bytes = pool.bytes;
  unlock();
  return (int64_t)bytes;
}
