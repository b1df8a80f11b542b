/* SPDX-License-Identifier: Apache-2.0
 *
 * The op SiriusRegion(inputs: Tin, bundle: string) -> outputs: Tout: runs region `region` of the bundle in the
 * file `bundle`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "host.h"
#include "tf_api.h"

#define ERROR_BYTES 512
#define STACK_INPUTS 32
#define STACK_OUTPUTS 32

#define DECLARE(result, name, parameters) result(*name) parameters;
static struct {
  SIRIUS_TF_API(DECLARE)
} tf;

/* A bundle as one kernel uses it. Immutable: Compute runs in several threads at once. */
typedef struct Binding {
  struct Binding *former; /* may still be in use by another thread; freed with the kernel */
  const SiriusBundle *bundle;
  const SiriusRegionInfo *region;
  char *path;
  size_t path_bytes;
} Binding;

typedef struct {
  char *region;
  int32_t n_in, n_out;
  TF_DataType *out_dtype;
  Binding *binding; /* atomic */
} Kernel;

static void destroy(void *data) {
  Kernel *kernel = data;
  if (!kernel) return;
  for (Binding *b = kernel->binding; b;) {
    Binding *former = b->former;
    free(b->path);
    free(b);
    b = former;
  }
  free(kernel->region);
  free(kernel->out_dtype);
  free(kernel);
}

static void *create(TF_OpKernelConstruction *construction) {
  TF_Status *status = tf.TF_NewStatus();
  Kernel *kernel = calloc(1, sizeof *kernel);
  int32_t size = 0, bytes = 0;
  if (!kernel) goto no_memory;
  tf.TF_OpKernelConstruction_GetAttrSize(construction, "Tin", &kernel->n_in, &bytes, status);
  if (tf.TF_GetCode(status) != TF_OK) goto failed;
  tf.TF_OpKernelConstruction_GetAttrSize(construction, "Tout", &kernel->n_out, &bytes, status);
  if (tf.TF_GetCode(status) != TF_OK) goto failed;
  kernel->out_dtype = calloc((size_t)kernel->n_out + 1, sizeof *kernel->out_dtype);
  if (!kernel->out_dtype) goto no_memory;
  tf.TF_OpKernelConstruction_GetAttrTypeList(construction, "Tout", kernel->out_dtype, kernel->n_out, status);
  if (tf.TF_GetCode(status) != TF_OK) goto failed;
  tf.TF_OpKernelConstruction_GetAttrSize(construction, "region", &size, &bytes, status);
  if (tf.TF_GetCode(status) != TF_OK) goto failed;
  kernel->region = calloc((size_t)bytes + 1, 1);
  if (!kernel->region) goto no_memory;
  tf.TF_OpKernelConstruction_GetAttrString(construction, "region", kernel->region, (size_t)bytes, status);
  if (tf.TF_GetCode(status) != TF_OK) goto failed;
  tf.TF_DeleteStatus(status);
  return kernel;
no_memory:
  tf.TF_SetStatus(status, TF_RESOURCE_EXHAUSTED, "out of memory");
failed:
  tf.TF_OpKernelConstruction_Failure(construction, status);
  tf.TF_DeleteStatus(status);
  destroy(kernel);
  return NULL;
}

/* Checks that the attributes of the node are those of the region. */
static int matches(const Kernel *kernel, const SiriusRegionInfo *region, char *error) {
  if (kernel->n_in != region->n_in || kernel->n_out != region->n_out) {
    snprintf(error, ERROR_BYTES, "region %s has %d inputs and %d outputs, the node has %d and %d", region->name,
             region->n_in, region->n_out, kernel->n_in, kernel->n_out);
    return 0;
  }
  for (int32_t i = 0; i < region->n_out; ++i) {
    if (kernel->out_dtype[i] == region->out_dtype[i]) continue;
    snprintf(error, ERROR_BYTES, "output %d of region %s has dtype %d, Tout says %d", i, region->name,
             region->out_dtype[i], kernel->out_dtype[i]);
    return 0;
  }
  return 1;
}

