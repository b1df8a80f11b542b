/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of TensorFlow's stable C API that the op uses, declared here so that neither headers nor libraries
 * of TensorFlow are needed to build. Each is looked up in the process at registration.
 */
#ifndef SIRIUS_TF_API_H
#define SIRIUS_TF_API_H
#include <stddef.h>
#include <stdint.h>

typedef struct TF_Status TF_Status;
typedef struct TF_Tensor TF_Tensor;
typedef struct TF_OpDefinitionBuilder TF_OpDefinitionBuilder;
typedef struct TF_ShapeInferenceContext TF_ShapeInferenceContext;
typedef struct TF_KernelBuilder TF_KernelBuilder;
typedef struct TF_OpKernelConstruction TF_OpKernelConstruction;
typedef struct TF_OpKernelContext TF_OpKernelContext;
typedef struct {
  const char *data;
  size_t len;
} TF_StringView;
typedef int TF_DataType; /* an enum there */
typedef int TF_Code;

enum { TF_OK = 0, TF_CANCELLED = 1, TF_INVALID_ARGUMENT = 3, TF_DEADLINE_EXCEEDED = 4, TF_NOT_FOUND = 5 };
enum { TF_RESOURCE_EXHAUSTED = 8, TF_FAILED_PRECONDITION = 9, TF_INTERNAL = 13, TF_DATA_LOSS = 15 };
enum { TF_STRING = 7, TF_BOOL = 10 };

/* X(result, name, parameters) */
#define SIRIUS_TF_API(X)                                                                                    \
  X(TF_Status *, TF_NewStatus, (void))                                                                      \
  X(void, TF_DeleteStatus, (TF_Status *))                                                                   \
  X(void, TF_SetStatus, (TF_Status *, TF_Code, const char *))                                               \
  X(TF_Code, TF_GetCode, (const TF_Status *))                                                               \
  X(const char *, TF_Message, (const TF_Status *))                                                          \
  X(TF_DataType, TF_TensorType, (const TF_Tensor *))                                                        \
  X(int, TF_NumDims, (const TF_Tensor *))                                                                   \
  X(int64_t, TF_Dim, (const TF_Tensor *, int))                                                              \
  X(void *, TF_TensorData, (const TF_Tensor *))                                                             \
  X(void, TF_DeleteTensor, (TF_Tensor *))                                                                   \
  X(size_t, TF_DataTypeSize, (TF_DataType))                                                                 \
  X(TF_OpDefinitionBuilder *, TF_NewOpDefinitionBuilder, (const char *))                                    \
  X(void, TF_OpDefinitionBuilderAddAttr, (TF_OpDefinitionBuilder *, const char *))                          \
  X(void, TF_OpDefinitionBuilderAddInput, (TF_OpDefinitionBuilder *, const char *))                         \
  X(void, TF_OpDefinitionBuilderAddOutput, (TF_OpDefinitionBuilder *, const char *))                        \
  X(void, TF_OpDefinitionBuilderSetShapeInferenceFunction,                                                  \
    (TF_OpDefinitionBuilder *, void (*)(TF_ShapeInferenceContext *, TF_Status *)))                          \
  X(void, TF_OpDefinitionBuilderSetIsStateful, (TF_OpDefinitionBuilder *, _Bool))                           \
  X(void, TF_RegisterOpDefinition, (TF_OpDefinitionBuilder *, TF_Status *))                                 \
  X(void, TF_ShapeInferenceContextSetUnknownShape, (TF_ShapeInferenceContext *, TF_Status *))               \
  X(TF_KernelBuilder *, TF_NewKernelBuilder,                                                                \
    (const char *, const char *, void *(*)(TF_OpKernelConstruction *),                                      \
     void (*)(void *, TF_OpKernelContext *), void (*)(void *)))                                             \
  X(void, TF_RegisterKernelBuilder, (const char *, TF_KernelBuilder *, TF_Status *))                        \
  X(void, TF_OpKernelConstruction_GetAttrSize,                                                              \
    (TF_OpKernelConstruction *, const char *, int32_t *, int32_t *, TF_Status *))                           \
  X(void, TF_OpKernelConstruction_GetAttrString,                                                            \
    (TF_OpKernelConstruction *, const char *, char *, size_t, TF_Status *))                                 \
  X(void, TF_OpKernelConstruction_GetAttrTypeList,                                                          \
    (TF_OpKernelConstruction *, const char *, TF_DataType *, int, TF_Status *))                             \
  X(void, TF_OpKernelConstruction_Failure, (TF_OpKernelConstruction *, TF_Status *))                        \
  X(int, TF_NumInputs, (TF_OpKernelContext *))                                                              \
  X(void, TF_GetInput, (TF_OpKernelContext *, int, TF_Tensor **, TF_Status *))                              \
  X(void, TF_SetOutput, (TF_OpKernelContext *, int, const TF_Tensor *, TF_Status *))                        \
  X(TF_Tensor *, TF_AllocateOutput,                                                                         \
    (TF_OpKernelContext *, int, TF_DataType, const int64_t *, int, size_t, TF_Status *))                    \
  X(TF_StringView, TF_GetOpKernelName, (TF_OpKernelContext *))                                              \
  X(void, TF_OpKernelContext_Failure, (TF_OpKernelContext *, TF_Status *))

/* An element of a string tensor (TensorFlow's ctstring_internal.h; its accessors are header-only). */
typedef union {
  struct {
    size_t size_and_kind;
    size_t capacity;
    const char *data;
  } large;
  struct {
    uint32_t size_and_kind;
    uint32_t offset;
  } offset;
  struct {
    size_t size_and_kind;
    const char *data;
  } view;
  struct {
    uint8_t size_and_kind;
    char data[23];
  } small;
} TF_TString;

static inline TF_StringView sirius_string(const TF_TString *s) {
  switch (s->small.size_and_kind & 3u) {
    case 0: return (TF_StringView){s->small.data, s->small.size_and_kind >> 2};
    case 1: return (TF_StringView){s->large.data, s->large.size_and_kind >> 2};
    case 2: return (TF_StringView){(const char *)s + s->offset.offset, s->offset.size_and_kind >> 2};
    default: return (TF_StringView){s->view.data, s->view.size_and_kind >> 2};
  }
}

#endif
