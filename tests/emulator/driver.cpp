/* SPDX-License-Identifier: Apache-2.0
 *
 * A libcuda.so.1 for tests: the part of the driver API that sirius_tf/native/cuda_api.h declares, on the CPU.
 * A stream does its work as late as it may, when it is synchronized; while it is captured, it does none, and its
 * thread must not allocate, load or synchronize. Kernels are those of emulator.build_library.
 * Who misuses the API ends the process with a message (exit status 3).
 *
 * In the environment:
 *   EMU_DEVICES      how many devices there are (1); CUDA_VISIBLE_DEVICES="" hides them
 *   EMU_CAPABILITY   their compute capability (8.0)
 *   EMU_MEMORY       bytes of device memory that are free (1 GiB)
 *   EMU_GRAPHS       for how many executable graphs there is memory (1000)
 *   EMU_KERNELS      the folder with `<kernel>.so` for each kernel
 *   EMU_FAULT        a launch accesses an illegal address: its context is of no use any more
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

typedef unsigned long long Pointer;
enum Result { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
              INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, TOO_LARGE = 720 };
constexpr int kMultiprocessors = 2, kBlocks = 2; /* of each multiprocessor */
const int kShared = 166912; /* bytes of a block's shared memory (8.0) */

struct Argument { int64_t kind, size; }; /* kernels.h */
struct Function {
  std::string name;
  const Argument *parameters;
  void (*run)(const char *, void **, int64_t, int64_t, size_t, bool);
  int most_shared; /* bytes of dynamic memory of a launch */
};
typedef std::vector<std::function<void()>> Work;
struct Stream { Work work; Work *captured; };
struct Module { std::map<std::string, Function> functions; };

std::recursive_mutex mutex;
bool initialized, broken;
std::map<char *, size_t> device, host; /* what is allocated, by its first byte */
std::set<Stream *> streams;
std::set<Work *> graphs, executables;
int modules, context;
thread_local std::vector<void *> current;
thread_local int captures; /* that this thread has begun and not ended */

[[noreturn]] void fail(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("libcuda: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  _exit(3);
}

size_t number(const char *name, size_t otherwise) {
  const char *text = getenv(name);
  return text ? strtoull(text, nullptr, 10) : otherwise;
}
int devices() {
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  return visible && !*visible ? 0 : (int)number("EMU_DEVICES", 1);
}

size_t used() {
  size_t bytes = 0;
  for (auto &a : device) bytes += a.second;
  return bytes;
}

/* Whether an allocation holds `bytes` from p, or ends there if they are none. */
bool inside(const std::map<char *, size_t> &allocations, const void *p, size_t bytes) {
  auto next = allocations.upper_bound((char *)p);
  if (next == allocations.begin()) return false;
  --next;
  return (char *)p + bytes <= next->first + next->second;
}
void check_copy(const void *to_or_from, size_t bytes, const void *other, bool pinned) {
  if (!inside(device, to_or_from, bytes)) fail("a copy of %zu bytes leaves an allocation of the device", bytes);
  if (inside(device, other, 0)) fail("a copy takes a pointer of the device for one of the host");
  if (pinned && !inside(host, other, bytes)) fail("an asynchronous copy of memory that is not page-locked");
}

/* What every function that needs a context finds. */
Result ready() {
  if (!initialized) return NOT_INITIALIZED;
  if (current.empty() || !current.back()) return INVALID_CONTEXT;
  return broken ? ILLEGAL_ADDRESS : SUCCESS;
}
#define ENTER                                            \
  std::lock_guard<std::recursive_mutex> guard(mutex);    \
  if (const Result state = ready()) return state
/* ... that must not be called while a stream is captured. */
#define ENTER_ALONE \
  ENTER;            \
  if (captures) fail("%s is called while this thread captures a stream", __func__)

/* Work for a stream, or for the graph that it is captured to. */
void put(Stream *stream, std::function<void()> work) {
  if (!streams.count(stream)) fail("there is no such stream");
  (stream->captured ? *stream->captured : stream->work).push_back(work);
}

void run(const Function &function, const std::vector<std::vector<char>> &values, unsigned grid, unsigned block,
         unsigned shared, bool cooperative) {
  std::vector<void *> pointers;
  for (size_t i = 0; i < values.size(); i++) {
    pointers.push_back((void *)values[i].data());
    void *p;
    memcpy(&p, values[i].data(), sizeof p);
    if (function.parameters[i].kind == 'p' && !inside(device, p, 1))
      fail("argument %zu of %s is no pointer to memory of the device", i, function.name.c_str());
  }
  if (getenv("EMU_FAULT")) {
    broken = true;
    return;
  }
  function.run(function.name.c_str(), pointers.data(), grid, block, shared, cooperative);
}

void launch(const Function *function, unsigned grid, unsigned block, unsigned shared, Stream *stream, void **arguments,
            bool cooperative) {
  std::vector<std::vector<char>> values;
  for (int i = 0; function->parameters[i].kind; i++)
    values.emplace_back((char *)arguments[i], (char *)arguments[i] + function->parameters[i].size);
  const Function copy = *function;
  put(stream, [=] { run(copy, values, grid, block, shared, cooperative); });
}

void synchronize(Stream *stream) {
  if (!streams.count(stream)) fail("there is no such stream");
  if (stream->captured) fail("a stream is synchronized while it is captured");
  for (auto &work : stream->work) work();
  stream->work.clear();
}

}  // namespace