static const Binding *bind(Kernel *kernel, TF_StringView path, char *error) {
  Binding *current = __atomic_load_n(&kernel->binding, __ATOMIC_ACQUIRE);
  /* The path of a loaded model does not change: no system call from the second call on. */
  if (current && current->path_bytes == path.len && memcmp(current->path, path.data, path.len) == 0)
    return current;
  Binding *binding = calloc(1, sizeof *binding);
  if (binding) binding->path = strndup(path.data, path.len);
  if (!binding || !binding->path) {
    snprintf(error, ERROR_BYTES, "out of memory");
    free(binding);
    return NULL;
  }
  binding->path_bytes = path.len;
  binding->bundle = sirius_open(binding->path, error, ERROR_BYTES);
  if (binding->bundle) {
    binding->region = sirius_find_region(binding->bundle, kernel->region);
    if (!binding->region)
      snprintf(error, ERROR_BYTES, "%s has no region %s", binding->path, kernel->region);
    else if (!matches(kernel, binding->region, error))
      binding->region = NULL;
  }
  if (!binding->region) {
    free(binding->path);
    free(binding);
    return NULL;
  }
  binding->former = current;
  while (!__atomic_compare_exchange_n(&kernel->binding, &binding->former, binding, 0, __ATOMIC_ACQ_REL,
                                      __ATOMIC_ACQUIRE)) {
  }
  return binding;
}

typedef struct {
  TF_OpKernelContext *context;
  TF_Status *status;
  TF_Tensor **out;
} Outputs;

static int32_t allocate(void *context, int32_t index, int32_t dtype, const int64_t *dims, int32_t rank,
                        void **data) {
  Outputs *o = context;
  size_t bytes = tf.TF_DataTypeSize(dtype);
  for (int32_t d = 0; d < rank; ++d)
    if (__builtin_mul_overflow(bytes, (size_t)dims[d], &bytes)) return 1;
  o->out[index] = tf.TF_AllocateOutput(o->context, index, dtype, dims, rank, bytes, o->status);
  if (tf.TF_GetCode(o->status) != TF_OK) return 1;
  *data = tf.TF_TensorData(o->out[index]);
  return 0;
}

static TF_Code call_region(Kernel *kernel, Outputs *outputs, TF_Tensor **tensors, SiriusTensor *in,
                           int64_t (*dims)[SIRIUS_MAX_RANK], char *error) {
  const int32_t n = kernel->n_in;
  if (tf.TF_NumInputs(outputs->context) != n + 1) {
    snprintf(error, ERROR_BYTES, "wrong number of inputs");
    return TF_INTERNAL;
  }
  for (int32_t i = 0; i <= n; ++i) {
    tf.TF_GetInput(outputs->context, i, &tensors[i], outputs->status);
    if (tf.TF_GetCode(outputs->status) != TF_OK) {
      snprintf(error, ERROR_BYTES, "%s", tf.TF_Message(outputs->status));
      return tf.TF_GetCode(outputs->status);
    }
  }
  for (int32_t i = 0; i < n; ++i) {
    const int rank = tf.TF_NumDims(tensors[i]);
    if (rank > SIRIUS_MAX_RANK) {
      snprintf(error, ERROR_BYTES, "input %d has rank %d, at most %d is supported", i, rank, SIRIUS_MAX_RANK);
      return TF_INVALID_ARGUMENT;
    }
    for (int d = 0; d < rank; ++d) dims[i][d] = tf.TF_Dim(tensors[i], d);
    in[i] = (SiriusTensor){tf.TF_TensorData(tensors[i]), dims[i], rank, tf.TF_TensorType(tensors[i])};
  }
  if (tf.TF_TensorType(tensors[n]) != TF_STRING || tf.TF_NumDims(tensors[n]) != 0) {
    snprintf(error, ERROR_BYTES, "bundle must be a string scalar");
    return TF_INVALID_ARGUMENT;
  }
  const Binding *binding = bind(kernel, sirius_string(tf.TF_TensorData(tensors[n])), error);
  if (!binding) return TF_INVALID_ARGUMENT;
  switch (sirius_call(binding->bundle, binding->region, in, n, allocate, outputs, 0, error, ERROR_BYTES)) {
    case SIRIUS_OK: return TF_OK;
    case SIRIUS_INVALID: return TF_INVALID_ARGUMENT;
    case SIRIUS_EXHAUSTED: return TF_RESOURCE_EXHAUSTED;
    default: return TF_INTERNAL;
  }
}

static void fail(TF_OpKernelContext *context, TF_Status *status, TF_Code code, const char *error) {
  char message[ERROR_BYTES + 256];
  const TF_StringView name = tf.TF_GetOpKernelName(context);
  snprintf(message, sizeof message, "%.*s: %s", (int)(name.len < 200 ? name.len : 200), name.data, error);
  tf.TF_SetStatus(status, code, message);
  tf.TF_OpKernelContext_Failure(context, status);
}

