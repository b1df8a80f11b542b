// SPDX-License-Identifier: Apache-2.0
// Preloaded (LD_PRELOAD): of the allocations that the code of one library asks for, the n-th fails.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);

static atomic_long left;  // until one fails; 0: none does
static uintptr_t begin, end;

// Where the library is; 0 if it is not loaded.
int allocations_of(const char *library) {
  char line[4096];
  FILE *maps = fopen("/proc/self/maps", "r");
  begin = end = 0;
  while (maps && fgets(line, sizeof line, maps)) {
    unsigned long first, last;
    if (!strstr(line, library) || sscanf(line, "%lx-%lx", &first, &last) != 2) continue;
    if (!begin) begin = first;
    end = last;
  }
  if (maps) fclose(maps);
  return begin != 0;
}

void allocations_fail(long number) { left = number; }

long allocations_left(void) { return left; }

static int fails(void *caller) {
  if (!left || (uintptr_t)caller < begin || (uintptr_t)caller >= end) return 0;
  return atomic_fetch_sub(&left, 1) == 1;
}

#define FAILS fails(__builtin_return_address(0))

void *malloc(size_t bytes) { return FAILS ? NULL : __libc_malloc(bytes); }

void *calloc(size_t count, size_t bytes) { return FAILS ? NULL : __libc_calloc(count, bytes); }

int posix_memalign(void **data, size_t align, size_t bytes) {
  void *made = FAILS ? NULL : __libc_memalign(align, bytes);
  if (!made) return ENOMEM;
  *data = made;
  return 0;
}

void *mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset) {
  if (!FAILS) return (void *)syscall(SYS_mmap, at, bytes, protection, flags, file, offset);
  errno = ENOMEM;
  return MAP_FAILED;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
  static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
  return FAILS ? EAGAIN : real(thread, attributes, start, argument);
}
