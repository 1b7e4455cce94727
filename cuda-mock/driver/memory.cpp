// Device memory is host memory that holds NaN (0xFF) when it is allocated, and behind its end, too: what writes
// there is found after the kernel. Copies and fills are checked against the bounds of allocations.
#include <algorithm>
#include <cstring>

#include "driver.hpp"

namespace mock {

namespace {
constexpr unsigned char poison = 0xFF;
// AddressSanitizer watches the bytes behind an allocation itself.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t fence_bytes = 0;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
constexpr size_t fence_bytes = 0;
#else
constexpr size_t fence_bytes = 128;
#endif
#else
constexpr size_t fence_bytes = 128;
#endif
}  // namespace

void* allocate(Device* device, size_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, 256, bytes + fence_bytes)) return nullptr;
  memset(p, poison, bytes + fence_bytes);
  state().memory[reinterpret_cast<uintptr_t>(p)] = {bytes, device};
  if (device) device->used += bytes;
  return p;
}

bool release(void* p, Device* device) {
  const auto found = state().memory.find(reinterpret_cast<uintptr_t>(p));
  if (found == state().memory.end() || found->second.device != device) return false;
  if (device) device->used -= found->second.bytes;
  state().memory.erase(found);
  free(p);
  return true;
}

void release_all(Device& device) {
  for (auto entry = state().memory.begin(); entry != state().memory.end();) {
    const auto here = entry++;
    if (here->second.device == &device) release(reinterpret_cast<void*>(here->first), &device);
  }
}

const Allocation* allocation_of(const void* p, size_t bytes) {
  const auto start = reinterpret_cast<uintptr_t>(p);
  auto after = state().memory.upper_bound(start);
  if (after == state().memory.begin()) return nullptr;
  --after;
  const bool inside = start - after->first <= after->second.bytes &&
                      bytes <= after->second.bytes - (start - after->first);
  return inside ? &after->second : nullptr;
}

size_t overrun(const Device& device) {
  for (auto& [start, allocation] : state().memory) {
    if (allocation.device != &device) continue;
    const auto* fence = reinterpret_cast<const unsigned char*>(start + allocation.bytes);
    for (size_t i = 0; i < fence_bytes; ++i)
      if (fence[i] != poison) return allocation.bytes;
  }
  return 0;
}

namespace {
// Within an allocation of this device. cuMemcpyDtoD takes those of others, too: one address space.
bool on_device(const void* p, size_t bytes, const Device* device) {
  const Allocation* found = allocation_of(p, bytes);
  return found && found->device && (!device || found->device == device);
}

bool is_pinned(const void* p, size_t bytes) {
  const Allocation* found = allocation_of(p, bytes);
  return found && !found->device;
}

bool take_fault(int fault) {
  if (armed_fault() != fault) return false;
  armed_fault() = no_fault;
  return true;
}

int allocate_on(Device& device, void** p, size_t bytes) {
  if (!bytes) return invalid_value;
  if (take_fault(fault_out_of_memory)) return out_of_memory;
  if (bytes > device.total - device.used)  // frees may be waiting in streams
    for (auto& [handle, stream] : state().streams)
      if (stream->device == &device) drain(*stream, stream->issued);
  if (device.error) return device.error;
  if (bytes > device.total - device.used) return out_of_memory;
  *p = allocate(&device, bytes);
  return *p ? ok : out_of_memory;
}

Work copy(void* to, const void* from, size_t bytes) {
  Work work;
  work.run = [=](Device&) { memmove(to, from, bytes); };
  return work;
}

// From pinned memory the bytes are read when the stream gets there; other memory may be changed or freed as soon
// as the call returns, so its bytes are taken now.
int upload(Device& device, void* to, const void* from, size_t bytes, const std::shared_ptr<Stream>& stream) {
  if (!stream) return invalid_handle;
  if (!on_device(to, bytes, &device)) return complain(invalid_value, "copy to the device outside an allocation");
  if (is_pinned(from, bytes)) return submit(stream, copy(to, from, bytes));
  if (stream->capture) return stream->capture->valid = false, capture_unsupported;
  const char* begin = static_cast<const char*>(from);
  auto staged = std::make_shared<std::vector<char>>(begin, begin + bytes);
  Work work;
  work.run = [=](Device&) { memcpy(to, staged->data(), bytes); };
  return submit(stream, std::move(work));
}

// Into memory that is not pinned the call returns when the bytes are there.
int download(Lock& lock, Device& device, void* to, const void* from, size_t bytes,
             const std::shared_ptr<Stream>& stream) {
  if (!stream) return invalid_handle;
  if (!on_device(from, bytes, &device))
    return complain(invalid_value, "copy from the device outside an allocation");
  const bool pinned = is_pinned(to, bytes);
  if (!pinned && stream->capture) return stream->capture->valid = false, capture_unsupported;
  const int result = submit(stream, copy(to, from, bytes));
  return result || pinned ? result : wait_for(lock, *stream, stream->issued);
}

int move(void* to, const void* from, size_t bytes, const std::shared_ptr<Stream>& stream) {
  if (!on_device(to, bytes, nullptr) || !on_device(from, bytes, nullptr))
    return complain(invalid_value, "copy between devices outside an allocation");
  return submit(stream, copy(to, from, bytes));
}

template <class T>
int fill(Device& device, void* to, T value, size_t count, const std::shared_ptr<Stream>& stream) {
  if (!on_device(to, count * sizeof(T), &device)) return complain(invalid_value, "fill outside an allocation");
  Work work;
  work.run = [=](Device&) { std::fill_n(static_cast<T*>(to), count, value); };
  return submit(stream, std::move(work));
}

}  // namespace
}  // namespace mock

