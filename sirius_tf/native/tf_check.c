/* SPDX-License-Identifier: Apache-2.0
 *
 * The op SiriusCheck(bundle: string), which runs when a model is loaded: it fails unless the bundle in the file `bundle` and
 * the graph in saved_model.pb are as they were written, and belong together. `regions` are those of the ops SiriusRegion, a
 * line "name digest" for each; `graph` ends with the checksum of saved_model.pb (rewrite/asset.py).
 *
 * The bundle stays open while the kernel lives, that is while the model does: what was checked is what SiriusRegion takes,
 * though another file has the path by then.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "crc32c.h"
#include "host.h"
#include "tf_op.h"

#define DIGITS 8 /* of a checksum in hex */

typedef struct {
  char *regions, *graph;
  pthread_mutex_t mutex;
  SiriusOpened *opened;
} Kernel;

static void destroy(void *data) {
  Kernel *kernel = data;
  if (!kernel) return;
  if (kernel->opened) sirius_unpin(kernel->opened);
  pthread_mutex_destroy(&kernel->mutex);
  free(kernel->regions);
  free(kernel->graph);
  free(kernel);
}

static void *create(TF_OpKernelConstruction *construction) {
  TF_Status *status = tf.TF_NewStatus();
  Kernel *kernel = calloc(1, sizeof *kernel);
  if (kernel) {
    pthread_mutex_init(&kernel->mutex, NULL);
    kernel->regions = sirius_text_attribute(construction, "regions", status);
    if (kernel->regions) kernel->graph = sirius_text_attribute(construction, "graph", status);
  } else {
    tf.TF_SetStatus(status, TF_RESOURCE_EXHAUSTED, "out of memory");
  }
  if (tf.TF_GetCode(status) != TF_OK) {
    tf.TF_OpKernelConstruction_Failure(construction, status);
    destroy(kernel);
    kernel = NULL;
  }
  tf.TF_DeleteStatus(status);
  return kernel;
}

/* ---- what is checked ---- */

static int32_t check_regions(const char *path, const SiriusBundle *bundle, const char *lines, char *error) {
  for (const char *line = lines; *line;) {
    const char *end = strchrnul(line, '\n'), *space = memchr(line, ' ', (size_t)(end - line));
    const int name = (int)((space ? space : end) - line), digest = space ? (int)(end - space - 1) : 0;
    const SiriusRegionInfo *found = NULL;
    for (int32_t i = 0; i < bundle->n_regions && !found; ++i) {
      const SiriusRegionInfo *r = &bundle->regions[i];
      if (strncmp(r->name, line, (size_t)name) == 0 && !r->name[name]) found = r;
    }
    if (!found || !space || strlen(found->digest) != (size_t)digest || memcmp(found->digest, space + 1, (size_t)digest)) {
      snprintf(error, SIRIUS_ERROR_BYTES,
               "%s: region %.*s %s: bundle and saved_model.pb do not belong together; restore the one that was replaced, "
               "or convert the model again", path, name, line, found ? "was compiled from another graph" : "is not in it");
      return SIRIUS_STALE;
    }
    line = *end ? end + 1 : end;
  }
  return SIRIUS_OK;
}

/* All of a file; NULL with a message. The caller frees it. */
static char *read_file(const char *path, size_t *bytes, int32_t *code, char *error) {
  FILE *file = fopen(path, "rbe");
  struct stat info;
  char *data = NULL;
  *code = SIRIUS_MISSING;
  if (file && fstat(fileno(file), &info) == 0) {
    *code = SIRIUS_EXHAUSTED;
    data = malloc((size_t)info.st_size + 1);
  }
  if (data) {
    *bytes = fread(data, 1, (size_t)info.st_size, file);
    *code = ferror(file) ? SIRIUS_DAMAGED : SIRIUS_OK;
  }
  if (*code != SIRIUS_OK) snprintf(error, SIRIUS_ERROR_BYTES, "%s: %m", path);
  if (file) fclose(file);
  return data;
}

