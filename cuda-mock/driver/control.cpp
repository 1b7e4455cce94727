// What tests steer: entry points that no driver has, called by src/lib.rs.
#include <cstring>

#include "driver.hpp"

namespace mock {
u64& schedule();
}

using namespace mock;

#define CONTROL extern "C" __attribute__((visibility("default"))) void

// Of launches that the calling thread makes from now on; numbers as emu::Schedule has them.
CONTROL cuda_mock_set_schedule(unsigned long long order) { schedule() = order; }

// Of the next allocation or launch of the calling thread.
CONTROL cuda_mock_fail_next(int fault) { armed_fault() = fault; }

// Lets go what hangs, and takes errors back.
CONTROL cuda_mock_clear_faults(int ordinal) {
  Lock lock(state().mutex);
  armed_fault() = no_fault;
  Device& d = device(ordinal);
  d.hangs_released = d.hangs;
  d.error = ok, d.message.clear();
  state().released.notify_all();
}

CONTROL cuda_mock_set_devices(int count) {
  Lock lock(state().mutex);
  state().device_count = count;
}

CONTROL cuda_mock_set_total_memory(int ordinal, size_t bytes) {
  Lock lock(state().mutex);
  device(ordinal).total = bytes;
}

// Copies the message of the device's error, shortened to fit; returns its length, 0 without an error.
extern "C" __attribute__((visibility("default"))) size_t cuda_mock_error(int ordinal, char* text, size_t bytes) {
  Lock lock(state().mutex);
  const std::string& message = device(ordinal).message;
  const size_t length = std::min(message.size(), bytes);
  memcpy(text, message.data(), length);
  return length;
}