static void compute(void *data, TF_OpKernelContext *context) {
  Kernel *kernel = data;
  const size_t n_in = (size_t)kernel->n_in, n_out = (size_t)kernel->n_out;
  TF_Tensor *in_stack[STACK_INPUTS + 1] = {0}, *out_stack[STACK_OUTPUTS] = {0};
  SiriusTensor described_stack[STACK_INPUTS];
  int64_t dims_stack[STACK_INPUTS][SIRIUS_MAX_RANK];
  const int large = n_in > STACK_INPUTS || n_out > STACK_OUTPUTS;
  TF_Tensor **in = large ? calloc(n_in + 1, sizeof *in) : in_stack;
  TF_Tensor **out = large ? calloc(n_out + 1, sizeof *out) : out_stack;
  SiriusTensor *described = large ? calloc(n_in + 1, sizeof *described) : described_stack;
  int64_t(*dims)[SIRIUS_MAX_RANK] = large ? calloc(n_in + 1, sizeof *dims) : dims_stack;
  TF_Status *status = tf.TF_NewStatus();
  Outputs outputs = {context, status, out};
  char error[ERROR_BYTES] = "out of memory";
  TF_Code code = TF_RESOURCE_EXHAUSTED;
  if (in && out && described && dims) code = call_region(kernel, &outputs, in, described, dims, error);
  if (code != TF_OK) fail(context, status, code, error);
  for (size_t i = 0; in && i <= n_in; ++i)
    if (in[i]) tf.TF_DeleteTensor(in[i]);
  for (size_t i = 0; out && i < n_out; ++i)
    if (out[i]) tf.TF_DeleteTensor(out[i]);
  tf.TF_DeleteStatus(status);
  if (large) {
    free(in);
    free(out);
    free(described);
    free(dims);
  }
}

/* The C API shows a shape function no string attribute: EnsureShape behind the op has what is known. */
static void infer_shapes(TF_ShapeInferenceContext *context, TF_Status *status) {
  tf.TF_ShapeInferenceContextSetUnknownShape(context, status);
}

static int report_failure(TF_Status *status) {
  if (tf.TF_GetCode(status) == TF_OK) return 0;
  fprintf(stderr, "sirius_tf: cannot register SiriusRegion: %s\n", tf.TF_Message(status));
  return 1;
}

static int register_op(void) {
  TF_Status *status = tf.TF_NewStatus();
  TF_OpDefinitionBuilder *op = tf.TF_NewOpDefinitionBuilder("SiriusRegion");
  tf.TF_OpDefinitionBuilderAddAttr(op, "Tin: list(type) >= 0");
  tf.TF_OpDefinitionBuilderAddAttr(op, "Tout: list(type) >= 1");
  tf.TF_OpDefinitionBuilderAddAttr(op, "region: string");
  tf.TF_OpDefinitionBuilderAddInput(op, "inputs: Tin");
  tf.TF_OpDefinitionBuilderAddInput(op, "bundle: string");
  tf.TF_OpDefinitionBuilderAddOutput(op, "outputs: Tout");
  tf.TF_OpDefinitionBuilderSetShapeInferenceFunction(op, infer_shapes);
  tf.TF_RegisterOpDefinition(op, status);
  int failed = report_failure(status);
  if (!failed) {
    TF_KernelBuilder *kernel = tf.TF_NewKernelBuilder("SiriusRegion", "CPU", create, compute, destroy);
    tf.TF_RegisterKernelBuilder("SiriusRegion", kernel, status);
    failed = report_failure(status);
  }
  tf.TF_DeleteStatus(status);
  return failed;
}

/* 1 if the process has TensorFlow's C API. */
static int resolve(void) {
#define RESOLVE(result, name, parameters)                 \
  *(void **)(&tf.name) = dlsym(RTLD_DEFAULT, #name);      \
  if (!tf.name) return 0;
  SIRIUS_TF_API(RESOLVE)
  return 1;
}

/* Registers the op, once per process, whatever number of copies of this library it has loaded: two kernels for
 * one op make every use of it fail. Returns 0 if the op is registered, 1 if there is no TensorFlow to register
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
      result = register_op() ? 2 : 0;
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
