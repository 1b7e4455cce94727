// Modules, functions and launches. A module is what the mock's NVRTC wrote: the name of a source file and the
// hash of its text. Its kernels are those that the build compiled from that file, run on the emulator.
#include "launch.hpp"

#include <atomic>
#include <cstring>

#include "blob.hpp"
#include "driver.hpp"
#include "registry.hpp"

namespace mock {

u64& schedule() {
  // Of threads that set none; numbers as emu::Schedule has them.
  static const char* text = getenv("CUDA_MOCK_SCHEDULE");
  static thread_local u64 chosen = text ? strtoull(text, nullptr, 10) : u64(emu::lockstep);
  return chosen;
}

namespace {

struct Module {
  const emu::SourceFile* file;
};

struct Function {
  const emu::Kernel* kernel;
  int dynamic_max = 48 * 1024;
};

struct Arguments {
  std::vector<std::vector<char>> values;
  std::vector<void*> pointers;
};

std::shared_ptr<Arguments> copy_arguments(const emu::Kernel& kernel, void** from) {
  auto copied = std::make_shared<Arguments>();
  for (size_t i = 0; i < kernel.argument_bytes.size(); ++i) {
    const char* p = static_cast<const char*>(from[i]);
    copied->values.emplace_back(p, p + kernel.argument_bytes[i]);
  }
  for (auto& value : copied->values) copied->pointers.push_back(value.data());
  return copied;
}

// An argument that points into another device's memory: without peer access a GPU fails on it.
bool points_elsewhere(const Arguments& arguments, const Device& device) {
  for (auto& value : arguments.values) {
    if (value.size() != sizeof(void*)) continue;
    void* p;
    memcpy(&p, value.data(), sizeof p);
    const Allocation* found = allocation_of(p, 0);
    if (found && found->device && found->device != &device) return true;
  }
  return false;
}

struct Call {
  const emu::Kernel* kernel;
  Arguments* arguments;
};

void run_kernel(Device& device, const emu::Kernel& kernel, dim3 grid, dim3 block, size_t dynamic_bytes,
                u64 schedule, Arguments& arguments) {
  if (points_elsewhere(arguments, device))
    return fail(device, illegal_address, kernel.name + ": an argument points to another device's memory");
  Call call{&kernel, &arguments};
  auto body = [](void* data) {
    const Call& c = *static_cast<Call*>(data);
    c.kernel->call(c.kernel->entry, c.arguments->pointers.data());
  };
  emu::Options options;
  options.schedule = schedule;
  try {
    emu::run({kernel.name.c_str(), grid, block, dynamic_bytes, body, &call}, options);
  } catch (const emu::Error& error) {
    return fail(device, launch_failed, error.what());
  }
  if (const size_t bytes = overrun(device))
    fail(device, illegal_address, kernel.name + ": wrote behind an allocation of " + std::to_string(bytes) + " bytes");
}

// The bug that the caller asked for with cuda_mock_fail_next, or with the environment for the process's launch of a number,
// counted from 1: in front of the launch or instead of it.
Work faulty(Work launch) {
  static const char* text = getenv("CUDA_MOCK_ILLEGAL_ADDRESS_AT");
  static const u64 at = text ? strtoull(text, nullptr, 10) : 0;
  static std::atomic<u64> launches{0};
  if (++launches == at) armed_fault() = fault_illegal_address;
  switch (armed_fault()) {
    case fault_illegal_address:
      launch.run = [](Device& device) { fail(device, illegal_address, "illegal address, as asked for"); };
      break;
    case fault_hang:
      launch.hang = ++current()->hangs;
      break;
    default:
      return launch;
  }
  armed_fault() = no_fault;
  return launch;
}

bool exceeds(dim3 shape, unsigned x, unsigned y, unsigned z) {
  return !shape.x || !shape.y || !shape.z || shape.x > x || shape.y > y || shape.z > z;
}

int launch(const Function& function, dim3 grid, dim3 block, size_t dynamic_bytes, void* stream, void** arguments) {
  const emu::Kernel& kernel = *function.kernel;
  const char* name = kernel.name.c_str();
  const u64 threads = u64(block.x) * block.y * block.z;
  if (exceeds(grid, 2147483647, 65535, 65535) || exceeds(block, 1024, 1024, 64) || threads > 1024)
    return complain(invalid_value, "%s: grid (%u, %u, %u), block (%u, %u, %u) is impossible", name, grid.x, grid.y,
                    grid.z, block.x, block.y, block.z);
  if (threads > kernel.threads_max)
    return complain(launch_out_of_resources, "%s: %llu threads, __launch_bounds__ allows %u", name, threads,
                    kernel.threads_max);
  if (dynamic_bytes > size_t(function.dynamic_max))
    return complain(invalid_value, "%s: %zu bytes of dynamic shared memory, cuFuncSetAttribute allowed %d", name,
                    dynamic_bytes, function.dynamic_max);
  if (!kernel.argument_bytes.empty() && !arguments) return complain(invalid_value, "%s: no arguments", name);
  auto copied = copy_arguments(kernel, arguments);
  Work work;
  work.run = [&kernel, grid, block, dynamic_bytes, copied, order = schedule()](Device& device) {
    run_kernel(device, kernel, grid, block, dynamic_bytes, order, *copied);
  };
  return submit(stream_of(stream), faulty(std::move(work)));
}

int load(void** module, const void* image) {
  Blob blob;
  if (!parse(static_cast<const char*>(image), blob))
    return complain(invalid_image, "not a module of the mock's NVRTC: it takes no other");
  if (!blob.runs_on_sm_90()) return no_binary_for_gpu;
  const auto found = emu::registry().find(blob.file);
  if (found == emu::registry().end())
    return complain(invalid_image, "%s was not there when cuda-mock was built", blob.file.c_str());
  if (found->second.hash != blob.hash)
    return complain(invalid_image, "%s has another text than when cuda-mock was built", blob.file.c_str());
  *module = new Module{&found->second};
  return ok;
}

// Blocks that fit one multiprocessor by threads and shared memory; registers are not known here.
int blocks_per_multiprocessor(const Function&, int threads, size_t dynamic_bytes) {
  if (threads < 1 || threads > 1024) return 0;
  const size_t shared = dynamic_bytes + 1024;
  return int(std::min<size_t>({32, size_t(2048 / ((threads + 31) / 32 * 32)), 233472 / shared}));
}

}  // namespace
}  // namespace mock

