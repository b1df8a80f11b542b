/* SPDX-License-Identifier: Apache-2.0
 *
 * The op SiriusResults hands on the results of compiled code. It does not read the other inputs: those are what the
 * gradient is one of, that of the original function (runtime/op.py).
 */
#include "tf_op.h"

static void *create(TF_OpKernelConstruction *construction) {
  int32_t n_out = 0, bytes = 0;
  TF_Status *status = tf.TF_NewStatus();
  tf.TF_OpKernelConstruction_GetAttrSize(construction, "Tout", &n_out, &bytes, status);
  if (tf.TF_GetCode(status) != TF_OK) tf.TF_OpKernelConstruction_Failure(construction, status);
  tf.TF_DeleteStatus(status);
  return (void *)(intptr_t)n_out;
}

static void compute(void *n_out, TF_OpKernelContext *context) {
  TF_Status *status = tf.TF_NewStatus();
  for (int k = 0; k < (int)(intptr_t)n_out && tf.TF_GetCode(status) == TF_OK; ++k) {
    TF_Tensor *result = NULL;
    tf.TF_GetInput(context, k, &result, status);
    if (tf.TF_GetCode(status) == TF_OK) tf.TF_SetOutput(context, k, result, status);
    if (result) tf.TF_DeleteTensor(result);
  }
  if (tf.TF_GetCode(status) != TF_OK) tf.TF_OpKernelContext_Failure(context, status);
  tf.TF_DeleteStatus(status);
}

static void destroy(void *n_out) { (void)n_out; }

void sirius_register_results(TF_Status *status) {
  TF_OpDefinitionBuilder *op = tf.TF_NewOpDefinitionBuilder("SiriusResults");
  tf.TF_OpDefinitionBuilderAddAttr(op, "Tout: list(type) >= 1");
  tf.TF_OpDefinitionBuilderAddAttr(op, "Tin: list(type) >= 0");
  tf.TF_OpDefinitionBuilderAddAttr(op, "original: string");
  tf.TF_OpDefinitionBuilderAddInput(op, "compiled: Tout");
  tf.TF_OpDefinitionBuilderAddInput(op, "arguments: Tin");
  tf.TF_OpDefinitionBuilderAddOutput(op, "results: Tout");
  tf.TF_OpDefinitionBuilderSetShapeInferenceFunction(op, sirius_infer_unknown);
  sirius_register_op(op, "SiriusResults", create, compute, destroy, status);
}
