/* SPDX-License-Identifier: Apache-2.0
 *
 * A program that is linked with a bundle's code and the host's, and answers the requests of its standard input, each once for
 * each number of workers among its arguments. Every array has a block of memory of its own.
 *
 * Input: the weights, then for each request the number of its region, and for each input of that its rank, its extents and
 * its elements. An array is its bytes behind their number. Numbers are int64. Output, for each call: its code, and either the rank, the
 * extents and the elements of each output, or the message.
 *
 * Before a call by a negative number of workers, so many work for the calls of several threads.
 *
 * With "fail=N" in front, the N-th allocation of the first call fails, and behind its answer is whether it had as many. The linker puts the functions here in place of those of libc (--wrap), in our code only.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "request.h"
#include "team.h"

extern const SiriusBundle sirius_bundle;

#define CALLERS 3
#define OFTEN 100

typedef struct {
  void *data;
  int64_t dims[SIRIUS_MAX_RANK];
  int32_t rank;
} Array;

static int64_t until_failure; /* allocations, of which the last one fails; 0: none does */

static int fails(void) { return until_failure > 0 && --until_failure == 0; }

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes) { return fails() ? NULL : __real_malloc(bytes); }

int __real_posix_memalign(void **data, size_t align, size_t bytes);
int __wrap_posix_memalign(void **data, size_t align, size_t bytes) {
  return fails() ? 12 : __real_posix_memalign(data, align, bytes); /* ENOMEM */
}

void *__real_mmap(void *at, size_t bytes, int protection, int flags, int file, long offset);
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int file, long offset) {
  return fails() ? (void *)-1 : __real_mmap(at, bytes, protection, flags, file, offset);
}

int __real_pthread_create(void *thread, const void *attributes, void *(*start)(void *), void *argument);
int __wrap_pthread_create(void *thread, const void *attributes, void *(*start)(void *), void *argument) {
  return fails() ? 11 : __real_pthread_create(thread, attributes, start, argument); /* EAGAIN */
}

#ifdef __SANITIZE_THREAD__ /* clang calls these, which are not in gcc's runtime: that has libc's functions */
void *__tsan_memset(void *to, int byte, size_t count) { return memset(to, byte, count); }
void *__tsan_memcpy(void *to, const void *from, size_t count) { return memcpy(to, from, count); }
void *__tsan_memmove(void *to, const void *from, size_t count) { return memmove(to, from, count); }
#endif

static void *take(size_t bytes) {
  void *data = NULL;
  if (__real_posix_memalign(&data, 64, bytes)) abort();
  return data;
}

static void get(void *data, size_t bytes) {
  if (bytes && fread(data, bytes, 1, stdin) != 1) abort();
}

static int64_t number(void) {
  int64_t value;
  get(&value, sizeof value);
  return value;
}

static void *array(void) {
  const size_t bytes = (size_t)number();
  void *data = take(bytes);
  get(data, bytes);
  return data;
}

static void put(const void *data, size_t bytes) {
  if (bytes && fwrite(data, bytes, 1, stdout) != 1) abort();
}

static void put_number(int64_t value) { put(&value, sizeof value); }

static int32_t allocate(void *context, int32_t index, int32_t dtype, const int64_t *dims, int32_t rank, void **data) {
  Array *output = (Array *)context + index;
  output->rank = rank;
  memcpy(output->dims, dims, (size_t)rank * sizeof *dims);
  return __wrap_posix_memalign(data, 64, (size_t)sirius_array_bytes(dtype, dims, rank)) ? 1 : (output->data = *data, 0);
}

static int64_t compute(const SiriusBundle *bundle, const SiriusRegionInfo *region, const SiriusTensor *in, Array *outputs,
                       char error[512]) {
  const SiriusCaller caller = {.allocate = allocate, .context = outputs};
  return sirius_call(bundle, region, in, region->n_in, &caller, 0, error, 512);
}