using namespace mock;

API cuModuleLoadData(void** module, const void* image) {
  ENTER;
  return load(module, image);
}
API cuModuleLoadDataEx(void** module, const void* image, unsigned, void*, void*) {
  return cuModuleLoadData(module, image);
}

API cuModuleUnload(void* module) {
  Lock lock(state().mutex);
  delete static_cast<Module*>(module);
  return ok;
}

// Functions live as long as the process: launches in streams refer to them.
API cuModuleGetFunction(void** function, void* module, const char* name) {
  ENTER;
  const auto& kernels = static_cast<Module*>(module)->file->kernels;
  const auto found = kernels.find(name);
  if (found == kernels.end()) return not_found;
  *function = new Function{&found->second};
  return ok;
}

// By the numbers of CUfunction_attribute: 8 is the largest dynamic shared memory of a launch.
API cuFuncSetAttribute(void* function, int attribute, int value) {
  ENTER;
  if (attribute != 8) return ok;
  if (value < 0 || value > 232448) return complain(invalid_value, "%d bytes of dynamic shared memory", value);
  static_cast<Function*>(function)->dynamic_max = value;
  return ok;
}

// 0 is the most threads of a block, 4 registers, 6 the binary's version.
API cuFuncGetAttribute(int* value, int attribute, void* handle) {
  ENTER;
  const auto& function = *static_cast<Function*>(handle);
  switch (attribute) {
    case 0: *value = int(function.kernel->threads_max); break;
    case 4: *value = 32; break;
    case 6: *value = 90; break;
    case 8: *value = function.dynamic_max; break;
    default: *value = 0;
  }
  return ok;
}
API cuFuncSetCacheConfig(void*, int) { return ok; }

API cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned dynamic_bytes, void* stream, void** arguments,
                   void** extra) {
  ENTER;
  if (extra) return not_supported;
  const dim3 grid(grid_x, grid_y, grid_z), block(block_x, block_y, block_z);
  return launch(*static_cast<Function*>(function), grid, block, dynamic_bytes, stream, arguments);
}

// CUlaunchConfig; attributes (clusters, priorities) are not modelled.
struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, dynamic_bytes;
  void* stream;
  void* attributes;
  unsigned attribute_count;
};
API cuLaunchKernelEx(const LaunchConfig* c, void* function, void** arguments, void** extra) {
  ENTER;
  if (extra || c->attribute_count) return not_supported;
  const dim3 grid(c->grid_x, c->grid_y, c->grid_z), block(c->block_x, c->block_y, c->block_z);
  return launch(*static_cast<Function*>(function), grid, block, c->dynamic_bytes, c->stream, arguments);
}

API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* function, int threads,
                                                         size_t dynamic_bytes, unsigned) {
  *blocks = blocks_per_multiprocessor(*static_cast<Function*>(function), threads, dynamic_bytes);
  return ok;
}
// The largest block that the kernel allows; `shared_of` says how much dynamic shared memory one of a size takes.
API cuOccupancyMaxPotentialBlockSize(int* grid, int* block, void* handle, size_t (*shared_of)(int),
                                     size_t dynamic_bytes, int limit) {
  const auto& function = *static_cast<Function*>(handle);
  const int allowed = int(function.kernel->threads_max);
  *block = limit > 0 ? std::min(limit, allowed) : allowed;
  const size_t shared = shared_of ? shared_of(*block) : dynamic_bytes;
  *grid = 132 * blocks_per_multiprocessor(function, *block, shared);
  return ok;
}
API cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, void* handle, size_t (*shared_of)(int),
                                              size_t dynamic_bytes, int limit, unsigned) {
  return cuOccupancyMaxPotentialBlockSize(grid, block, handle, shared_of, dynamic_bytes, limit);
}
API cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, void*, int blocks, int) {
  if (blocks < 1) return invalid_value;
  *bytes = std::min<size_t>(233472 / size_t(blocks) - 1024, 232448);
  return ok;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* function, int threads, size_t dynamic_bytes) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, dynamic_bytes, 0);
}
