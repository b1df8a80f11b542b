/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether TensorFlow wants a step to end.
 */
#ifndef SIRIUS_TF_CANCEL_H
#define SIRIUS_TF_CANCEL_H
#include "tf_api.h"

/* What cancels the step of a kernel, or NULL where that is not known. */
void *sirius_tf_cancellation(TF_OpKernelContext *context);

/* 1 once the step has been cancelled. */
int32_t sirius_tf_is_cancelled(void *cancellation);

#endif
