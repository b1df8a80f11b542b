/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "host.h"

#include <cpuid.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "team.h"

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

static void lock(void) { pthread_mutex_lock(&opened_mutex); }
static void unlock(void) { pthread_mutex_unlock(&opened_mutex); }

/* A fork must not copy a mutex that another thread holds. */
__attribute__((constructor)) static void watch_forks(void) { __register_atfork(lock, unlock, unlock, NULL); }

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
