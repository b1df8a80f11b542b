/* SPDX-License-Identifier: Apache-2.0
 *
 * What the ops have in common.
 */
#ifndef SIRIUS_TF_OP_H
#define SIRIUS_TF_OP_H
#include "tf_api.h"

#define SIRIUS_ERROR_BYTES 512

#define SIRIUS_TF_MEMBER(result, name, parameters) result(*name) parameters;
typedef struct {
  SIRIUS_TF_API(SIRIUS_TF_MEMBER)
} SiriusTf;
#undef SIRIUS_TF_MEMBER

/* TensorFlow's functions in this process, once the ops are registered. */
extern SiriusTf tf __attribute__((visibility("hidden")));

/* TensorFlow's code for one of host.h. What is wrong with files of the server is no fault of a request's. */
TF_Code sirius_tf_code(int32_t code);

/* Ends a call with an error of the node. */
void sirius_tf_fail(TF_OpKernelContext *context, TF_Status *status, TF_Code code, const char *error);

/* Register an op and its kernel; what goes wrong is in `status`. */
void sirius_register_region(TF_Status *status);

#endif
