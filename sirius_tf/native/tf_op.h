/* SPDX-License-Identifier: Apache-2.0
 *
 * What the ops have in common.
 */
#ifndef SIRIUS_TF_OP_H
#define SIRIUS_TF_OP_H
#include "tf_api.h"

#define SIRIUS_ERROR_BYTES 1024

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

/* A string attribute of a node, which the caller frees; NULL with a status that says why. */
char *sirius_text_attribute(TF_OpKernelConstruction *construction, const char *name, TF_Status *status);

/* A string as a path, which the caller frees. SIRIUS_OK, or a code of host.h and a message. */
int32_t sirius_path(TF_StringView string, char **path, char *error);

/* For ops of which EnsureShape behind them has what is known: the C API shows a shape function no string attribute. */
void sirius_infer_unknown(TF_ShapeInferenceContext *context, TF_Status *status);

/* Registers an op as it is described, and its kernel; what goes wrong is in `status`. */
void sirius_register_op(TF_OpDefinitionBuilder *op, const char *name, void *(*create)(TF_OpKernelConstruction *),
                        void (*compute)(void *, TF_OpKernelContext *), void (*destroy)(void *), TF_Status *status);

/* Register the ops of a file. */
void sirius_register_region(TF_Status *status);
void sirius_register_check(TF_Status *status);
void sirius_register_results(TF_Status *status);

#endif
