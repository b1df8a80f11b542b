/* SPDX-License-Identifier: Apache-2.0
 *
 * Fibers: stacks among which one operating system's thread switches, known to the sanitizers.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define EMU_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define EMU_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define EMU_TSAN 1
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char *, int);
void AnnotateIgnoreReadsEnd(const char *, int);
void AnnotateIgnoreWritesBegin(const char *, int);
void AnnotateIgnoreWritesEnd(const char *, int);
}
#else
#define EMU_TSAN 0
#endif

/* The emulator's own code is not what is examined. */
#define EMU_UNCHECKED \
  __attribute__((noinline, no_sanitize("address"), no_sanitize("thread"), no_sanitize("undefined")))

namespace emu {

struct Fiber {
  void *stack_pointer;
  char *stack; /* lowest address */
  size_t stack_bytes;
  void *tsan;
#ifndef __x86_64__
  ucontext_t context;
#endif
};

/* What is ordered before what: all that came before a release of `tag` is before all that follows a later
 * acquire of it. Only TSan wants to know. */
static inline void release(void *tag) {
#if EMU_TSAN
  __tsan_release(tag);
#endif
  (void)tag;
}
static inline void acquire(void *tag) {
#if EMU_TSAN
  __tsan_acquire(tag);
#endif
  (void)tag;
}

#ifdef __x86_64__
/* Saves what the System V ABI has a callee preserve, and returns on the other stack. */
extern "C" void emu_switch(void **from, void *to);
__asm__(R"(
.text
.p2align 4
.globl emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch,.-emu_switch
)");
#endif

EMU_UNCHECKED static void switch_fiber(Fiber *from, Fiber *to) {
#if EMU_ASAN
  void *fake;
  __sanitizer_start_switch_fiber(&fake, to->stack, to->stack_bytes);
#endif
#if EMU_TSAN
  __tsan_switch_to_fiber(to->tsan, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef __x86_64__
  emu_switch(&from->stack_pointer, to->stack_pointer);
#else
  swapcontext(&from->context, &to->context);
#endif
#if EMU_ASAN
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

/* The fiber of the caller, on the stack that it has. */
EMU_UNCHECKED static void adopt_fiber(Fiber *fiber) {
  *fiber = {};
#if EMU_TSAN
  fiber->tsan = __tsan_get_current_fiber();
#endif
}

/* The first thing that a new fiber calls: tells ASan that it arrived, and learns where `main` has its stack. */
EMU_UNCHECKED static void enter_fiber(Fiber *main) {
#if EMU_ASAN
  const void *stack;
  size_t bytes;
  __sanitizer_finish_switch_fiber(nullptr, &stack, &bytes);
  if (!main->stack) {
    main->stack = (char *)stack;
    main->stack_bytes = bytes;
  }
#endif
  (void)main;
}

constexpr size_t kStackBytes = EMU_ASAN || EMU_TSAN ? 256 << 10 : 64 << 10;
constexpr uint64_t kCanary = 0x5ca1ab1edeadbeef;

/* Stacks for `count` fibers, below all of which is a page that must not be touched. There is none between
 * them: a process has some 65000 mappings, which a large grid would use up. */
EMU_UNCHECKED static char *create_stacks(int count) {
  const size_t page = 4096, bytes = page + count * kStackBytes;
  char *memory = (char *)mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE)) {
    perror("emulator: no memory for the stacks of threads");
    _exit(1);
  }
  return memory + page;
}
EMU_UNCHECKED static void destroy_stacks(char *stacks, int count) {
  const size_t page = 4096;
  munmap(stacks - page, page + count * kStackBytes);
}
EMU_UNCHECKED static bool has_overflowed(const Fiber *fiber) { return *(uint64_t *)fiber->stack != kCanary; }

/* A fiber on a stack of kStackBytes that calls `entry`, which never returns. Tops of stacks differ by some cache
 * lines, lest all of them lie in the same sets of the cache. */
EMU_UNCHECKED static void create_fiber(Fiber *fiber, char *stack, int number, void (*entry)()) {
  const size_t bytes = kStackBytes;
  *fiber = {};
  fiber->stack = stack;
  *(uint64_t *)stack = kCanary;
  fiber->stack_bytes = bytes;
#if EMU_TSAN
  fiber->tsan = __tsan_create_fiber(0);
#endif
#ifdef __x86_64__
  void **top = (void **)(fiber->stack + bytes - 64 - number % 61 * 192);
  *--top = nullptr; /* the return address of `entry` */
  *--top = (void *)entry;
  for (int saved = 0; saved < 6; saved++) *--top = nullptr;
  fiber->stack_pointer = top;
#else
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack;
  fiber->context.uc_stack.ss_size = bytes - number % 61 * 192;
  makecontext(&fiber->context, entry, 0);
#endif
}

/* One that does not run. */
EMU_UNCHECKED static void destroy_fiber(Fiber *fiber) {
#if EMU_TSAN
  __tsan_destroy_fiber(fiber->tsan);
#endif
  (void)fiber;
}

}  // namespace emu
