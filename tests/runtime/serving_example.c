/* SPDX-License-Identifier: Apache-2.0
 *
 * What a server does with a SavedModel, through TensorFlow's C API: load it, feed one float matrix, fetch one
 * float tensor. The op SiriusRegion comes from LD_PRELOAD alone.
 *
 * usage: serving_example MODEL FEED FETCH ROWS COLUMNS
 * FEED and FETCH are names of nodes. Element i of the input is (i % 7) * 0.25; prints the output, a number a line.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The wheel has no C headers that are C; these declarations are from tensorflow/c/c_api.h. */
typedef struct TF_Status TF_Status;
typedef struct TF_Graph TF_Graph;
typedef struct TF_Session TF_Session;
typedef struct TF_SessionOptions TF_SessionOptions;
typedef struct TF_Operation TF_Operation;
typedef struct TF_Tensor TF_Tensor;
typedef struct TF_Buffer TF_Buffer;
typedef struct {
  TF_Operation *oper;
  int index;
} TF_Output;
enum { TF_OK = 0, TF_FLOAT = 1 };

TF_Status *TF_NewStatus(void);
int TF_GetCode(const TF_Status *status);
const char *TF_Message(const TF_Status *status);
TF_Graph *TF_NewGraph(void);
TF_Operation *TF_GraphOperationByName(TF_Graph *graph, const char *name);
TF_SessionOptions *TF_NewSessionOptions(void);
TF_Session *TF_LoadSessionFromSavedModel(const TF_SessionOptions *options, const TF_Buffer *run_options,
                                         const char *folder, const char *const *tags, int n_tags, TF_Graph *graph,
                                         TF_Buffer *meta_graph, TF_Status *status);
void TF_SessionRun(TF_Session *session, const TF_Buffer *run_options, const TF_Output *inputs,
                   TF_Tensor *const *input_values, int n_inputs, const TF_Output *outputs,
                   TF_Tensor **output_values, int n_outputs, const TF_Operation *const *targets, int n_targets,
                   TF_Buffer *metadata, TF_Status *status);
TF_Tensor *TF_AllocateTensor(int dtype, const int64_t *dims, int rank, size_t bytes);
void *TF_TensorData(const TF_Tensor *tensor);
size_t TF_TensorByteSize(const TF_Tensor *tensor);

static void check(const TF_Status *status) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "TensorFlow's code %d: %s\n", TF_GetCode(status), TF_Message(status));
  exit(1);
}

static TF_Output find(TF_Graph *graph, const char *name) {
  const TF_Output output = {TF_GraphOperationByName(graph, name), 0};
  if (output.oper) return output;
  fprintf(stderr, "no node %s\n", name);
  exit(1);
}

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  const int64_t dims[] = {atoi(argv[4]), atoi(argv[5])};
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  const char *tags[] = {"serve"};
  TF_Session *session =
      TF_LoadSessionFromSavedModel(TF_NewSessionOptions(), NULL, argv[1], tags, 1, graph, NULL, status);
  check(status);

  const int64_t count = dims[0] * dims[1];
  TF_Tensor *input = TF_AllocateTensor(TF_FLOAT, dims, 2, (size_t)count * sizeof(float));
  float *values = TF_TensorData(input);
  for (int64_t i = 0; i < count; ++i) values[i] = (float)(i % 7) * 0.25f;

  const TF_Output feed = find(graph, argv[2]), fetch = find(graph, argv[3]);
  TF_Tensor *output = NULL;
  TF_SessionRun(session, NULL, &feed, &input, 1, &fetch, &output, 1, NULL, 0, NULL, status);
  check(status);
  const float *result = TF_TensorData(output);
  for (size_t i = 0; i < TF_TensorByteSize(output) / sizeof(float); ++i) printf("%.9g\n", (double)result[i]);
  return 0;
}
