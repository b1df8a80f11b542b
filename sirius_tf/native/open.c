/* SPDX-License-Identifier: Apache-2.0
 *
 * The bundles of this process. A bundle is open while somebody uses it; a file that takes the place of another one is a
 * bundle of its own, beside the former one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bundle_file.h"
#include "cuda_kernels.h"
#include "host.h"
#include "team.h"

#define PROBLEM_BYTES 1024

/* Which file, in which state. */
typedef struct {
  dev_t device;
  ino_t inode;
  off_t bytes;
  struct timespec modified, changed;
} Identity;

struct SiriusOpened {
  SiriusOpened *next; /* an older one */
  char *path;
  int32_t uses, pins;
  Identity identity;
  int copied; /* into memory: the file may be overwritten */
  void *handle;
  const SiriusBundle *bundle;
};

static SiriusOpened *opened;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void lock(void) { pthread_mutex_lock(&mutex); }
static void unlock(void) { pthread_mutex_unlock(&mutex); }

/* A fork must not copy a mutex that another thread holds. */
__attribute__((constructor)) static void watch_forks(void) { __register_atfork(lock, unlock, unlock, NULL); }

static Identity identity_of(const struct stat *info) {
  Identity identity; /* with the bytes between its members, as it is compared by memory */
  memset(&identity, 0, sizeof identity);
  identity.device = info->st_dev;
  identity.inode = info->st_ino;
  identity.bytes = info->st_size;
  identity.modified = info->st_mtim;
  identity.changed = info->st_ctim;
  return identity;
}

/* Loads the object behind a descriptor. The loader compares names before files, and would return what it has loaded under
 * the same name, though the descriptor was another file's then: "/." and "//" are the bits of a number that is new. */
static void *load(int file) {
  static uint32_t count;
  char name[128] = "/proc/self/fd", *end = name + strlen(name);
  const uint32_t number = count++;
  for (int bit = 0; bit < 32; ++bit) {
    *end++ = '/';
    *end++ = number >> bit & 1 ? '.' : '/';
  }
  sprintf(end, "/%d", file);
  return dlopen(name, RTLD_NOW | RTLD_LOCAL);
}

/* SIRIUS_OK, or what is wrong with what was loaded for an entry. */
static int32_t check(const SiriusOpened *entry, char *problem) {
  if (!entry->bundle) {
    snprintf(problem, PROBLEM_BYTES, "not a sirius_tf bundle (no symbol sirius_bundle)");
    return SIRIUS_DAMAGED;
  }
  if (entry->bundle->abi_version != SIRIUS_ABI_VERSION) {
    snprintf(problem, PROBLEM_BYTES, "bundle has ABI version %d, this sirius_tf has %d: convert the model again",
             entry->bundle->abi_version, SIRIUS_ABI_VERSION);
    return SIRIUS_STALE;
  }
  return SIRIUS_OK;
}

/* 1 if the file was written since it was loaded. Then what the loader would return is neither the former object nor this
 * one: pages of it that had been changed, by relocation, are what the file has there now. */
static int is_overwritten(const Identity *identity) {
  for (const SiriusOpened *o = opened; o; o = o->next) {
    const Identity *former = &o->identity;
    if (!o->copied && former->device == identity->device && former->inode == identity->inode &&
        memcmp(&former->modified, &identity->modified, sizeof former->modified) != 0)
      return 1;
  }
  return 0;
}

/* Loads what an entry is about, of which the file is known to be whole, and puts the entry into the list. */
static int32_t add(SiriusOpened *entry, int file, char *problem) {
  if (!entry->copied && is_overwritten(&entry->identity)) {
    snprintf(problem, PROBLEM_BYTES,
             "bundle was overwritten while in use; replace the file by renaming, or restart the process");
    return SIRIUS_STALE;
  }
  entry->handle = load(file);
  if (!entry->handle) {
    const char *hint = access("/proc/self/fd", X_OK) == 0 ? "" : " (/proc is not mounted)";
    snprintf(problem, PROBLEM_BYTES, "%s%s", dlerror(), hint);
    return SIRIUS_INTERNAL;
  }
  entry->bundle = dlsym(entry->handle, "sirius_bundle");
  const int32_t code = check(entry, problem);
  if (code != SIRIUS_OK) {
    dlclose(entry->handle);
    return code;
  }
  entry->uses = 1;
  entry->next = opened;
  opened = entry;
  return SIRIUS_OK;
}

/* One more use of the entry of a file, or NULL. */
static SiriusOpened *take(const char *path, const Identity *identity) {
  SiriusOpened *o = opened;
  while (o && (strcmp(o->path, path) != 0 || memcmp(&o->identity, identity, sizeof *identity) != 0)) o = o->next;
  if (o) ++o->uses;
  return o;
}

static void destroy(SiriusOpened *entry) {
  free(entry->path);
  free(entry);
}

static SiriusOpened *create(const char *path, const Identity *identity) {
  SiriusOpened *entry = calloc(1, sizeof *entry);
  if (!entry) return NULL;
  entry->path = strdup(path);
  entry->identity = *identity;
  if (entry->path) return entry;
  free(entry);
  return NULL;
}

