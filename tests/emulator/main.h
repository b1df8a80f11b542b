/* SPDX-License-Identifier: Apache-2.0
 *
 * The program that emulator.py builds for a source of kernels: reads a launch from a file, runs it, and writes
 * what is in the buffers then.
 *
 * A launch: Header; for each buffer its size (8 bytes) and contents; for each argument Argument and, if it is
 * no pointer, its bytes. An Argument that is a pointer has the number of its buffer as `size`.
 */
#pragma once
#include <signal.h>

#include "kernels.h"

namespace emu {

struct Header { char kernel[128]; int64_t grid, block, shared_bytes, cooperative, order, seed, buffers, arguments; };

/* ---- device memory: pages that nobody may touch around each buffer, and 0xff up to them */

constexpr size_t kPage = 4096, kFence = 1 << 20, kAligned = 256; /* as cudaMalloc aligns */

struct Buffer { char *memory, *pages; size_t bytes, length; };
static Buffer *buffers;
static int n_buffers;

EMU_UNCHECKED static void poison(const Buffer *b, bool poisoned) {
#if EMU_ASAN
  if (poisoned) {
    ASAN_POISON_MEMORY_REGION(b->pages, b->memory - b->pages);
    ASAN_POISON_MEMORY_REGION(b->memory + b->bytes, b->pages + b->length - b->memory - b->bytes);
  } else {
    ASAN_UNPOISON_MEMORY_REGION(b->pages, b->length);
  }
#endif
  (void)b, (void)poisoned;
}
EMU_UNCHECKED static Buffer allocate(size_t bytes) {
  const size_t used = (bytes + kAligned - 1) / kAligned * kAligned, length = (used + kPage - 1) / kPage * kPage + kPage;
  char *region = (char *)mmap(nullptr, length + 2 * kFence, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (region == MAP_FAILED) fail("no memory for a buffer of %zu bytes", bytes);
  char *pages = region + kFence;
  mprotect(pages, length, PROT_READ | PROT_WRITE);
  char *memory = pages + length - used;
  memset(pages, 0xff, memory - pages);
  memset(memory + bytes, 0xff, used - bytes);
  return {memory, pages, bytes, length};
}
/* The number of the buffer whose surroundings hold `p`, or -1. */
EMU_UNCHECKED static int nearby(const char *p) {
  for (int i = 0; i < n_buffers; i++)
    if (p >= buffers[i].pages - kFence && p < buffers[i].pages + buffers[i].length + kFence) return i;
  return -1;
}
EMU_UNCHECKED static void on_fault(int, siginfo_t *info, void *) {
  const char *p = (const char *)info->si_addr;
  const int i = nearby(p);
  if (i < 0) fail("a fault at address %p, which is in no buffer (or a stack overflow)", (const void *)p);
  fail("out of bounds: byte %ld of buffer %d, which has %zu", (long)(p - buffers[i].memory), i, buffers[i].bytes);
}
EMU_UNCHECKED static void check_surroundings() {
  for (int i = 0; i < n_buffers; i++) {
    const Buffer *b = &buffers[i];
    const long before = b->memory - b->pages, bytes = b->bytes, after = b->length - before;
    for (long at = -before; at < after; at = at == -1 ? bytes : at + 1)
      if (b->memory[at] != (char)0xff)
        fail("out of bounds: byte %ld of buffer %d, which has %ld, was written", at, i, bytes);
  }
}

EMU_UNCHECKED static void read_bytes(FILE *file, void *to, size_t bytes) {
  if (fread(to, 1, bytes, file) != bytes) fail("the launch ends too early");
}

EMU_UNCHECKED static void check(const Argument *parameters, const Argument *args, int n) {
  int count = 0;
  while (parameters[count].kind) count++;
  if (n != count) fail("%d arguments are passed, the kernel has %d", n, count);
  for (int i = 0; i < n; i++) {
    if (args[i].kind != parameters[i].kind)
      fail("argument %d is of kind '%c', the parameter of kind '%c' (p pointer, i integer, f float, V struct)", i,
           (char)args[i].kind, (char)parameters[i].kind);
    if (args[i].kind != 'p' && args[i].size != parameters[i].size)
      fail("argument %d has %ld bytes, the parameter %ld", i, (long)args[i].size, (long)parameters[i].size);
  }
}

EMU_UNCHECKED static int launch(FILE *file, FILE *output) {
  Header header;
  machine.kernel = "emulator";
  read_bytes(file, &header, sizeof header);
  machine.kernel = header.kernel;
  const Kernel *kernel = find_kernel(header.kernel);
  if (!kernel) fail("there is no such kernel");
  buffers = (Buffer *)calloc(header.buffers + 1, sizeof(Buffer));
  for (; n_buffers < header.buffers; n_buffers++) {
    int64_t bytes;
    read_bytes(file, &bytes, sizeof bytes);
    buffers[n_buffers] = allocate(bytes);
    read_bytes(file, buffers[n_buffers].memory, bytes);
    poison(&buffers[n_buffers], true);
  }
  const int n = (int)header.arguments;
  Argument *arguments = (Argument *)calloc(n + 1, sizeof(Argument));
  void **values = (void **)calloc(n + 1, sizeof(void *));
  for (int i = 0; i < n; i++) {
    read_bytes(file, &arguments[i], sizeof(Argument));
    if (arguments[i].kind == 'p') {
      values[i] = &buffers[arguments[i].size].memory;
    } else {
      values[i] = aligned_alloc(16, (arguments[i].size + 31) / 16 * 16);
      read_bytes(file, values[i], arguments[i].size);
    }
  }
  check(kernel->parameters, arguments, n);
  machine.cooperative = header.cooperative;
  machine.order = (int)header.order;
  machine.random = header.seed;
  run_kernel(kernel, values, header.grid, header.block, header.shared_bytes);
  for (int i = 0; i < n_buffers; i++) poison(&buffers[i], false);
  check_surroundings();
  for (int i = 0; i < n_buffers; i++) fwrite(buffers[i].memory, 1, buffers[i].bytes, output);
  return fclose(output);
}

}  // namespace emu

int main(int, char **argv) {
  emu::adopt_fiber(&emu::machine.fiber);
  static char stack[1 << 16];
  stack_t alternative = {};
  alternative.ss_sp = stack;
  alternative.ss_size = sizeof stack;
  sigaltstack(&alternative, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = emu::on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
  FILE *file = fopen(argv[1], "rb"), *output = fopen(argv[2], "wb");
  if (!file || !output) return 1;
  return emu::launch(file, output);
}
