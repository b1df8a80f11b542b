/* SPDX-License-Identifier: Apache-2.0
 *
 * TensorFlow cancels a step, at its deadline or since a client wants it, by a CancellationManager. The C API does not
 * tell a kernel's, but it is among the Params of the OpKernelContext, between members that the C API tells. Asked about a
 * context made up here, whose words are numbers, it says where these are; where they are as in versions 2.19 to 2.21, whose
 * Params are alike, so is the manager. Elsewhere nothing cancels a call.
 */
#define _GNU_SOURCE
#include "tf_cancel.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

/* Words of the Params. */
#define STEP_ID 0
#define CANCELLATION_MANAGER 21
#define INPUT_COUNT 23
#define FRAME_ID 28
#define ITER_ID 29
#define WORDS 64 /* more than what is looked at */

/* bool tsl::CancellationManager::TryDeregisterCallback(CancellationToken): true, unless the step has been cancelled. */
#define TRY_DEREGISTER "_ZN3tsl19CancellationManager21TryDeregisterCallbackEl"
#define NO_TOKEN (-1)

static _Bool (*try_deregister)(void *manager, int64_t token);
static int32_t params_word; /* of the context; -1 if it is not known where the manager is */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int32_t find_params(void) {
  const char *(*version)(void);
  int64_t (*step_id)(const void *), (*iter_id)(const void *);
  uint64_t (*frame_id)(const void *);
  int (*input_count)(const void *);
  *(void **)&version = dlsym(RTLD_DEFAULT, "TF_Version");
  *(void **)&step_id = dlsym(RTLD_DEFAULT, "TF_GetStepId");
  *(void **)&iter_id = dlsym(RTLD_DEFAULT, "TF_GetIterId");
  *(void **)&frame_id = dlsym(RTLD_DEFAULT, "TF_GetFrameId");
  *(void **)&input_count = dlsym(RTLD_DEFAULT, "TF_NumInputs");
  *(void **)&try_deregister = dlsym(RTLD_DEFAULT, TRY_DEREGISTER);
  if (!version || !step_id || !iter_id || !frame_id || !input_count || !try_deregister) return -1;
  if (strncmp(version(), "2.19.", 5) && strncmp(version(), "2.20.", 5) && strncmp(version(), "2.21.", 5)) return -1;
  int64_t numbers[WORDS];
  const void *context[WORDS], *other[WORDS];
  for (int32_t i = 0; i < WORDS; ++i) {
    numbers[i] = i;
    context[i] = numbers;
    other[i] = &numbers[i];
  }
  const int alike = step_id(context) == STEP_ID && input_count(context) == INPUT_COUNT &&
                    frame_id(context) == FRAME_ID && iter_id(context) == ITER_ID;
  return alike ? (int32_t)step_id(other) : -1; /* the word that leads to another number is the pointer to the Params */
}

static void resolve(void) { params_word = find_params(); }

void *sirius_tf_cancellation(TF_OpKernelContext *context) {
  pthread_once(&once, resolve);
  return params_word < 0 ? NULL : ((void ***)context)[params_word][CANCELLATION_MANAGER];
}

int32_t sirius_tf_is_cancelled(void *cancellation) { return !try_deregister(cancellation, NO_TOKEN); }