extern "C" {

/* What is allocated, modules, streams and graphs included: for tests that nothing is lost. */
int emu_live() {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  return (int)(device.size() + host.size() + streams.size() + graphs.size() + executables.size()) + modules;
}

/* Bytes of device memory that are allocated. */
int64_t emu_used() {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  return (int64_t)used();
}

int cuInit(unsigned) {
  if (!devices()) return NO_DEVICE;
  initialized = true;
  return SUCCESS;
}
int cuGetErrorString(int error, const char **text) {
  switch (error) {
    case INVALID_VALUE: *text = "invalid argument"; break;
    case OUT_OF_MEMORY: *text = "out of memory"; break;
    case NOT_INITIALIZED: *text = "initialization error"; break;
    case NO_DEVICE: *text = "no CUDA-capable device is detected"; break;
    case INVALID_IMAGE: *text = "device kernel image is invalid"; break;
    case INVALID_CONTEXT: *text = "invalid device context"; break;
    case NOT_FOUND: *text = "named symbol not found"; break;
    case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; break;
    case TOO_LARGE: *text = "too many blocks in cooperative launch"; break;
    default: return INVALID_VALUE;
  }
  return SUCCESS;
}
int cuDeviceGetCount(int *count) {
  *count = devices();
  return initialized ? SUCCESS : NOT_INITIALIZED;
}
int cuDeviceGet(int *result, int ordinal) {
  *result = ordinal;
  return ordinal < devices() ? SUCCESS : INVALID_VALUE;
}
int cuDeviceGetAttribute(int *value, int attribute, int) {
  const char *capability = getenv("EMU_CAPABILITY");
  int major = 8, minor = 0;
  if (capability) sscanf(capability, "%d.%d", &major, &minor);
  switch (attribute) {
    case 16: *value = kMultiprocessors; return SUCCESS;
    case 75: *value = major; return SUCCESS;
    case 76: *value = minor; return SUCCESS;
    case 95: *value = 1; return SUCCESS; /* cooperative launches */
    default: return INVALID_VALUE;
  }
}
int cuDevicePrimaryCtxRetain(void **result, int) {
  *result = &context;
  return SUCCESS;
}
int cuCtxPushCurrent_v2(void *pushed) {
  current.push_back(pushed);
  return SUCCESS;
}
int cuCtxPopCurrent_v2(void **popped) {
  if (current.empty()) return INVALID_CONTEXT;
  *popped = current.back();
  current.pop_back();
  return SUCCESS;
}
int cuCtxGetCurrent(void **result) {
  *result = current.empty() ? nullptr : current.back();
  return SUCCESS;
}

int cuModuleLoadData(Module **module, const void *image) {
  ENTER_ALONE;
  if (memcmp(image, "\x7f" "ELF", 4)) return INVALID_IMAGE;
  *module = new Module;
  modules++;
  return SUCCESS;
}
int cuModuleUnload(Module *module) {
  ENTER;
  delete module;
  modules--;
  return SUCCESS;
}
int cuModuleGetFunction(const Function **result, Module *module, const char *name) {
  ENTER;
  const std::string path = std::string(getenv("EMU_KERNELS")) + "/" + name + ".so";
  void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return NOT_FOUND;
  Function &f = module->functions[name];
  f.name = name;
  f.parameters = ((const Argument *(*)(const char *))dlsym(library, "emu_parameters"))(name);
  f.run = (decltype(f.run))dlsym(library, "emu_run");
  f.most_shared = 48 << 10;
  *result = &f;
  return f.parameters ? SUCCESS : NOT_FOUND;
}
int cuFuncSetAttribute(Function *function, int attribute, int value) {
  ENTER;
  if (attribute != 8 || value > kShared) return INVALID_VALUE; /* 8: MAX_DYNAMIC_SHARED_SIZE_BYTES */
  function->most_shared = value;
  return SUCCESS;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, Function *, int, size_t) {
  ENTER;
  *blocks = kBlocks;
  return SUCCESS;
}

int cuMemAlloc_v2(Pointer *result, size_t bytes) {
  ENTER_ALONE;
  if (!bytes) return INVALID_VALUE;
  if (used() + bytes > number("EMU_MEMORY", (size_t)1 << 30)) return OUT_OF_MEMORY;
  char *memory = (char *)aligned_alloc(256, (bytes + 255) / 256 * 256);
  memset(memory, 0xff, bytes); /* NaN until it is written */
  device[memory] = bytes;
  *result = (Pointer)memory;
  return SUCCESS;
}
int cuMemFree_v2(Pointer memory) {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  if (!device.erase((char *)memory)) fail("memory of the device is freed that is not allocated");
  free((char *)memory);
  return ready();
}
int cuMemAllocHost_v2(void **result, size_t bytes) {
  ENTER_ALONE;
  *result = malloc(bytes);
  host[(char *)*result] = bytes;
  return SUCCESS;
}
int cuMemFreeHost(void *memory) {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  if (!host.erase((char *)memory)) fail("page-locked memory is freed that is not allocated");
  free(memory);
  return ready();
}

int cuMemcpyHtoD_v2(Pointer to, const void *from, size_t bytes) {
  ENTER_ALONE;
  check_copy((void *)to, bytes, from, false);
  memcpy((void *)to, from, bytes);
  return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, Stream *stream) {
  ENTER;
  check_copy((void *)to, bytes, from, true);
  put(stream, [=] { memcpy((void *)to, from, bytes); });
  return SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, Stream *stream) {
  ENTER;
  check_copy((void *)from, bytes, to, true);
  put(stream, [=] { memcpy(to, (void *)from, bytes); });
  return SUCCESS;
}

int cuStreamCreate(Stream **stream, unsigned) {
  ENTER;
  *stream = new Stream();
  streams.insert(*stream);
  return SUCCESS;
}
int cuStreamSynchronize(Stream *stream) {
  ENTER;
  synchronize(stream);
  return ready();
}
int cuStreamDestroy_v2(Stream *stream) {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  synchronize(stream);
  streams.erase(stream);
  delete stream;
  return ready();
}
int cuLaunchCooperativeKernel(const Function *function, unsigned grid, unsigned, unsigned, unsigned block, unsigned,
                              unsigned, unsigned shared, Stream *stream, void **arguments) {
  ENTER;
  if (grid > kMultiprocessors * kBlocks) return TOO_LARGE;
  if (shared > (unsigned)function->most_shared) return INVALID_VALUE;
  launch(function, grid, block, shared, stream, arguments, true);
  return SUCCESS;
}
int cuLaunchKernel(const Function *function, unsigned grid, unsigned, unsigned, unsigned block, unsigned, unsigned,
                   unsigned shared, Stream *stream, void **arguments, void **) {
  ENTER;
  if (shared > (unsigned)function->most_shared) return INVALID_VALUE;
  launch(function, grid, block, shared, stream, arguments, false);
  return SUCCESS;
}

int cuStreamBeginCapture_v2(Stream *stream, int mode) {
  ENTER;
  if (mode != 1) fail("a capture whose thread alone is restricted has mode 1, not %d", mode);
  if (stream->captured) fail("a stream is captured that is captured already");
  stream->captured = new Work;
  captures++;
  return SUCCESS;
}
int cuStreamEndCapture(Stream *stream, Work **graph) {
  ENTER;
  if (!stream->captured || !captures) fail("the capture of a stream ends that this thread has not begun");
  graphs.insert(*graph = stream->captured);
  stream->captured = nullptr;
  captures--;
  return SUCCESS;
}
int cuGraphInstantiateWithFlags(Work **executable, Work *graph, unsigned long long) {
  ENTER;
  if (!graphs.count(graph)) fail("there is no such graph");
  if (executables.size() >= number("EMU_GRAPHS", 1000)) return OUT_OF_MEMORY;
  executables.insert(*executable = new Work(*graph));
  return SUCCESS;
}
int cuGraphDestroy(Work *graph) {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  if (!graphs.erase(graph)) fail("a graph is destroyed that does not exist");
  delete graph;
  return ready();
}
int cuGraphLaunch(Work *executable, Stream *stream) {
  ENTER;
  if (!executables.count(executable)) fail("there is no such executable graph");
  for (auto &work : *executable) put(stream, work);
  return SUCCESS;
}
int cuGraphExecDestroy(Work *executable) {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  if (!executables.erase(executable)) fail("an executable graph is destroyed that does not exist");
  delete executable;
  return ready();
}

}  // extern "C"