/* The checksum of a graph is in it: it is that of the graph with zeros in its place. */
static int32_t check_graph(const char *path, const char *mark, char *error) {
  const size_t length = strlen(mark);
  if (length <= DIGITS) return SIRIUS_OK;
  char *file = sirius_beside(path, "saved_model.pb");
  if (!file) {
    snprintf(error, SIRIUS_ERROR_BYTES, "out of memory");
    return SIRIUS_EXHAUSTED;
  }
  int32_t code;
  size_t bytes = 0;
  char *data = read_file(file, &bytes, &code, error);
  if (code == SIRIUS_OK) {
    char *at = data, found[DIGITS + 1];
    const size_t head = length - DIGITS;
    while ((at = memmem(at, (size_t)(data + bytes - at), mark, head)) && (size_t)(data + bytes - at) >= length) {
      memset(at + head, '0', DIGITS);
      at += length;
    }
    snprintf(found, sizeof found, "%08x", sirius_crc32c(0, data, bytes));
    if (strcmp(found, mark + head) != 0) {
      code = SIRIUS_DAMAGED;
      snprintf(error, SIRIUS_ERROR_BYTES,
               "%s is damaged, or was changed after it was written (checksum %s, not %s): restore it, or convert the model "
               "again", file, found, mark + head);
    }
  }
  free(data);
  free(file);
  return code;
}

/* ---- a call ---- */

static int32_t check(Kernel *kernel, const TF_Tensor *bundle, char *error) {
  if (tf.TF_TensorType(bundle) != TF_STRING || tf.TF_NumDims(bundle) != 0) {
    snprintf(error, SIRIUS_ERROR_BYTES, "bundle must be a string scalar");
    return SIRIUS_INVALID;
  }
  char *path;
  int32_t code = sirius_path(sirius_string(tf.TF_TensorData(bundle)), &path, error);
  if (code != SIRIUS_OK) return code;
  SiriusOpened *opened = NULL;
  code = sirius_open(path, &opened, error, SIRIUS_ERROR_BYTES);
  if (code == SIRIUS_OK) code = check_regions(path, sirius_opened_bundle(opened), kernel->regions, error);
  if (code == SIRIUS_OK) code = check_graph(path, kernel->graph, error);
  free(path);
  if (code == SIRIUS_OK) {
    sirius_pin(opened);
    pthread_mutex_lock(&kernel->mutex);
    SiriusOpened *former = kernel->opened;
    kernel->opened = opened;
    pthread_mutex_unlock(&kernel->mutex);
    if (former) sirius_unpin(former);
  } else if (opened) {
    sirius_close(opened);
  }
  return code;
}

static void compute(void *kernel, TF_OpKernelContext *context) {
  TF_Status *status = tf.TF_NewStatus();
  TF_Tensor *bundle = NULL;
  char error[SIRIUS_ERROR_BYTES];
  tf.TF_GetInput(context, 0, &bundle, status);
  if (tf.TF_GetCode(status) != TF_OK) {
    tf.TF_OpKernelContext_Failure(context, status);
  } else {
    const int32_t code = check(kernel, bundle, error);
    if (code != SIRIUS_OK) sirius_tf_fail(context, status, sirius_tf_code(code), error);
    tf.TF_DeleteTensor(bundle);
  }
  tf.TF_DeleteStatus(status);
}

static void infer_nothing(TF_ShapeInferenceContext *context, TF_Status *status) {
  (void)context;
  (void)status;
}

void sirius_register_check(TF_Status *status) {
  TF_OpDefinitionBuilder *op = tf.TF_NewOpDefinitionBuilder("SiriusCheck");
  tf.TF_OpDefinitionBuilderAddAttr(op, "regions: string");
  tf.TF_OpDefinitionBuilderAddAttr(op, "graph: string");
  tf.TF_OpDefinitionBuilderAddInput(op, "bundle: string");
  tf.TF_OpDefinitionBuilderSetIsStateful(op, 1);
  tf.TF_OpDefinitionBuilderSetShapeInferenceFunction(op, infer_nothing);
  sirius_register_op(op, "SiriusCheck", create, compute, destroy, status);
}
