// SPDX-License-Identifier: Apache-2.0
// Preloaded (LD_PRELOAD): at the n-th call of the C library about a file below a folder, the process
// is killed, or the call fails. Calls that read are counted only if they may fail.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum Act { COUNT_CHANGES, COUNT_ALL, KILL, FAIL, FULL };  // kill_points.py has the same
enum Kind { READS, CHANGES, GROWS };                      // a full disk refuses what grows only

static atomic_long calls;
static long number = -1;
static enum Act act;
static int error;
static int no_exchange;
static char folder[PATH_MAX];

// Other programs that this one starts are left alone.
__attribute__((constructor)) static void begin(void) { unsetenv("LD_PRELOAD"); }

void kill_points_arm(const char *below, enum Act what, long at, int number_of_error, int without) {
  strncpy(folder, below, sizeof folder - 1);
  calls = 0, number = at, act = what, error = number_of_error, no_exchange = without;
}

long kill_points_disarm(void) {
  folder[0] = 0;
  return calls;
}

static int is_below(const char *path) { return !strncmp(path, folder, strlen(folder)); }

static int of_descriptor(int descriptor) {
  char name[32], path[PATH_MAX];
  snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
  ssize_t size = folder[0] ? readlink(name, path, sizeof path - 1) : -1;
  if (size < 0) return 0;
  path[size] = 0;
  return is_below(path);
}

static int of_path(int at, const char *path) {
  if (!folder[0] || !path) return 0;
  if (path[0] == '/') return is_below(path);
  char here[PATH_MAX];
  return at == AT_FDCWD ? getcwd(here, sizeof here) && is_below(here) : of_descriptor(at);
}

// Whether a call is to fail; errno says how.
static int fails(int concerned, enum Kind kind) {
  if (!concerned || (kind == READS && act != COUNT_ALL && act != FAIL)) return 0;
  long call = calls++;
  if (act == KILL && call == number) raise(SIGKILL);
  if (!(act == FAIL && call == number) && !(act == FULL && call >= number && kind == GROWS)) return 0;
  errno = error;
  return 1;
}

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

#define WRAP(type, name, parameters, arguments, concerned, kind, failed) \
  type name parameters {                                                 \
    if (fails(concerned, kind)) return failed;                           \
    return REAL(name) arguments;                                         \
  }

static enum Kind opens(int flags) {
  return flags & O_CREAT ? GROWS : flags & (O_TRUNC | O_WRONLY | O_RDWR) ? CHANGES : READS;
}

#define OPEN(name)                                                        \
  int name(const char *path, int flags, ...) {                            \
    va_list rest;                                                         \
    va_start(rest, flags);                                                \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                         \
    if (fails(of_path(AT_FDCWD, path), opens(flags))) return -1;          \
    return REAL(name)(path, flags, mode);                                 \
  }
