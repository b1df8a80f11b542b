/* SPDX-License-Identifier: Apache-2.0
 *
 * Loops that the machine bounds and nothing else, for probe.py, which puts the prelude of generated code before them:
 * its barrier, its claims of tiles, its loads of lanes that lie apart.
 */
#define EXPORT __attribute__((visibility("default")))
#define UNROLL _Pragma("clang loop unroll(full)")
#define AT_ONCE 8 /* loads, or stores, of an iteration */
#define LINE 64   /* bytes of a line of the caches */
#define NO_LOOKS (1 << 30)

/* Additions of which each needs the one before: a cycle each. */
EXPORT uint64_t sirius_probe_add(int64_t steps) {
  uint64_t sum = 0, one = (uint64_t)steps;
  for (int64_t i = 0; i < steps; ++i) {
    UNROLL for (int k = 0; k < 32; ++k) __asm__ volatile("add %1, %0" : "+r"(sum) : "r"(one));
  }
  return sum;
}

/* Multiply-adds of vectors of LANES into CHAINS sums that do not need each other. */
#define MULTIPLY(LANES, CHAINS)                                                                    \
  EXPORT void sirius_probe_multiply_##LANES##_##CHAINS(int64_t steps, float *out) {                \
    typedef float vector __attribute__((vector_size(4 * LANES), aligned(4)));                      \
    vector sums[CHAINS] = {0}, a = (vector){0} + out[0], b = (vector){0} + out[1];                 \
    for (int64_t i = 0; i < steps; ++i) {                                                          \
      UNROLL for (int k = 0; k < CHAINS; ++k) {                                                    \
        sums[k] = __builtin_elementwise_fma(a, b, sums[k]);                                        \
        __asm__ volatile("" : "+v"(sums[k]));                                                      \
      }                                                                                            \
    }                                                                                              \
    for (int k = 0; k < CHAINS; ++k) *(vector *)(out + k * LANES) = sums[k];                       \
  }
#define MULTIPLY_ALL(LANES)                                                                        \
  MULTIPLY(LANES, 1)                                                                               \
  MULTIPLY(LANES, 2)                                                                               \
  MULTIPLY(LANES, 3)                                                                               \
  MULTIPLY(LANES, 4)                                                                               \
  MULTIPLY(LANES, 5)                                                                               \
  MULTIPLY(LANES, 6)                                                                               \
  MULTIPLY(LANES, 8)                                                                               \
  MULTIPLY(LANES, 10)                                                                              \
  MULTIPLY(LANES, 12)
MULTIPLY_ALL(4)
MULTIPLY_ALL(8)
#if SIRIUS_LANES > 8
MULTIPLY_ALL(16)
#endif

typedef sr_f32 loose __attribute__((aligned(4)));

/* Loads of n floats, several times, in parts that are read side by side: each begins a line beyond the end of the one
 * before, lest all are in the same set of a cache. `x` has AT_ONCE lines more. */
#define LOAD(STREAMS)                                                                              \
  EXPORT void sirius_probe_load_##STREAMS(const float *x, float *to, int64_t n, int64_t times) {   \
    const int64_t part = n / STREAMS, step = AT_ONCE / STREAMS * SIRIUS_LANES;                     \
    (void)to;                                                                                      \
    for (int64_t t = 0; t < times; ++t)                                                            \
      for (int64_t i = 0; i + step <= part; i += step) {                                           \
        UNROLL for (int k = 0; k < AT_ONCE; ++k) {                                                 \
          const int64_t at = k % STREAMS * (part + LINE / 4) + i + k / STREAMS * SIRIUS_LANES;     \
          __asm__ volatile("" : : "v"(*(const loose *)(x + at)));                                  \
        }                                                                                          \
      }                                                                                            \
  }
LOAD(1)
LOAD(2)
LOAD(4)
LOAD(8)

/* The same n floats, by vectors whose lanes lie n / SIRIUS_LANES apart. */
EXPORT void sirius_probe_load_apart(const float *x, float *to, int64_t n, int64_t times) {
  const int64_t part = n / SIRIUS_LANES;
  (void)to;
  for (int64_t t = 0; t < times; ++t)
    for (int64_t i = 0; i < part; ++i)
      __asm__ volatile("" : : "v"(sr_strided_f32(x + i, part + LINE / 4, SIRIUS_LANES)));
}

/* Copies n floats, several times. */
EXPORT void sirius_probe_copy(const float *x, float *to, int64_t n, int64_t times) {
  for (int64_t t = 0; t < times; ++t)
    for (int64_t i = 0; i + AT_ONCE * SIRIUS_LANES <= n; i += AT_ONCE * SIRIUS_LANES) {
      UNROLL for (int k = 0; k < AT_ONCE; ++k)
        *(loose *)(to + i + k * SIRIUS_LANES) = *(const loose *)(x + i + k * SIRIUS_LANES);
      __asm__ volatile("" : : : "memory");
    }
}

/* Loads of addresses, of which each is where the next one lies. */
EXPORT void *sirius_probe_follow(void **at, int64_t steps) {
  for (int64_t i = 0; i < steps; ++i) at = *(void *volatile *)at;
  return at;
}

/* Phases with so many tiles for each worker, of which each goes over data of its own by a loop, if there is one. */
typedef struct {
  int64_t phases, tiles;
  void (*loop)(const float *x, float *to, int64_t n, int64_t times);
  const float *x;
  float *to;
  int64_t n, times;
} Work;

typedef struct {
  SiriusCall call;
  Work work;
} Job;

static void run_tile(const Work *work, int64_t tile) {
  const int64_t first = tile * (work->n + AT_ONCE * LINE / 4);
  if (work->loop) work->loop(work->x + first, work->to + first, work->n, work->times);
}

/* As generated code runs long phases: a worker's own share of the tiles, then what is left of the others'. */
static void run_phases(void *argument, int32_t worker) {
  Job *job = argument;
  SiriusCall *call = &job->call;
  SiriusRest rest = {0, -1};
  int32_t turn = 0;
  for (int64_t phase = 0; phase < job->work.phases; ++phase) {
    turn = sirius_next_turn(call, worker, turn);
    for (int32_t k = 0; k < call->threads; ++k) {
      const int32_t whose = (worker + k) % call->threads;
      for (int64_t tile; (tile = sirius_take(call, whose, turn)) < job->work.tiles && !sirius_stops(call, worker, &rest);)
        run_tile(&job->work, whose * job->work.tiles + tile);
    }
    sirius_barrier(call);
  }
}

static int32_t look(SiriusCall *call, int32_t tiles) {
  (void)call, (void)tiles;
  return NO_LOOKS;
}

/* Functions of native/team.h. */
typedef struct {
  void (*run)(int32_t threads, void (*job)(void *, int32_t), void *argument);
  void (*wait)(SiriusCall *, int32_t *, int32_t);
  void (*wake)(int32_t *);
} Team;

/* A call of so many workers. */
EXPORT void sirius_probe_together(const Team *team, int32_t threads, const Work *work) {
  SiriusBarrier barrier = {0};
  SiriusQueue queues[threads];
  for (int32_t i = 0; i < threads; ++i) queues[i] = (SiriusQueue){{0}};
  Job job = {{.threads = threads,
              .barrier = &barrier,
              .queues = queues,
              .wait = team->wait,
              .wake = team->wake,
              .look = look},
             *work};
  team->run(threads, run_phases, &job);
}
