/* SPDX-License-Identifier: Apache-2.0
 *
 * Makes TensorFlow know the ops, whenever and however the library is loaded.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "host.h"
#include "tf_op.h"

SiriusTf tf;

TF_Code sirius_tf_code(int32_t code) {
  switch (code) {
    case SIRIUS_OK: return TF_OK;
    case SIRIUS_INVALID: return TF_INVALID_ARGUMENT;
    case SIRIUS_EXHAUSTED: return TF_RESOURCE_EXHAUSTED;
    case SIRIUS_MISSING: return TF_NOT_FOUND;
    case SIRIUS_DAMAGED: return TF_DATA_LOSS;
    case SIRIUS_STALE: return TF_FAILED_PRECONDITION;
    case SIRIUS_LATE: return TF_DEADLINE_EXCEEDED;
    case SIRIUS_CANCELLED: return TF_CANCELLED;
    default: return TF_INTERNAL;
  }
}

void sirius_tf_fail(TF_OpKernelContext *context, TF_Status *status, TF_Code code, const char *error) {
  char message[SIRIUS_ERROR_BYTES + 256];
  const TF_StringView name = tf.TF_GetOpKernelName(context);
  snprintf(message, sizeof message, "%.*s: %s", (int)(name.len < 200 ? name.len : 200), name.data, error);
  tf.TF_SetStatus(status, code, message);
  tf.TF_OpKernelContext_Failure(context, status);
}

char *sirius_text_attribute(TF_OpKernelConstruction *construction, const char *name, TF_Status *status) {
  int32_t size = 0, bytes = 0;
  tf.TF_OpKernelConstruction_GetAttrSize(construction, name, &size, &bytes, status);
  if (tf.TF_GetCode(status) != TF_OK) return NULL;
  char *text = calloc((size_t)bytes + 1, 1);
  if (!text) {
    tf.TF_SetStatus(status, TF_RESOURCE_EXHAUSTED, "out of memory");
    return NULL;
  }
  tf.TF_OpKernelConstruction_GetAttrString(construction, name, text, (size_t)bytes, status);
  return text;
}

int32_t sirius_path(TF_StringView string, char **path, char *error) {
  *path = NULL;
  if (memchr(string.data, 0, string.len)) {
    snprintf(error, SIRIUS_ERROR_BYTES, "the path of the bundle has a NUL in it");
    return SIRIUS_INVALID;
  }
  *path = calloc(string.len + 1, 1);
  if (*path) {
    memcpy(*path, string.data, string.len);
    return SIRIUS_OK;
  }
  snprintf(error, SIRIUS_ERROR_BYTES, "out of memory");
  return SIRIUS_EXHAUSTED;
}

void sirius_infer_unknown(TF_ShapeInferenceContext *context, TF_Status *status) {
  tf.TF_ShapeInferenceContextSetUnknownShape(context, status);
}

void sirius_register_op(TF_OpDefinitionBuilder *op, const char *name, void *(*create)(TF_OpKernelConstruction *),
                        void (*compute)(void *, TF_OpKernelContext *), void (*destroy)(void *), TF_Status *status) {
  tf.TF_RegisterOpDefinition(op, status);
  if (tf.TF_GetCode(status) != TF_OK) return;
  TF_KernelBuilder *kernel = tf.TF_NewKernelBuilder(name, "CPU", create, compute, destroy);
  tf.TF_RegisterKernelBuilder(name, kernel, status);
}

static int report_failure(TF_Status *status) {
  if (tf.TF_GetCode(status) == TF_OK) return 0;
  fprintf(stderr, "sirius_tf: cannot register its ops: %s\n", tf.TF_Message(status));
  return 1;
}

static int register_ops(void) {
  TF_Status *status = tf.TF_NewStatus();
  sirius_register_region(status);
  if (tf.TF_GetCode(status) == TF_OK) sirius_register_check(status);
  if (tf.TF_GetCode(status) == TF_OK) sirius_register_results(status);
  const int failed = report_failure(status);
  tf.TF_DeleteStatus(status);
  return failed;
}

/* 1 if the process has TensorFlow's C API. */
static int resolve(void) {
#define RESOLVE(result, name, parameters)            \
  *(void **)(&tf.name) = dlsym(RTLD_DEFAULT, #name); \
  if (!tf.name) return 0;
  SIRIUS_TF_API(RESOLVE)
  return 1;
}

/* Registers the ops, once per process, whatever number of copies of this library it has loaded: two kernels for
 * one op make every use of it fail. Returns 0 if the ops are registered, 1 if there is no TensorFlow to register
 * it with (call again later), 2 if TensorFlow refused. */
int32_t sirius_tf_register(void) {
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  static const char variable[] = "_SIRIUS_TF_REGISTERED_IN";
  char process[32];
  int32_t result = 0;
  pthread_mutex_lock(&mutex);
  /* The variable survives exec, where the registration is lost, and so does the process id; a forked child has
   * the registration but another process id. The kernel's random bytes are new with exec, and only then. */
  uint64_t random[2] = {0};
  const void *bytes = (const void *)getauxval(AT_RANDOM);
  if (bytes) memcpy(random, bytes, sizeof random);
  const uint64_t mixed = (random[0] ^ (random[0] >> 29)) * 0x9E3779B97F4A7C15ull + random[1] * 0xC2B2AE3D27D4EB4Full;
  snprintf(process, sizeof process, "%llx", (unsigned long long)mixed);
  const char *registered = getenv(variable);
  if (!registered || strcmp(registered, process) != 0) {
    if (!resolve()) {
      result = 1;
    } else {
      setenv(variable, process, 1);
      result = register_ops() ? 2 : 0;
    }
  }
  pthread_mutex_unlock(&mutex);
  return result;
}

static int preloaded(void) {
  const char *list = getenv("LD_PRELOAD");
  return list && strstr(list, "libsirius_tf");
}

/* tf.load_op_library, TF_LoadLibrary. A process without TensorFlow is left alone. */
__attribute__((constructor)) static void loaded(void) {
  if (!preloaded()) sirius_tf_register();
}

/* A preloaded library is initialised before a server that contains TensorFlow has run its own static initialisers:
 * register between those and main. Not preloaded, this function is never called. */
typedef int (*Main)(int, char **, char **);
static Main host_main;

static int register_and_run(int count, char **arguments, char **environment) {
  if (preloaded()) sirius_tf_register();
  return host_main(count, arguments, environment);
}

__attribute__((visibility("default"))) int __libc_start_main(Main main_function, int count, char **arguments,
                                                             void (*init)(void), void (*fini)(void),
                                                             void (*loader_fini)(void), void *stack_end) {
  int (*next)(Main, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
  *(void **)(&next) = dlsym(RTLD_NEXT, "__libc_start_main");
  host_main = main_function;
  return next(register_and_run, count, arguments, init, fini, loader_fini, stack_end);
}