static void call(const SiriusBundle *bundle, const SiriusRegionInfo *region, const SiriusTensor *in, int32_t workers) {
  Array *outputs = calloc((size_t)region->n_out + 1, sizeof *outputs);
  char error[512];
  sirius_fix_workers(workers);
  const int64_t code = compute(bundle, region, in, outputs, error);
  put_number(code);
  if (code) {
    put_number((int64_t)strlen(error));
    put(error, strlen(error));
  }
  for (int32_t k = 0; k < region->n_out; ++k) {
    const Array *y = &outputs[k];
    if (!code) {
      put_number(y->rank);
      put(y->dims, (size_t)y->rank * sizeof *y->dims);
      put(y->data, (size_t)sirius_array_bytes(region->out_dtype[k], y->dims, y->rank));
    }
    free(y->data);
  }
  free(outputs);
}

typedef struct {
  const SiriusBundle *bundle;
  const SiriusRegionInfo *region;
  const SiriusTensor *in;
} Request;

static void *call_often(void *argument) {
  const Request *r = argument;
  Array *outputs = calloc((size_t)r->region->n_out + 1, sizeof *outputs);
  char error[512];
  for (int n = 0; n < OFTEN; ++n) {
    if (compute(r->bundle, r->region, r->in, outputs, error)) abort();
    for (int32_t k = 0; k < r->region->n_out; ++k) free(outputs[k].data);
  }
  free(outputs);
  return NULL;
}

static void call_from_threads(Request request, int32_t workers) {
  pthread_t threads[CALLERS];
  sirius_fix_workers(workers);
  for (int k = 0; k < CALLERS; ++k)
    if (__real_pthread_create(&threads[k], NULL, call_often, &request)) abort();
  for (int k = 0; k < CALLERS; ++k) pthread_join(threads[k], NULL);
}

static void answer(const SiriusBundle *bundle, const SiriusRegionInfo *region, int count, char **arguments) {
  SiriusTensor *in = calloc((size_t)region->n_in + 1, sizeof *in);
  for (int32_t k = 0; k < region->n_in; ++k) {
    const int64_t rank = number();
    int64_t *dims = take((size_t)rank * sizeof *dims);
    get(dims, (size_t)rank * sizeof *dims);
    in[k] = (SiriusTensor){array(), dims, (int32_t)rank, region->in_dtype[k]};
  }
  const int failing = count > 1 && !strncmp(arguments[1], "fail=", 5);
  if (failing) until_failure = atoi(arguments[1] + 5);
  for (int k = 1 + failing; k < count; ++k) {
    if (atoi(arguments[k]) < 0) call_from_threads((Request){bundle, region, in}, -atoi(arguments[k]));
    call(bundle, region, in, abs(atoi(arguments[k])));
    if (failing && k == 2) {
      put_number(until_failure == 0);
      until_failure = 0;
    }
  }
  for (int32_t k = 0; k < region->n_in; ++k) {
    free((void *)in[k].data);
    free((void *)in[k].dims);
  }
  free(in);
}

int main(int count, char **arguments) {
  SiriusBundle bundle = sirius_bundle;
  SiriusRegionInfo *regions = calloc((size_t)bundle.n_regions, sizeof *regions);
  memcpy(regions, bundle.regions, (size_t)bundle.n_regions * sizeof *regions);
  for (int32_t k = 0; k < bundle.n_regions; ++k) {
    SiriusRun *run = regions[k].run; /* there is code for one instruction set */
    for (int isa = 0; isa < SIRIUS_ISAS; ++isa)
      if (!run[isa]) run[isa] = run[SIRIUS_ISA_V3] ? run[SIRIUS_ISA_V3] : run[SIRIUS_ISA_V4];
  }
  bundle.regions = regions;
  void *weights = array();
  bundle.weights = weights;
  int64_t region;
  while (fread(&region, sizeof region, 1, stdin) == 1) answer(&bundle, &regions[region], count, arguments);
  free(weights);
  free(regions);
  return 0;
}
