/* SPDX-License-Identifier: Apache-2.0
 *
 * The program that emulator.py builds for a source of kernels: reads a launch from a file, runs it, and writes
 * what is in the buffers then. Included behind the kernels, with EMU_KERNELS a list of EMU_KERNEL(name).
 *
 * A launch: Header; for each buffer its size (8 bytes) and contents; for each argument Argument and, if it is
 * no pointer, its bytes.
 */
#pragma once
#include <signal.h>

namespace emu {

struct Header { char kernel[128]; int64_t grid, block, shared_bytes, cooperative, order, seed, buffers, arguments; };
/* kind: 'p' a pointer to buffer number `size`, 'f' a float, 'i' an integer, 'V' a struct, of `size` bytes. */
struct Argument { int64_t kind, size; };

/* ---- calling a kernel by pointers to its arguments */

template <class T> struct Kind { static constexpr char value = 'V'; };
template <class T> struct Kind<T *> { static constexpr char value = 'p'; };
template <> struct Kind<float> { static constexpr char value = 'f'; };
template <> struct Kind<double> { static constexpr char value = 'f'; };
#define EMU_INTEGER(type) template <> struct Kind<type> { static constexpr char value = 'i'; };
EMU_INTEGER(bool) EMU_INTEGER(int8_t) EMU_INTEGER(uint8_t) EMU_INTEGER(int16_t) EMU_INTEGER(uint16_t)
EMU_INTEGER(int32_t) EMU_INTEGER(uint32_t) EMU_INTEGER(int64_t) EMU_INTEGER(uint64_t)
EMU_INTEGER(long long) EMU_INTEGER(unsigned long long)
#undef EMU_INTEGER

template <int... i> struct Indices {};
template <int n, int... i> struct Range : Range<n - 1, n - 1, i...> {};
template <int... i> struct Range<0, i...> { typedef Indices<i...> type; };
template <class T> struct Value { typedef T type; };
template <class T> struct Value<const T> { typedef T type; };

template <class... A, int... i> static void call(void (*kernel)(A...), void **args, Indices<i...>) {
  kernel(*(typename Value<A>::type *)args[i]...);
}
template <class... A> static void call(void (*kernel)(A...), void **args) {
  call(kernel, args, typename Range<sizeof...(A)>::type());
}
template <class... A> static void check(void (*)(A...), const Argument *args, int n) {
  const char kinds[] = {Kind<typename Value<A>::type>::value..., 0};
  const int64_t sizes[] = {(int64_t)sizeof(A)..., 0};
  if (n != (int)sizeof...(A)) fail("%d arguments are passed, the kernel has %d", n, (int)sizeof...(A));
  for (int i = 0; i < n; i++) {
    if (args[i].kind != kinds[i])
      fail("argument %d is of kind '%c', the parameter of kind '%c' (p pointer, i integer, f float, V struct)", i,
           (char)args[i].kind, kinds[i]);
    if (kinds[i] != 'p' && args[i].size != sizes[i])
      fail("argument %d has %ld bytes, the parameter %ld", i, (long)args[i].size, (long)sizes[i]);
  }
}

struct Kernel { const char *name; void (*call)(void **); void (*check)(const Argument *, int); };
#define EMU_KERNEL(name) \
  {#name, [](void **args) { emu::call(::name, args); }, \
   [](const emu::Argument *args, int n) { emu::check(::name, args, n); }},
static const Kernel kernels[] = {EMU_KERNELS};

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

EMU_UNCHECKED static int launch(FILE *file, FILE *output) {
  Header header;
  machine.kernel = "emulator";
  read_bytes(file, &header, sizeof header);
  machine.kernel = header.kernel;
  const Kernel *kernel = nullptr;
  for (const Kernel &k : kernels)
    if (!strcmp(k.name, header.kernel)) kernel = &k;
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
  kernel->check(arguments, n);
  if (header.grid < 1 || header.block < 1 || header.block > kMaxThreads)
    fail("a grid of %ld blocks of %ld threads", (long)header.grid, (long)header.block);
  gridDim = {(unsigned)header.grid, 1, 1};
  blockDim = {(unsigned)header.block, 1, 1};
  machine.call = kernel->call;
  machine.args = values;
  machine.blocks = (int)header.grid;
  machine.threads = (int)header.block;
  machine.dynamic_bytes = header.shared_bytes;
  machine.cooperative = header.cooperative;
  machine.order = (int)header.order;
  machine.random = header.seed;
  run_grid();
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
