/* SPDX-License-Identifier: Apache-2.0
 *
 * Work that a stream is given again and again, as CUDA graphs ("CUDA Driver API", NVIDIA: Graph Management).
 */
#ifndef SIRIUS_CUDA_GRAPH_H
#define SIRIUS_CUDA_GRAPH_H
#include "cuda_api.h"

typedef struct SiriusGraph SiriusGraph;

/* Puts work on a stream. 0, or 1 with a problem. */
typedef int (*SiriusEnqueue)(const SiriusDevice *device, const void *context, CUstream stream, SiriusProblem *problem);

/* Does on the stream what `enqueue` does there, which follows from `key`: the second time it is captured, and
 * from then on replayed. Not the first time: kernels may have to be loaded, which must not be while a stream is
 * captured, and many keys never come again. `graphs` is a list of those seen last, of one thread at a time;
 * NULL is none. Without memory for a graph, there is none. 0, or 1 with a problem. */
int sirius_graph_launch(const SiriusDevice *device, SiriusGraph **graphs, const uint64_t *key, size_t words,
                        SiriusEnqueue enqueue, const void *context, CUstream stream, SiriusProblem *problem);

/* Empties a list of which nothing is running. */
void sirius_graphs_drop(const SiriusDevice *device, SiriusGraph **graphs);

#endif