/* Reading all of a file takes its time: others may open bundles, and fork, meanwhile. */
static int32_t open_file(const char *path, int file, SiriusOpened **result, char *problem) {
  struct stat info;
  if (fstat(file, &info) != 0) {
    snprintf(problem, PROBLEM_BYTES, "%m");
    return SIRIUS_INTERNAL;
  }
  const Identity identity = identity_of(&info);
  lock();
  *result = take(path, &identity);
  unlock();
  if (*result) return SIRIUS_OK;
  SiriusOpened *entry = create(path, &identity);
  if (!entry) {
    snprintf(problem, PROBLEM_BYTES, "out of memory");
    return SIRIUS_EXHAUSTED;
  }
  entry->copied = sirius_wants_copy();
  const int copy = entry->copied ? sirius_copy_file(file) : file;
  int32_t code = SIRIUS_EXHAUSTED;
  if (copy < 0)
    snprintf(problem, PROBLEM_BYTES, "cannot be copied into memory: %m");
  else
    code = sirius_check_file(copy, problem, PROBLEM_BYTES);
  if (code == SIRIUS_OK) {
    lock();
    *result = take(path, &identity); /* another thread may have been faster */
    if (!*result && (code = add(entry, copy, problem)) == SIRIUS_OK) *result = entry;
    unlock();
  }
  if (copy != file && copy >= 0) close(copy);
  if (*result != entry) destroy(entry);
  return code;
}

/* FNV-1a-64 of a file. Returns 0, or 1 if it cannot be read. */
static int hash_file(const char *path, uint64_t *hash) {
  FILE *file = fopen(path, "rbe");
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

char *sirius_beside(const char *path, const char *file) {
  static const char assets[] = "/assets";
  const int known = sizeof assets - 1;
  const char *slash = strrchr(path, '/');
  const int head = slash ? (int)(slash - path) : 0;
  char *result = NULL;
  int written; /* "assets/.." may be elsewhere, if it is a link */
  if (head >= known && memcmp(path + head - known, assets, (size_t)known) == 0)
    written = asprintf(&result, "%.*s/%s", head - known, path, file);
  else
    written = asprintf(&result, "%.*s/../%s", slash ? head : 1, slash ? path : ".", file);
  return written < 0 ? NULL : result;
}

/* A bundle in the assets of a SavedModel holds copies of its variables. Returns SIRIUS_OK if they are those of the
 * checkpoint, which may have changed since the file was opened first. */
static int32_t check_variables(const char *path, const SiriusBundle *bundle, char *problem) {
  if (bundle->variables_hash[0] == '\0') return SIRIUS_OK;
  char *index = sirius_beside(path, "variables/variables.index"), hex[17];
  if (!index) {
    snprintf(problem, PROBLEM_BYTES, "out of memory");
    return SIRIUS_EXHAUSTED;
  }
  uint64_t hash = 0;
  const int missing = hash_file(index, &hash);
  snprintf(hex, sizeof hex, "%016llx", (unsigned long long)hash);
  const int32_t code = missing ? SIRIUS_MISSING : strcmp(hex, bundle->variables_hash) == 0 ? SIRIUS_OK : SIRIUS_STALE;
  if (code != SIRIUS_OK)
    snprintf(problem, PROBLEM_BYTES, "its weights are not those of %s, which %s; renew them with sirius-convert --refresh",
             index, missing ? "cannot be read" : "has changed");
  free(index);
  return code;
}

static int32_t open_path(const char *path, SiriusOpened **result, char *problem) {
  if (sirius_isa() < 0) {
    snprintf(problem, PROBLEM_BYTES, "this CPU lacks x86-64-v3 (AVX2, FMA, BMI2), which sirius_tf needs");
    return SIRIUS_STALE;
  }
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    const int32_t code = errno == ENOENT || errno == ENOTDIR ? SIRIUS_MISSING : SIRIUS_INTERNAL;
    snprintf(problem, PROBLEM_BYTES, "%m");
    return code;
  }
  int32_t code = open_file(path, file, result, problem);
  close(file);
  if (code != SIRIUS_OK) return code;
  code = check_variables(path, (*result)->bundle, problem);
  if (code != SIRIUS_OK) sirius_close(*result);
  return code;
}

int32_t sirius_open(const char *path, SiriusOpened **result, char *error, size_t error_bytes) {
  char problem[PROBLEM_BYTES];
  const int32_t code = open_path(path, result, problem);
  if (code == SIRIUS_OK) return code;
  snprintf(error, error_bytes, "%s: %s", path, problem);
  *result = NULL;
  return code;
}

static int is_last(const SiriusOpened *entry) {
  const SiriusOpened *o = opened;
  while (o && o->handle != entry->handle) o = o->next;
  return !o;
}

void sirius_close(SiriusOpened *entry) {
  lock();
  const int unused = --entry->uses == 0;
  if (unused) {
    SiriusOpened **place = &opened;
    while (*place != entry) place = &(*place)->next;
    *place = entry->next;
    if (is_last(entry)) sirius_cuda_forget(entry->bundle);
    dlclose(entry->handle);
  }
  unlock();
  if (unused) destroy(entry);
}

void sirius_pin(SiriusOpened *entry) {
  lock();
  ++entry->pins;
  unlock();
}

void sirius_unpin(SiriusOpened *entry) {
  lock();
  --entry->pins;
  unlock();
  sirius_close(entry);
}

SiriusOpened *sirius_pinned(const char *path, const char *region, const char *digest) {
  lock();
  SiriusOpened *o = opened;
  for (; o; o = o->next) {
    if (o->pins == 0 || strcmp(o->path, path) != 0) continue;
    const SiriusRegionInfo *found = sirius_find_region(o->bundle, region);
    if (found && strcmp(found->digest, digest) == 0) break;
  }
  if (o) ++o->uses;
  unlock();
  return o;
}

const SiriusBundle *sirius_opened_bundle(const SiriusOpened *entry) { return entry->bundle; }

const SiriusRegionInfo *sirius_find_region(const SiriusBundle *bundle, const char *name) {
  for (int32_t i = 0; i < bundle->n_regions; ++i)
    if (strcmp(bundle->regions[i].name, name) == 0) return &bundle->regions[i];
  return NULL;
}
