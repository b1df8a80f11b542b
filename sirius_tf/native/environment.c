/* SPDX-License-Identifier: Apache-2.0
 *
 * What the environment says: quotas of control groups, affinity, and variables.
 */
#define _GNU_SOURCE
#include "environment.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "team.h"

static struct {
  int32_t wanted; /* of SIRIUS_THREADS; 0 if it says nothing */
  int32_t quota, may_move;
  int64_t call_limit;
} settings;

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Two numbers, of one file or of two. Returns 1 if there are both. */
static int read_numbers(const char *folder, const char *first, const char *second, long long numbers[2]) {
  const char *names[] = {first, second};
  int found = 0;
  for (int i = 0; i < 2 && names[i]; ++i) {
    char *path;
    if (asprintf(&path, "%s/%s", folder, names[i]) < 0) return 0;
    FILE *file = fopen(path, "re");
    free(path);
    if (!file) return 0;
    while (found < 2 && fscanf(file, "%lld", &numbers[found]) == 1) ++found;
    fclose(file);
  }
  return found == 2;
}

/* CPUs that the quota of one control group leaves, rounded up. Spinning beyond a quota only burns it. */
static int32_t group_quota(const char *folder) {
  long long numbers[2]; /* quota and period; "max" is no number, nor is -1 a quota */
  if (!read_numbers(folder, "cpu.max", NULL, numbers) &&
      !read_numbers(folder, "cpu.cfs_quota_us", "cpu.cfs_period_us", numbers))
    return SIRIUS_MAX_THREADS;
  if (numbers[0] <= 0 || numbers[1] <= 0) return SIRIUS_MAX_THREADS;
  const long long cpus = (numbers[0] - 1) / numbers[1] + 1;
  return cpus < SIRIUS_MAX_THREADS ? (int32_t)cpus : SIRIUS_MAX_THREADS;
}

/* The least of a group's quota and those of the groups around it. `path` is used up. In a container it may be the
 * host's, of which nothing is found but the root. */
static int32_t nested_quota(const char *root, const char *hierarchy, char *path) {
  int32_t least = SIRIUS_MAX_THREADS;
  for (char *end = path + strlen(path); end; end = strrchr(path, '/')) {
    *end = '\0';
    char *folder;
    if (asprintf(&folder, "%s%s%s", root, hierarchy, path) < 0) break;
    const int32_t quota = group_quota(folder);
    free(folder);
    if (quota < least) least = quota;
  }
  return least;
}

int32_t sirius_cpu_quota(const char *membership, const char *root) {
  int32_t least = SIRIUS_MAX_THREADS;
  FILE *file = fopen(membership, "re");
  char *line = NULL;
  size_t capacity = 0;
  while (file && getline(&line, &capacity, file) >= 0) { /* number:controllers:path */
    char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path) continue;
    *path++ = '\0';
    path[strcspn(path, "\n")] = '\0';
    *controllers = ',';
    char *cpu = strstr(controllers, ",cpu");
    const int first = controllers[1] == '\0'; /* of version 2, which has one hierarchy */
    if (!first && (!cpu || (cpu[4] != ',' && cpu[4] != '\0'))) continue;
    const int32_t quota = nested_quota(root, first ? "" : "/cpu", path);
    if (quota < least) least = quota;
  }
  free(line);
  if (file) fclose(file);
  return least;
}

/* A positive integer of the environment, or 0 if there is none. What is something else is told. */
static long positive(const char *name) {
  const char *text = getenv(name);
  if (!text) return 0;
  char *end;
  const long number = strtol(text, &end, 10);
  if (end != text && !*end && number > 0) return number;
  fprintf(stderr, "sirius_tf: %s=%s is no positive integer, and is ignored\n", name, text);
  return 0;
}

static void read_settings(void) {
  const char *move = getenv("SIRIUS_MOVE");
  settings.may_move = !move || strcmp(move, "0") != 0;
  const long threads = positive("SIRIUS_THREADS"), limit = positive("SIRIUS_CALL_LIMIT_MS");
  settings.wanted = threads < SIRIUS_MAX_THREADS ? (int32_t)threads : SIRIUS_MAX_THREADS;
  settings.call_limit = limit < INT32_MAX ? limit * INT64_C(1000000) : 0;
  settings.quota = sirius_cpu_quota("/proc/self/cgroup", "/sys/fs/cgroup");
}

int32_t sirius_may_move(void) {
  pthread_once(&once, read_settings);
  return settings.may_move;
}

int64_t sirius_call_limit(void) {
  pthread_once(&once, read_settings);
  return settings.call_limit;
}

int32_t sirius_default_threads(void) {
  pthread_once(&once, read_settings);
  if (settings.wanted) return settings.wanted;
  cpu_set_t set;
  /* More CPUs than cpu_set_t holds make the call fail; the team is smaller than that anyway. */
  const long cpus = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : sysconf(_SC_NPROCESSORS_ONLN);
  return cpus < 1 ? 1 : cpus < settings.quota ? (int32_t)cpus : settings.quota;
}
