/* SPDX-License-Identifier: Apache-2.0 */
#include "workspace.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "team.h"

#define POOL 32 /* workspaces kept for later calls */

/* As many as calls ever ran at once, not as threads ever called. */
static struct {
  pthread_mutex_t mutex;
  int32_t count;
  SiriusWorkspace free[POOL];
} pool = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void lock(void) { pthread_mutex_lock(&pool.mutex); }
static void unlock(void) { pthread_mutex_unlock(&pool.mutex); }

/* A fork must not copy a mutex that another thread holds. */
__attribute__((constructor)) static void watch_forks(void) { __register_atfork(lock, unlock, unlock, NULL); }

int32_t sirius_take_workspace(size_t bytes, SiriusWorkspace *result) {
  *result = (SiriusWorkspace){NULL, 0};
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
    memmove(&pool.free[best], &pool.free[best + 1], (size_t)(pool.count - best) * sizeof(SiriusWorkspace));
  }
  pthread_mutex_unlock(&pool.mutex);
  if (result->bytes >= bytes) return 0;
  free(result->data);
  *result = (SiriusWorkspace){NULL, 0};
  if (posix_memalign(&result->data, 64, bytes) != 0) return 1;
  result->bytes = bytes;
  return 0;
}

void sirius_give_workspace(SiriusWorkspace workspace) {
  if (!workspace.data) return;
  pthread_mutex_lock(&pool.mutex);
  const int kept = pool.count < POOL;
  if (kept) pool.free[pool.count++] = workspace;
  pthread_mutex_unlock(&pool.mutex);
  if (!kept) free(workspace.data);
}
