/* SPDX-License-Identifier: Apache-2.0
 *
 * sirius_call for runtime/native.py, which enters it as a function of CPython's API (ctypes.PyDLL): with the GIL, and an
 * exception may be set on return. In a callback of ctypes none gets that far: what a signal handler raises on entry to
 * one is printed and dropped.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host.h"

/* X(result, name, parameters); objects are void pointers here, so that no header of Python is needed. */
#define PYTHON_API(X)                                              \
  X(void *, PyEval_SaveThread, (void))                             \
  X(void, PyEval_RestoreThread, (void *))                          \
  X(int, PyErr_CheckSignals, (void))                               \
  X(int, PyObject_IsTrue, (void *))                                \
  X(void *, PyObject_CallFunction, (void *, const char *, ...))    \
  X(void *, PyLong_AsVoidPtr, (void *))                            \
  X(void, Py_DecRef, (void *))

#define DECLARE(result, name, parameters) result(*name) parameters;
static struct {
  PYTHON_API(DECLARE)
  void *_Py_NoneStruct;
} py; /* written with the GIL */

static int resolve(void) {
#define RESOLVE(result, name, parameters)                 \
  *(void **)(&py.name) = dlsym(RTLD_DEFAULT, #name);      \
  if (!py.name) return 0;
  PYTHON_API(RESOLVE)
  return (py._Py_NoneStruct = dlsym(RTLD_DEFAULT, "_Py_NoneStruct")) != NULL;
}

typedef struct {
  void *allocate;  /* a callable: address of output `index` of the shape at `dims` */
  void *cancelled; /* another one: whether the call is, or None */
  void *thread;    /* this thread's state, while it does not have the GIL */
} Caller;

/* What allocate raises stays set until the call is over, which fails. */
static int32_t allocate(void *context, int32_t index, int32_t dtype, const int64_t *dims, int32_t rank, void **data) {
  Caller *caller = context;
  (void)dtype;
  py.PyEval_RestoreThread(caller->thread);
  void *address = py.PyObject_CallFunction(caller->allocate, "iKi", index, (unsigned long long)(uintptr_t)dims, rank);
  *data = address ? py.PyLong_AsVoidPtr(address) : NULL;
  if (address) py.Py_DecRef(address);
  caller->thread = py.PyEval_SaveThread();
  return !address;
}

/* Signal handlers run in the first thread; others wait for the GIL only if they have something to ask. */
static int32_t poll(void *context) {
  Caller *caller = context;
  const int asks = caller->cancelled != py._Py_NoneStruct;
  if (!asks && syscall(SYS_gettid) != getpid()) return 0;
  py.PyEval_RestoreThread(caller->thread);
  int cancelled = py.PyErr_CheckSignals();
  if (!cancelled && asks) {
    void *answer = py.PyObject_CallFunction(caller->cancelled, NULL);
    cancelled = answer ? py.PyObject_IsTrue(answer) : 1;
    if (answer) py.Py_DecRef(answer);
  }
  caller->thread = py.PyEval_SaveThread();
  return cancelled != 0;
}

/* As sirius_call. What the callables and signal handlers raise is what ctypes raises when this returns. */
int32_t sirius_call_from_python(const SiriusBundle *bundle, const SiriusRegionInfo *region, const SiriusTensor *in,
                                int32_t n_in, void *allocate_output, void *cancelled, int64_t deadline,
                                int32_t threads, char *error, size_t error_bytes) {
  if (!py._Py_NoneStruct && !resolve()) {
    snprintf(error, error_bytes, "this process has no symbols of CPython's API");
    return SIRIUS_INTERNAL;
  }
  Caller self = {allocate_output, cancelled, py.PyEval_SaveThread()};
  const SiriusCaller caller = {allocate, poll, &self, deadline};
  const int32_t code = sirius_call(bundle, region, in, n_in, &caller, threads, error, error_bytes);
  py.PyEval_RestoreThread(self.thread);
  return code;
}
