/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_graph.h"

#include <stdlib.h>
#include <string.h>

#include "host.h"

#define KEPT 16 /* in a list */

struct SiriusGraph {
  SiriusGraph *next;
  CUgraphExec exec; /* NULL until it is captured */
  size_t words;
  uint64_t key[];
};

void sirius_graphs_drop(const SiriusDevice *d, SiriusGraph **graphs) {
  while (*graphs) {
    SiriusGraph *graph = *graphs;
    *graphs = graph->next;
    if (graph->exec) d->cu.cuGraphExecDestroy(graph->exec);
    free(graph);
  }
}

/* Out of the list, if it is there. */
static SiriusGraph *take(SiriusGraph **graphs, const uint64_t *key, size_t words) {
  for (; *graphs; graphs = &(*graphs)->next) {
    SiriusGraph *graph = *graphs;
    if (graph->words != words || memcmp(graph->key, key, words * sizeof *key)) continue;
    *graphs = graph->next;
    return graph;
  }
  return NULL;
}

/* In front of the list, of which the end is dropped if it is too long. */
static void put(const SiriusDevice *d, SiriusGraph **graphs, SiriusGraph *graph) {
  graph->next = *graphs;
  *graphs = graph;
  for (int k = 1; graph && k < KEPT; ++k) graph = graph->next;
  if (graph) sirius_graphs_drop(d, &graph->next);
}

static SiriusGraph *create(const uint64_t *key, size_t words) {
  SiriusGraph *graph = calloc(1, sizeof *graph + words * sizeof *key);
  if (!graph) return NULL;
  graph->words = words;
  memcpy(graph->key, key, words * sizeof *key);
  return graph;
}

/* What is put on the stream by this thread; others may go on using the device. */
static int record(const SiriusDevice *d, SiriusEnqueue enqueue, const void *context, CUstream stream, CUgraph *graph,
                  SiriusProblem *problem) {
  TRY(cuStreamBeginCapture_v2, stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  const int failed = enqueue(d, context, stream, problem);
  const CUresult ended = d->cu.cuStreamEndCapture(stream, graph);
  if (failed) return 1; /* then the capture ends with an error, too */
  if (ended == CUDA_SUCCESS) return 0;
  sirius_driver_problem(&d->cu, "cuStreamEndCapture", ended, problem);
  return 1;
}

static int instantiate(const SiriusDevice *d, CUgraph graph, CUgraphExec *exec, SiriusProblem *problem) {
  TRY(cuGraphInstantiateWithFlags, exec, graph, 0);
  return 0;
}

static int capture(const SiriusDevice *d, SiriusEnqueue enqueue, const void *context, CUstream stream,
                   CUgraphExec *exec, SiriusProblem *problem) {
  CUgraph graph = NULL;
  const int failed = record(d, enqueue, context, stream, &graph, problem) || instantiate(d, graph, exec, problem);
  if (graph) d->cu.cuGraphDestroy(graph);
  return failed;
}

static int replay(const SiriusDevice *d, const SiriusGraph *graph, CUstream stream, SiriusProblem *problem) {
  TRY(cuGraphLaunch, graph->exec, stream);
  sirius_cuda_count(SIRIUS_REPLAYS, 1);
  return 0;
}

int sirius_graph_launch(const SiriusDevice *d, SiriusGraph **graphs, const uint64_t *key, size_t words,
                        SiriusEnqueue enqueue, const void *context, CUstream stream, SiriusProblem *problem) {
  SiriusGraph *graph = take(graphs, key, words);
  int failed = graph && !graph->exec && capture(d, enqueue, context, stream, &graph->exec, problem);
  if (!failed || problem->code == SIRIUS_EXHAUSTED)
    failed = graph && graph->exec ? replay(d, graph, stream, problem) : enqueue(d, context, stream, problem);
  if (graph || (graph = create(key, words))) put(d, graphs, graph);
  return failed;
}
