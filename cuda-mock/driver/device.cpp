// Devices and primary contexts: an emulated sm_90 with the figures of an H100, as far as a host asks for them.
#include <cstdarg>
#include <cstring>

#include "driver.hpp"

namespace mock {

namespace {
// A figure from the environment, for processes that no test steers from inside.
size_t setting(const char* name, size_t otherwise) {
  const char* text = getenv(name);
  return text ? strtoull(text, nullptr, 10) : otherwise;
}
}  // namespace

// Never destroyed: threads may be in a call when the process ends.
State& state() {
  static State* all = [] {
    auto* made = new State;
    made->device_count = int(setting("CUDA_MOCK_DEVICES", 1));
    return made;
  }();
  return *all;
}

Device*& current() {
  static thread_local Device* context = nullptr;
  return context;
}

int& armed_fault() {
  static thread_local int fault = no_fault;
  return fault;
}

Device& device(int ordinal) {
  auto [entry, is_new] = state().devices.try_emplace(ordinal);
  Device& d = entry->second;
  if (is_new) {
    d.ordinal = ordinal;
    d.total = setting("CUDA_MOCK_MEMORY", size_t(8) << 30);
    d.null_stream = std::make_shared<Stream>();
    d.null_stream->device = &d;
    state().streams[d.null_stream.get()] = d.null_stream;
  }
  return d;
}

int complain(Code code, const char* format, ...) {
  va_list list;
  va_start(list, format);
  fputs("cuda-mock: ", stderr);
  vfprintf(stderr, format, list);
  fputc('\n', stderr);
  va_end(list);
  return code;
}

void fail(Device& device, Code code, const std::string& message) {
  if (device.error) return;
  device.error = code;
  device.message = message;
  complain(code, "device %d: %s", device.ordinal, message.c_str());
}

}  // namespace mock

using namespace mock;

API cuInit(unsigned) { return ok; }

API cuDriverGetVersion(int* version) {
  *version = 13000;
  return ok;
}

API cuDeviceGetCount(int* count) {
  Lock lock(state().mutex);
  *count = state().device_count;
  return ok;
}

API cuDeviceGet(int* out, int ordinal) {
  Lock lock(state().mutex);
  if (ordinal < 0 || ordinal >= state().device_count) return invalid_device;
  device(ordinal);
  *out = ordinal;
  return ok;
}

API cuDeviceGetName(char* name, int bytes, int) {
  snprintf(name, size_t(bytes), "emulated GPU");
  return ok;
}

API cuDeviceGetUuid_v2(char* uuid, int ordinal) {
  memcpy(uuid, "emulated GPU \0\0\0", 16);
  uuid[15] = char(ordinal);
  return ok;
}
API cuDeviceGetUuid(char* uuid, int ordinal) { return cuDeviceGetUuid_v2(uuid, ordinal); }

API cuDeviceTotalMem_v2(size_t* bytes, int ordinal) {
  Lock lock(state().mutex);
  *bytes = device(ordinal).total;
  return ok;
}

// By the numbers of CUdevice_attribute; what is not listed is 0.
API cuDeviceGetAttribute(int* value, int attribute, int ordinal) {
  static const auto& figures = *new std::map<int, int>{
      {1, 1024},     // threads per block
      {2, 1024},     {3, 1024},  {4, 64},             // block
      {5, 2147483647}, {6, 65535}, {7, 65535},        // grid
      {8, 49152},    // shared memory per block
      {10, 32},      // warp
      {12, 65536},   // registers per block
      {13, 1980000}, // clock, kHz
      {16, 132},     // multiprocessors
      {31, 1},       // concurrent kernels
      {34, 0},       {36, 2619000}, {37, 5120},       // memory clock in kHz, bus width in bits
      {38, 52428800},                                 // L2 cache
      {39, 2048},    // threads per multiprocessor
      {40, 3},       // copy engines
      {41, 1},       // one address space
      {75, 9},       {76, 0},                         // compute capability
      {78, 1},       // stream priorities
      {81, 233472},  {82, 65536},                     // shared memory and registers per multiprocessor
      {95, 0},       // cooperative launch
      {97, 232448},  // shared memory per block, opt-in
      {106, 32},     // blocks per multiprocessor
      {111, 1024},   // shared memory per block that is the system's
      {115, 1},      // memory pools
  };
  if (attribute == 33) {  // PCI bus
    *value = ordinal + 1;
    return ok;
  }
  const auto found = figures.find(attribute);
  *value = found == figures.end() ? 0 : found->second;
  return ok;
}

API cuDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return ok;
}

API cuDevicePrimaryCtxRetain(void** context, int ordinal) {
  Lock lock(state().mutex);
  if (ordinal < 0 || ordinal >= state().device_count) return invalid_device;
  Device& d = device(ordinal);
  ++d.retained;
  *context = &d;
  return ok;
}

// The last one to leave takes all memory along. An error stays: only another process is rid of it.
API cuDevicePrimaryCtxRelease_v2(int ordinal) {
  Lock lock(state().mutex);
  Device& d = device(ordinal);
  if (!d.retained) return invalid_context;
  if (--d.retained) return ok;
  for (auto& [handle, stream] : state().streams)
    if (stream->device == &d) drain(*stream, stream->issued);
  release_all(d);
  return ok;
}

API cuCtxSetCurrent(void* context) {
  current() = static_cast<Device*>(context);
  return ok;
}

API cuCtxGetCurrent(void** context) {
  *context = current();
  return ok;
}

API cuCtxGetDevice(int* ordinal) {
  if (!current()) return invalid_context;
  *ordinal = current()->ordinal;
  return ok;
}

API cuCtxSetFlags(unsigned) { return ok; }
API cuCtxGetLimit(size_t* value, int) {
  *value = 1024;
  return ok;
}
API cuCtxSetLimit(int, size_t) { return ok; }
API cuCtxSetCacheConfig(int) { return ok; }
API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0, *greatest = -5;
  return ok;
}

API cuCtxSynchronize() {
  ENTER;
  return wait_for_device(lock, device);
}

API cuMemGetInfo_v2(size_t* available, size_t* total) {
  ENTER;
  *available = device.total - device.used;
  *total = device.total;
  return ok;
}

API cuProfilerStart() { return ok; }
API cuProfilerStop() { return ok; }

namespace {
struct Text {
  const char *name, *description;
};
const std::map<int, Text>& texts() {
  static const auto& all = *new std::map<int, Text>{
      {ok, {"CUDA_SUCCESS", "no error"}},
      {invalid_value, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
      {out_of_memory, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
      {invalid_device, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
      {invalid_image, {"CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"}},
      {invalid_context, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
      {no_binary_for_gpu,
       {"CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"}},
      {invalid_handle, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
      {not_found, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
      {not_ready, {"CUDA_ERROR_NOT_READY", "device not ready"}},
      {illegal_address, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
      {launch_out_of_resources,
       {"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"}},
      {launch_failed, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
      {not_supported, {"CUDA_ERROR_NOT_SUPPORTED", "operation not supported"}},
      {capture_unsupported,
       {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
      {capture_invalidated,
       {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
      {capture_isolation,
       {"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"}},
  };
  return all;
}
}  // namespace

API cuGetErrorName(int error, const char** text) {
  const auto found = texts().find(error);
  *text = found == texts().end() ? nullptr : found->second.name;
  return *text ? ok : invalid_value;
}

API cuGetErrorString(int error, const char** text) {
  const auto found = texts().find(error);
  *text = found == texts().end() ? nullptr : found->second.description;
  return *text ? ok : invalid_value;
}