#define OPENAT(name)                                                      \
  int name(int at, const char *path, int flags, ...) {                    \
    va_list rest;                                                         \
    va_start(rest, flags);                                                \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                         \
    if (fails(of_path(at, path), opens(flags))) return -1;                \
    return REAL(name)(at, path, flags, mode);                             \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
WRAP(FILE *, fopen, (const char *path, const char *mode), (path, mode), of_path(AT_FDCWD, path),
     mode[0] == 'r' ? READS : GROWS, NULL)
WRAP(FILE *, fopen64, (const char *path, const char *mode), (path, mode), of_path(AT_FDCWD, path),
     mode[0] == 'r' ? READS : GROWS, NULL)
WRAP(ssize_t, read, (int fd, void *to, size_t n), (fd, to, n), of_descriptor(fd), READS, -1)
WRAP(ssize_t, pread, (int fd, void *to, size_t n, off_t at), (fd, to, n, at), of_descriptor(fd), READS,
     -1)
WRAP(ssize_t, pread64, (int fd, void *to, size_t n, off64_t at), (fd, to, n, at), of_descriptor(fd),
     READS, -1)
WRAP(ssize_t, write, (int fd, const void *from, size_t n), (fd, from, n), of_descriptor(fd), GROWS, -1)
WRAP(ssize_t, pwrite, (int fd, const void *from, size_t n, off_t at), (fd, from, n, at),
     of_descriptor(fd), GROWS, -1)
WRAP(ssize_t, pwrite64, (int fd, const void *from, size_t n, off64_t at), (fd, from, n, at),
     of_descriptor(fd), GROWS, -1)
WRAP(ssize_t, writev, (int fd, const struct iovec *from, int n), (fd, from, n), of_descriptor(fd), GROWS,
     -1)
ssize_t sendfile(int to, int from, off_t *at, size_t n);
ssize_t sendfile64(int to, int from, off64_t *at, size_t n);
WRAP(ssize_t, sendfile, (int to, int from, off_t *at, size_t n), (to, from, at, n), of_descriptor(to),
     GROWS, -1)
WRAP(ssize_t, sendfile64, (int to, int from, off64_t *at, size_t n), (to, from, at, n),
     of_descriptor(to), GROWS, -1)
WRAP(int, ftruncate, (int fd, off_t n), (fd, n), of_descriptor(fd), GROWS, -1)
WRAP(int, ftruncate64, (int fd, off64_t n), (fd, n), of_descriptor(fd), GROWS, -1)
WRAP(int, fsync, (int fd), (fd), of_descriptor(fd), GROWS, -1)
WRAP(int, fdatasync, (int fd), (fd), of_descriptor(fd), GROWS, -1)
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode), of_path(AT_FDCWD, path), GROWS, -1)
WRAP(int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), of_path(at, path), GROWS,
     -1)
WRAP(int, rename, (const char *old, const char *new), (old, new), of_path(AT_FDCWD, new), GROWS, -1)
WRAP(int, renameat, (int from, const char *old, int to, const char *new), (from, old, to, new),
     of_path(to, new), GROWS, -1)
WRAP(int, link, (const char *old, const char *new), (old, new), of_path(AT_FDCWD, new), GROWS, -1)
WRAP(int, symlink, (const char *old, const char *new), (old, new), of_path(AT_FDCWD, new), GROWS, -1)
WRAP(int, unlink, (const char *path), (path), of_path(AT_FDCWD, path), CHANGES, -1)
WRAP(int, unlinkat, (int at, const char *path, int flags), (at, path, flags), of_path(at, path), CHANGES,
     -1)
WRAP(int, rmdir, (const char *path), (path), of_path(AT_FDCWD, path), CHANGES, -1)
WRAP(int, chmod, (const char *path, mode_t mode), (path, mode), of_path(AT_FDCWD, path), CHANGES, -1)
WRAP(int, fchmod, (int fd, mode_t mode), (fd, mode), of_descriptor(fd), CHANGES, -1)
WRAP(int, fchmodat, (int at, const char *path, mode_t mode, int flags), (at, path, mode, flags),
     of_path(at, path), CHANGES, -1)
WRAP(int, utimensat, (int at, const char *path, const struct timespec t[2], int flags),
     (at, path, t, flags), of_path(at, path), CHANGES, -1)
WRAP(int, futimens, (int fd, const struct timespec t[2]), (fd, t), of_descriptor(fd), CHANGES, -1)
int flock(int fd, int operation);
WRAP(int, flock, (int fd, int operation), (fd, operation), of_descriptor(fd), READS, -1)

long syscall(long name, ...) {
  va_list rest;
  va_start(rest, name);
  long a[6];
  for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
  va_end(rest);
  if (name == SYS_renameat2) {
    if (fails(of_path((int)a[2], (const char *)a[3]), GROWS)) return -1;
    if (no_exchange && folder[0]) {
      errno = EINVAL;
      return -1;
    }
  }
  return REAL(syscall)(name, a[0], a[1], a[2], a[3], a[4], a[5]);
}
