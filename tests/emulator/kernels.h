/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels of a source, and how one is called by pointers to its arguments. Included behind them, with
 * EMU_KERNELS a list of EMU_KERNEL(name).
 */
#pragma once

namespace emu {

/* kind: 'p' a pointer, 'f' a float, 'i' an integer, 'V' a struct, of `size` bytes. */
struct Argument { int64_t kind, size; };

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
template <class... A> static const Argument *parameters(void (*)(A...)) {
  static const Argument result[] = {{Kind<typename Value<A>::type>::value, sizeof(A)}..., {0, 0}};
  return result;
}

/* `parameters` ends with one of kind 0. */
struct Kernel { const char *name; void (*call)(void **); const Argument *parameters; };
#define EMU_KERNEL(name) {#name, [](void **args) { emu::call(::name, args); }, emu::parameters(::name)},
static const Kernel kernels[] = {EMU_KERNELS};

EMU_UNCHECKED static const Kernel *find_kernel(const char *name) {
  for (const Kernel &k : kernels)
    if (!strcmp(k.name, name)) return &k;
  return nullptr;
}

/* Runs `grid` blocks of `block` threads with `shared` bytes of dynamic memory. */
EMU_UNCHECKED static void run_kernel(const Kernel *kernel, void **args, int64_t grid, int64_t block, size_t shared) {
  if (grid < 1 || block < 1 || block > kMaxThreads)
    fail("a grid of %ld blocks of %ld threads", (long)grid, (long)block);
  gridDim = {(unsigned)grid, 1, 1};
  blockDim = {(unsigned)block, 1, 1};
  machine.kernel = kernel->name;
  machine.call = kernel->call;
  machine.args = args;
  machine.blocks = (int)grid;
  machine.threads = (int)block;
  machine.dynamic_bytes = shared;
  run_grid();
}

}  // namespace emu
