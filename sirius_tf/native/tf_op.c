/* SPDX-License-Identifier: Apache-2.0
 *
 * The op SiriusRegion(inputs: Tin, bundle: string) -> outputs: Tout: runs region `region` of the bundle in the
 * file `bundle`, which was made of the graph that has the digest `digest`.
 *
 * SiriusAccepts(inputs: Tin, bundle: string) -> accepted: bool has the same attributes, and says whether the checks that
 * the region makes on entry hold.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "tf_cancel.h"
#include "tf_op.h"

#define STACK_INPUTS 32
#define STACK_OUTPUTS 32
#define BINDINGS 5 /* bundles of a kernel, of which all but one were bound to other paths before */

/* A bundle as a kernel uses it. Compute runs in several threads at once: a binding changes while `users` is negative, and
 * then none of them enters. */
typedef struct {
  int32_t users; /* atomic: how many calls are in it */
  SiriusOpened *opened;
  const SiriusBundle *bundle;
  const SiriusRegionInfo *region;
  char *path;
  size_t path_bytes;
} Binding;

typedef struct {
  char *region, *digest;
  int32_t n_in, n_out;
  TF_DataType *out_dtype;
  pthread_mutex_t mutex; /* of who binds */
  int32_t latest;        /* atomic: the binding that was bound, or found, last */
  int32_t oldest;
  Binding bindings[BINDINGS];
} Kernel;

static void clear(Binding *binding) {
  if (binding->opened) sirius_close(binding->opened);
  free(binding->path);
  binding->opened = NULL;
  binding->path = NULL;
}

static void destroy(void *data) {
  Kernel *kernel = data;
  if (!kernel) return;
  for (int32_t k = 0; k < BINDINGS; ++k) clear(&kernel->bindings[k]);
  pthread_mutex_destroy(&kernel->mutex);
  free(kernel->region);
  free(kernel->digest);
  free(kernel->out_dtype);
  free(kernel);
}

