/* SPDX-License-Identifier: Apache-2.0
 *
 * Stands before the C library's clock: monotonic time moves by 0.1 ms when it is read, and threads spend no CPU time. So
 * a test of what follows from times has the same ones on any machine.
 */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *found) {
  static long steps;
  if (clock != CLOCK_MONOTONIC && clock != CLOCK_THREAD_CPUTIME_ID) return (int)syscall(SYS_clock_gettime, clock, found);
  const long now = clock == CLOCK_MONOTONIC ? __atomic_add_fetch(&steps, 1, __ATOMIC_SEQ_CST) : 0;
  *found = (struct timespec){now / 10000, now % 10000 * 100000};
  return 0;
}