using namespace mock;

API cuMemAlloc_v2(void** p, size_t bytes) {
  ENTER;
  return allocate_on(device, p, bytes);
}

API cuMemAllocAsync(void** p, size_t bytes, void* handle) {
  ENTER;
  const auto stream = stream_of(handle);
  if (!stream) return invalid_handle;
  if (stream->capture) return stream->capture->valid = false, capture_unsupported;
  return allocate_on(device, p, bytes);
}

API cuMemFree_v2(void* p) {
  ENTER;
  if (!p) return ok;
  if (const int error = wait_for_device(lock, device)) return error;
  return release(p, &device) ? int(ok) : complain(invalid_value, "free of what is no allocation");
}

API cuMemFreeAsync(void* p, void* handle) {
  ENTER;
  const auto found = state().memory.find(reinterpret_cast<uintptr_t>(p));
  if (found == state().memory.end() || found->second.device != &device)
    return complain(invalid_value, "free of what is no allocation");
  Work work;
  work.run = [p](Device& owner) {
    if (!release(p, &owner)) complain(invalid_value, "free of what is no allocation");
  };
  return submit(stream_of(handle), std::move(work));
}

API cuMemHostAlloc(void** p, size_t bytes, unsigned) {
  ENTER;
  *p = allocate(nullptr, bytes);
  return *p ? ok : out_of_memory;
}

API cuMemFreeHost(void* p) {
  Lock lock(state().mutex);
  return release(p, nullptr) ? int(ok) : complain(invalid_value, "free of what is no pinned memory");
}

API cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t bytes, void* stream) {
  ENTER;
  return upload(device, to, from, bytes, stream_of(stream));
}
API cuMemcpyHtoD_v2(void* to, const void* from, size_t bytes) {
  ENTER;
  const auto stream = device.null_stream;
  if (const int error = upload(device, to, from, bytes, stream)) return error;
  return wait_for(lock, *stream, stream->issued);
}

API cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t bytes, void* stream) {
  ENTER;
  return download(lock, device, to, from, bytes, stream_of(stream));
}
API cuMemcpyDtoH_v2(void* to, const void* from, size_t bytes) {
  ENTER;
  const auto stream = device.null_stream;
  if (const int error = download(lock, device, to, from, bytes, stream)) return error;
  return wait_for(lock, *stream, stream->issued);
}

API cuMemcpyDtoDAsync_v2(void* to, const void* from, size_t bytes, void* stream) {
  ENTER;
  return move(to, from, bytes, stream_of(stream));
}
API cuMemcpyDtoD_v2(void* to, const void* from, size_t bytes) {
  ENTER;
  return move(to, from, bytes, device.null_stream);
}
API cuMemcpyPeerAsync(void* to, void*, const void* from, void*, size_t bytes, void* stream) {
  ENTER;
  return move(to, from, bytes, stream_of(stream));
}

API cuMemsetD8Async(void* to, unsigned char value, size_t bytes, void* stream) {
  ENTER;
  return fill(device, to, value, bytes, stream_of(stream));
}
API cuMemsetD8_v2(void* to, unsigned char value, size_t bytes) {
  ENTER;
  return fill(device, to, value, bytes, device.null_stream);
}
API cuMemsetD32Async(void* to, unsigned value, size_t count, void* stream) {
  ENTER;
  return fill(device, to, value, count, stream_of(stream));
}
