// The state behind the mock's libcuda.so: devices, streams of work not done yet, events, memory. One lock guards
// it all; every entry point takes it, nothing below does. Streams are lazy: work runs only when something waits
// for it, so that a synchronisation that the host forgot shows every time.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int

namespace mock {

using u64 = unsigned long long;

// CUresult, as far as it is used.
enum Code : int {
  ok = 0,
  invalid_value = 1,
  out_of_memory = 2,
  invalid_device = 101,
  invalid_image = 200,
  invalid_context = 201,
  no_binary_for_gpu = 209,
  invalid_handle = 400,
  not_found = 500,
  not_ready = 600,
  illegal_address = 700,
  launch_out_of_resources = 701,
  launch_failed = 719,
  not_supported = 801,
  capture_unsupported = 900,
  capture_invalidated = 901,
  capture_isolation = 905,
};

struct Device;
struct Stream;

// One entry of a stream.
struct Work {
  std::function<void(Device&)> run;     // empty for those below
  std::shared_ptr<Stream> awaited;      // waits until that stream has completed `target` entries
  u64 target = 0;
  u64 hang = 0;                         // waits until the device's hangs up to this one are released
};

struct Graph {
  std::vector<Work> work;
  bool valid = true;
};

struct Stream {
  Device* device = nullptr;
  std::deque<Work> queue;
  u64 issued = 0, completed = 0;
  std::shared_ptr<Graph> capture;       // while it is captured
};

struct Event {
  std::shared_ptr<Stream> stream;       // null until recorded
  u64 target = 0;
  std::shared_ptr<double> seconds;      // when its turn came
  std::shared_ptr<Graph> capture;
};

// A device and its primary context in one.
struct Device {
  int ordinal = 0;
  int error = ok;                       // sticky: all later calls return it
  std::string message;
  size_t total = 0, used = 0;
  unsigned retained = 0;
  u64 hangs = 0, hangs_released = 0;
  std::shared_ptr<Stream> null_stream;
};

struct Allocation {
  size_t bytes;
  Device* device;                       // null for pinned host memory
};

struct State {
  std::mutex mutex;
  std::condition_variable released;     // hangs
  int device_count = 1;
  std::map<int, Device> devices;
  std::map<Stream*, std::shared_ptr<Stream>> streams;
  std::set<Event*> events;
  std::map<uintptr_t, Allocation> memory;
};

State& state();
using Lock = std::unique_lock<std::mutex>;

// What `cuda_mock_fail_next` armed for the calling thread.
enum Fault : int { no_fault = 0, fault_illegal_address = 1, fault_out_of_memory = 2, fault_hang = 3 };
int& armed_fault();

// Says on standard error what the caller did wrong, and returns the code.
int complain(Code code, const char* format, ...) __attribute__((format(printf, 2, 3)));

// The context of the calling thread; null when none is set.
Device*& current();
Device& device(int ordinal);

// Of a handle: 0, 1 and 2 are the default streams of the current context, of which there is one here. Null when
// the handle is none.
std::shared_ptr<Stream> stream_of(void* handle);

// Appends to the stream, or to the graph that it is captured into. Returns what the driver would.
int submit(const std::shared_ptr<Stream>& stream, Work work);
// Runs entries until `target` are complete; false when a hang is in the way.
bool drain(Stream& stream, u64 target);
// `drain` that waits for hangs; returns the device's error.
int wait_for(Lock& lock, Stream& stream, u64 target);
int wait_for_device(Lock& lock, Device& device);
// Makes an error sticky, unless there is one.
void fail(Device& device, Code code, const std::string& message);

void* allocate(Device* device, size_t bytes);
// Frees what starts at `p`, if something of that device does.
bool release(void* p, Device* device);
void release_all(Device& device);
// The allocation that holds all `bytes` from `p` on; null when there is none.
const Allocation* allocation_of(const void* p, size_t bytes);
// The first allocation of a device that something wrote behind; its size, or 0.
size_t overrun(const Device& device);

}  // namespace mock

// What a call that works on a context starts with: the lock, the context, and the context's sticky error.
#define ENTER                                         \
  mock::Lock lock(mock::state().mutex);               \
  if (!mock::current()) return mock::invalid_context; \
  mock::Device& device = *mock::current();            \
  if (device.error) return device.error
