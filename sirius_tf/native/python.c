/* SPDX-License-Identifier: Apache-2.0
 *
 * sirius_call for runtime/native.py, which enters it as a function of CPython's API (ctypes.PyDLL): with the GIL, and an
 * exception may be set on return. In a callback of ctypes none gets that far: what a signal handler raises on entry to
 * one is printed and dropped.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

#include "host.h"

/* X(result, name, parameters); objects are void pointers here, so that no header of Python is needed. */
#define PYTHON_API(X)                                              \
  X(void *, PyEval_SaveThread, (void))                             \
  X(void, PyEval_RestoreThread, (void *))                          \
  X(void *, PyObject_CallFunction, (void *, const char *, ...))    \
  X(void *, PyLong_AsVoidPtr, (void *))                            \
  X(void, Py_DecRef, (void *))

#define DECLARE(result, name, parameters) result(*name) parameters;
static struct {
  PYTHON_API(DECLARE)
} py; /* written with the GIL */

static int resolve(void) {
#define RESOLVE(result, name, parameters)                 \
  *(void **)(&py.name) = dlsym(RTLD_DEFAULT, #name);      \
  if (!py.name) return 0;
  PYTHON_API(RESOLVE)
  return 1;
}

typedef struct {
  void *allocate; /* a callable: address of output `index` of the shape at `dims` */
  void *thread;   /* this thread's state, while it does not have the GIL */
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

/* As sirius_call. If the callable raises, that is what ctypes raises when this returns. */
int32_t sirius_call_from_python(const SiriusBundle *bundle, const SiriusRegionInfo *region, const SiriusTensor *in,
                                int32_t n_in, void *callable, int32_t threads, char *error, size_t error_bytes) {
  if (!py.Py_DecRef && !resolve()) {
    snprintf(error, error_bytes, "this process has no symbols of CPython's API");
    return SIRIUS_INTERNAL;
  }
  Caller caller = {callable, py.PyEval_SaveThread()};
  const int32_t code = sirius_call(bundle, region, in, n_in, allocate, &caller, threads, error, error_bytes);
  py.PyEval_RestoreThread(caller.thread);
  return code;
}
