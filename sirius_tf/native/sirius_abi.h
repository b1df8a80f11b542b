/* SPDX-License-Identifier: Apache-2.0
 *
 * What a bundle (generated code) and its host (the TensorFlow op, the runtime without TensorFlow) agree on.
 * A bundle imports no symbol; it exports one, `sirius_bundle`.
 *
 * A call: the host describes the inputs, `plan` checks them and computes parameters, output shapes and the
 * size of the workspace; the host allocates; then every worker of the team calls `run` with its number.
 */
#ifndef SIRIUS_ABI_H
#define SIRIUS_ABI_H
#include <stdint.h>

#define SIRIUS_ABI_VERSION 8
#define SIRIUS_MAX_RANK 8
#define SIRIUS_MOST_BYTES (INT64_C(1) << 47) /* of an output, or of a workspace: no process has more */
#define SIRIUS_ISA_V3 0 /* x86-64-v3: AVX2 and FMA */
#define SIRIUS_ISA_V4 1 /* x86-64-v4: AVX-512 F, BW, CD, DQ, VL */
#define SIRIUS_ISAS 2

/* A dense row-major array. `dtype` is TensorFlow's DataType number. */
typedef struct {
  const void *data;
  const int64_t *dims;
  int32_t rank;
  int32_t dtype;
} SiriusTensor;

/* A failure. `format` is a printf format that takes its int64 arguments from `args` (only %lld). NULL: something does
 * not hold of which args[0] is the number among the region's messages. */
typedef struct {
  const char *format;
  int64_t args[4];
} SiriusError;

typedef struct {
  _Alignas(64) int32_t arrived;
  _Alignas(64) int32_t generation;
} SiriusBarrier;

/* How many tiles of a worker's share have been taken, by itself or by one that had done its own; for
 * phases in turns, since one's numbers are reset while the other is run. */
typedef struct {
  _Alignas(64) int64_t taken[2];
} SiriusQueue;

typedef struct SiriusCall SiriusCall;
struct SiriusCall {
  const SiriusTensor *in;
  void *const *out;
  int64_t *params;          /* as filled in by plan; run fills in what data decides */
  char *workspace;          /* 64-byte aligned */
  const char *weights;      /* the region's packed constants, 64-byte aligned */
  int32_t threads;          /* workers that call run; 1 needs no barrier. Behind a barrier it may be 1: then all but
                             * the first return */
  int32_t crowded;          /* 1 if one worker alone would be faster: see wait */
  SiriusBarrier *barrier;
  SiriusQueue *queues;      /* one for each worker, zero at first */
  int64_t began;            /* nanoseconds */
  void (*wait)(SiriusCall *call, int32_t *word, int32_t old); /* spin, later sleep, while *word == old */
  void (*wake)(int32_t *word);              /* after *word changed: wake sleepers, if there are any */
  int32_t failed;           /* 0; 1 once `error` is being written, by the first worker that fails */
  SiriusError error;
  int64_t expected;         /* nanoseconds that the call takes at least */
  int32_t stop;             /* 1 if the call shall end before its time: no worker begins a tile any more */
  int32_t stopped;          /* what `stop` was at the last barrier, alike for all workers: loops around phases end */
  /* By the first worker: whether to stop. It has begun so many tiles since the last look, 0 if they were others. Returns
   * how many it may begin before it looks again. */
  int32_t (*look)(SiriusCall *call, int32_t tiles);
};

/* Returns 0, or 1 with `error` filled in (TensorFlow's InvalidArgument): also if a size is negative, or does not fit into
 * 64 bits. `out_dims[i]` receives the shape of output i; `workspace_bytes` the size of the workspace, -1 if it does not fit,
 * and how many bytes of it, and of outputs whose shape is an upper bound, are used whatever data decides; `work` an estimate
 * of the multiplications of this call, from which the host decides how many workers it takes. */
typedef int32_t (*SiriusPlan)(const SiriusTensor *in, int32_t threads, int64_t *params,
                              int64_t (*out_dims)[SIRIUS_MAX_RANK], int64_t workspace_bytes[2], int64_t *work,
                              SiriusError *error);
typedef void (*SiriusRun)(SiriusCall *call, int32_t worker);
/* After a run: the shapes of all outputs, of which plan gave upper bounds where data decides. */
typedef void (*SiriusShapes)(const int64_t *params, int64_t (*out_dims)[SIRIUS_MAX_RANK]);

/* After plan for `blocks`: on how many of them each of a region's kernels is launched, and how many bytes each slot
 * of the workspace has, a multiple of 64. */
typedef void (*SiriusGeometry)(const int64_t *params, int32_t blocks, int32_t *grids, int64_t *bytes);

/* Machine code for GPUs of one architecture ("sm_90"), an ELF image. */
typedef struct {
  const char *arch;
  const char *code;
  int64_t bytes;
  int32_t blocks; /* the most of a launch: that run at once on the usual GPU of the architecture, and are of use */
} SiriusCubin;

/* What a GPU has shown of a region's CUDA code. tools/gpu_check.py writes it into the bundle's file. */
enum SiriusStamp {
  SIRIUS_STAMP_EMULATED = 0,  /* it has not run on one */
  SIRIUS_STAMP_CONFIRMED = 1, /* it is right, and faster than the CPU's code, copies included */
  SIRIUS_STAMP_OFF = 2,       /* it is not: the CPU's code is run */
};

/* A region as CUDA kernels of one-dimensional blocks, of which each begins when the one before has ended.
 * codegen/cuda/kernel.py says what they take. */
typedef struct {
  const char *name;
  const char *const *kernels;
  int32_t n_kernels;
  int32_t cooperative; /* 1 if blocks wait for each other, and therefore must run at once */
  const char *source; /* for other architectures; not NUL-terminated */
  int64_t source_bytes;
  SiriusPlan plan; /* for at most as many blocks as `threads` */
  SiriusShapes shapes;
  SiriusGeometry geometry;
  int32_t n_slots, threads_per_block, shared_bytes, n_cubins; /* shared_bytes is dynamic memory */
  const SiriusCubin *cubins;
  int64_t weights_offset, weights_bytes; /* of its own constants: they are packed otherwise */
  const int32_t *stamp; /* SiriusStamp */
} SiriusCuda;

typedef struct {
  const char *name;
  int32_t n_in, n_out, n_params;
  const int32_t *in_rank, *in_dtype, *out_rank, *out_dtype;
  SiriusPlan plan;
  SiriusRun run[SIRIUS_ISAS];
  SiriusShapes shapes;     /* NULL if plan knows them all */
  const int32_t *out_late; /* 1 for each output of which plan does not know the shape */
  int64_t weights_offset; /* of what `run` sees as call->weights, a multiple of 64 */
  const SiriusCuda *cuda; /* NULL if there is none */
  const char *const *messages; /* what a call fails with where something does not hold that must */
  const char *digest; /* SHA-256 of the graph that it computes, constants included, in hex; "" if it was made of none */
} SiriusRegionInfo;

typedef struct {
  int32_t abi_version;
  int32_t n_regions;
  const SiriusRegionInfo *regions;
  const char *manifest;     /* JSON, not NUL-terminated */
  int64_t manifest_bytes;
  const char *weights;
  int64_t weights_bytes;
  const char *variables_hash; /* FNV-1a-64 of the checkpoint's variables.index in hex; "" if there is none */
} SiriusBundle;

#endif