static void *create(TF_OpKernelConstruction *construction) {
  TF_Status *status = tf.TF_NewStatus();
  Kernel *kernel = calloc(1, sizeof *kernel);
  int32_t bytes = 0;
  if (!kernel) goto no_memory;
  pthread_mutex_init(&kernel->mutex, NULL);
  tf.TF_OpKernelConstruction_GetAttrSize(construction, "Tin", &kernel->n_in, &bytes, status);
  if (tf.TF_GetCode(status) != TF_OK) goto failed;
  tf.TF_OpKernelConstruction_GetAttrSize(construction, "Tout", &kernel->n_out, &bytes, status);
  if (tf.TF_GetCode(status) != TF_OK) goto failed;
  kernel->out_dtype = calloc((size_t)kernel->n_out + 1, sizeof *kernel->out_dtype);
  if (!kernel->out_dtype) goto no_memory;
  tf.TF_OpKernelConstruction_GetAttrTypeList(construction, "Tout", kernel->out_dtype, kernel->n_out, status);
  if (tf.TF_GetCode(status) != TF_OK) goto failed;
  kernel->region = sirius_text_attribute(construction, "region", status);
  if (tf.TF_GetCode(status) != TF_OK) goto failed;
  kernel->digest = sirius_text_attribute(construction, "digest", status);
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

/* SIRIUS_OK if the attributes of the node are those of the region. */
static int32_t check_region(const Kernel *kernel, const SiriusRegionInfo *region, char *error) {
  if (strcmp(kernel->digest, region->digest) != 0) {
    snprintf(error, SIRIUS_ERROR_BYTES,
             "region %s was compiled from another graph: the bundle does not belong to this graph; convert the model again",
             region->name);
    return SIRIUS_STALE;
  }
  if (kernel->n_in != region->n_in || kernel->n_out != region->n_out) {
    snprintf(error, SIRIUS_ERROR_BYTES, "region %s has %d inputs and %d outputs, the node has %d and %d", region->name,
             region->n_in, region->n_out, kernel->n_in, kernel->n_out);
    return SIRIUS_STALE;
  }
  for (int32_t i = 0; i < region->n_out; ++i) {
    if (kernel->out_dtype[i] == region->out_dtype[i]) continue;
    snprintf(error, SIRIUS_ERROR_BYTES, "output %d of region %s has dtype %d, Tout says %d", i, region->name,
             region->out_dtype[i], kernel->out_dtype[i]);
    return SIRIUS_STALE;
  }
  return SIRIUS_OK;
}

/* ---- binding ---- */

static void leave(Binding *binding) { __atomic_sub_fetch(&binding->users, 1, __ATOMIC_RELEASE); }

/* 1 if the binding is that of the path: it stays so until the caller leaves it. */
static int enter(Binding *binding, TF_StringView path) {
  int32_t users = __atomic_load_n(&binding->users, __ATOMIC_RELAXED);
  do {
    if (users < 0) return 0;
  } while (!__atomic_compare_exchange_n(&binding->users, &users, users + 1, 1, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
  if (binding->opened && binding->path_bytes == path.len && memcmp(binding->path, path.data, path.len) == 0) return 1;
  leave(binding);
  return 0;
}

static int32_t open_region(const Kernel *kernel, TF_StringView path, Binding *made, char *error) {
  int32_t code = sirius_path(path, &made->path, error);
  if (code != SIRIUS_OK) return code;
  made->path_bytes = path.len;
  made->opened = sirius_pinned(made->path, kernel->region, kernel->digest);
  if (!made->opened) code = sirius_open(made->path, &made->opened, error, SIRIUS_ERROR_BYTES);
  if (code != SIRIUS_OK) return code;
  made->bundle = sirius_opened_bundle(made->opened);
  made->region = sirius_find_region(made->bundle, kernel->region);
  if (made->region) return check_region(kernel, made->region, error);
  snprintf(error, SIRIUS_ERROR_BYTES, "%s has no region %s", made->path, kernel->region);
  return SIRIUS_STALE;
}

/* The oldest binding that is in no call, or NULL; none enters it before it has users again. */
static Binding *spare(Kernel *kernel) {
  for (int32_t k = 0; k < BINDINGS; ++k) {
    Binding *binding = &kernel->bindings[(kernel->oldest + k) % BINDINGS];
    int32_t none = 0;
    if (__atomic_compare_exchange_n(&binding->users, &none, -1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return binding;
  }
  return NULL;
}

static int32_t bind_new(Kernel *kernel, TF_StringView path, Binding **binding, char *error) {
  Binding made = {0};
  int32_t code = open_region(kernel, path, &made, error);
  *binding = code == SIRIUS_OK ? spare(kernel) : NULL;
  if (*binding) {
    clear(*binding);
    made.users = -1;
    **binding = made;
    __atomic_store_n(&(*binding)->users, 1, __ATOMIC_RELEASE);
    kernel->oldest = (int32_t)(*binding - kernel->bindings + 1) % BINDINGS;
    return SIRIUS_OK;
  }
  if (code == SIRIUS_OK) {
    snprintf(error, SIRIUS_ERROR_BYTES, "more than %d bundles at once", BINDINGS);
    code = SIRIUS_EXHAUSTED;
  }
  clear(&made);
  return code;
}

/* Enters the binding of a path. */
static int32_t bind(Kernel *kernel, TF_StringView path, Binding **binding, char *error) {
  /* The path of a loaded model does not change: no system call from the second call on. */
  *binding = &kernel->bindings[__atomic_load_n(&kernel->latest, __ATOMIC_RELAXED)];
  if (enter(*binding, path)) return SIRIUS_OK;
  pthread_mutex_lock(&kernel->mutex);
  int32_t k = 0, code = SIRIUS_OK;
  while (k < BINDINGS && !enter(&kernel->bindings[k], path)) ++k;
  if (k < BINDINGS)
    *binding = &kernel->bindings[k];
  else
    code = bind_new(kernel, path, binding, error);
  if (code == SIRIUS_OK) __atomic_store_n(&kernel->latest, (int32_t)(*binding - kernel->bindings), __ATOMIC_RELAXED);
  pthread_mutex_unlock(&kernel->mutex);
  return code;
}

/* ---- a call ---- */

typedef struct Outputs Outputs;
/* What is done with the inputs of a call and the region they are for. A code of host.h, and a message. */
typedef int32_t (*Action)(Outputs *outputs, const Binding *binding, const SiriusTensor *in, int32_t n, char *error);
struct Outputs {
  TF_OpKernelContext *context;
  TF_Status *status;
  TF_Tensor **out;
  void *cancellation;
  Action action;
};

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

static int32_t is_cancelled(void *context) { return sirius_tf_is_cancelled(((Outputs *)context)->cancellation); }

static int32_t run(Outputs *outputs, const Binding *binding, const SiriusTensor *in, int32_t n, char *error) {
  outputs->cancellation = sirius_tf_cancellation(outputs->context);
  const SiriusCaller caller = {allocate, outputs->cancellation ? is_cancelled : NULL, outputs, 0};
  return sirius_call(binding->bundle, binding->region, in, n, &caller, 0, error, SIRIUS_ERROR_BYTES);
}

static int32_t judge(Outputs *outputs, const Binding *binding, const SiriusTensor *in, int32_t n, char *error) {
  void *accepted = NULL;
  if (allocate(outputs, 0, TF_BOOL, NULL, 0, &accepted)) {
    snprintf(error, SIRIUS_ERROR_BYTES, "cannot allocate the answer");
    return SIRIUS_EXHAUSTED;
  }
  *(_Bool *)accepted = sirius_accepts(binding->bundle, binding->region, in, n);
  return SIRIUS_OK;
}

static TF_Code call_region(Kernel *kernel, Outputs *outputs, TF_Tensor **tensors, SiriusTensor *in,
                           int64_t (*dims)[SIRIUS_MAX_RANK], char *error) {
  const int32_t n = kernel->n_in;
  if (tf.TF_NumInputs(outputs->context) != n + 1) {
    snprintf(error, SIRIUS_ERROR_BYTES, "wrong number of inputs");
    return TF_INTERNAL;
  }
  for (int32_t i = 0; i <= n; ++i) {
    tf.TF_GetInput(outputs->context, i, &tensors[i], outputs->status);
    if (tf.TF_GetCode(outputs->status) != TF_OK) {
      snprintf(error, SIRIUS_ERROR_BYTES, "%s", tf.TF_Message(outputs->status));
      return tf.TF_GetCode(outputs->status);
    }
  }
  for (int32_t i = 0; i < n; ++i) {
    const int rank = tf.TF_NumDims(tensors[i]); /* no region has one above SIRIUS_MAX_RANK: it refuses the others */
    for (int d = 0; d < rank && d < SIRIUS_MAX_RANK; ++d) dims[i][d] = tf.TF_Dim(tensors[i], d);
    in[i] = (SiriusTensor){tf.TF_TensorData(tensors[i]), dims[i], rank, tf.TF_TensorType(tensors[i])};
  }
  if (tf.TF_TensorType(tensors[n]) != TF_STRING || tf.TF_NumDims(tensors[n]) != 0) {
    snprintf(error, SIRIUS_ERROR_BYTES, "bundle must be a string scalar");
    return TF_INVALID_ARGUMENT;
  }
  Binding *binding;
  int32_t code = bind(kernel, sirius_string(tf.TF_TensorData(tensors[n])), &binding, error);
  if (code == SIRIUS_OK) {
    code = outputs->action(outputs, binding, in, n, error);
    leave(binding);
  }
  return sirius_tf_code(code);
}

static void compute(Kernel *kernel, TF_OpKernelContext *context, Action action) {
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
  Outputs outputs = {context, status, out, NULL, action};
  char error[SIRIUS_ERROR_BYTES] = "out of memory";
  TF_Code code = TF_RESOURCE_EXHAUSTED;
  if (in && out && described && dims) code = call_region(kernel, &outputs, in, described, dims, error);
  if (code != TF_OK) sirius_tf_fail(context, status, code, error);
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

static void compute_region(void *kernel, TF_OpKernelContext *context) { compute(kernel, context, run); }
static void compute_accepts(void *kernel, TF_OpKernelContext *context) { compute(kernel, context, judge); }

static void register_of_region(const char *name, const char *output, void (*compute_op)(void *, TF_OpKernelContext *),
                        TF_Status *status) {
  TF_OpDefinitionBuilder *op = tf.TF_NewOpDefinitionBuilder(name);
  tf.TF_OpDefinitionBuilderAddAttr(op, "Tin: list(type) >= 0");
  tf.TF_OpDefinitionBuilderAddAttr(op, "Tout: list(type) >= 1");
  tf.TF_OpDefinitionBuilderAddAttr(op, "region: string");
  tf.TF_OpDefinitionBuilderAddAttr(op, "digest: string");
  tf.TF_OpDefinitionBuilderAddInput(op, "inputs: Tin");
  tf.TF_OpDefinitionBuilderAddInput(op, "bundle: string");
  tf.TF_OpDefinitionBuilderAddOutput(op, output);
  tf.TF_OpDefinitionBuilderSetShapeInferenceFunction(op, sirius_infer_unknown);
  sirius_register_op(op, name, create, compute_op, destroy, status);
}

void sirius_register_region(TF_Status *status) {
  register_of_region("SiriusRegion", "outputs: Tout", compute_region, status);
  if (tf.TF_GetCode(status) == TF_OK) register_of_region("SiriusAccepts", "accepted: bool", compute_accepts, status);
}
