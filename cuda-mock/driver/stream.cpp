// Streams and events. A stream runs when something waits for it; a query answers first and then lets the device
// do one entry, so that a host that polls gets on.
#include <chrono>

#include "driver.hpp"

namespace mock {

std::shared_ptr<Stream> stream_of(void* handle) {
  if (reinterpret_cast<uintptr_t>(handle) <= 2) return current()->null_stream;
  const auto found = state().streams.find(static_cast<Stream*>(handle));
  return found == state().streams.end() ? nullptr : found->second;
}

int submit(const std::shared_ptr<Stream>& stream, Work work) {
  if (!stream) return invalid_handle;
  if (stream->capture) {
    stream->capture->work.push_back(std::move(work));
    return ok;
  }
  stream->queue.push_back(std::move(work));
  ++stream->issued;
  return ok;
}

namespace {
// Does the oldest entry; false when it has to wait for a hang.
bool step(Stream& stream) {
  const Work work = stream.queue.front();
  if (work.hang > stream.device->hangs_released) return false;
  if (work.awaited && !drain(*work.awaited, work.target)) return false;
  // A device with an error does nothing any more.
  if (work.run && !stream.device->error) work.run(*stream.device);
  stream.queue.pop_front();
  ++stream.completed;
  return true;
}
}  // namespace

bool drain(Stream& stream, u64 target) {
  while (stream.completed < target)
    if (!step(stream)) return false;
  return true;
}

int wait_for(Lock& lock, Stream& stream, u64 target) {
  while (!drain(stream, target)) state().released.wait(lock);
  return stream.device->error;
}

int wait_for_device(Lock& lock, Device& device) {
  std::vector<std::shared_ptr<Stream>> all;
  for (auto& [handle, stream] : state().streams)
    if (stream->device == &device) all.push_back(stream);
  for (auto& stream : all) wait_for(lock, *stream, stream->issued);
  return device.error;
}

namespace {
Event* event_of(void* handle) {
  auto* event = static_cast<Event*>(handle);
  return state().events.count(event) ? event : nullptr;
}

bool is_complete(const Event& event) { return !event.stream || event.stream->completed >= event.target; }

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int query(Stream& stream, u64 target) {
  if (stream.completed >= target) return stream.device->error;
  step(stream);
  return stream.device->error ? stream.device->error : int(not_ready);
}
}  // namespace

}  // namespace mock

using namespace mock;

API cuStreamCreate(void** handle, unsigned) {
  ENTER;
  auto stream = std::make_shared<Stream>();
  stream->device = &device;
  state().streams[stream.get()] = stream;
  *handle = stream.get();
  return ok;
}
API cuStreamCreateWithPriority(void** handle, unsigned flags, int) { return cuStreamCreate(handle, flags); }

// What is in the stream still runs, as the driver promises; a hang goes with it.
API cuStreamDestroy_v2(void* handle) {
  Lock lock(state().mutex);
  const auto found = state().streams.find(static_cast<Stream*>(handle));
  if (found == state().streams.end()) return invalid_handle;
  drain(*found->second, found->second->issued);
  state().streams.erase(found);
  return ok;
}

API cuStreamSynchronize(void* handle) {
  ENTER;
  const auto stream = stream_of(handle);
  if (!stream) return invalid_handle;
  if (stream->capture) return stream->capture->valid = false, capture_unsupported;
  return wait_for(lock, *stream, stream->issued);
}

API cuStreamQuery(void* handle) {
  ENTER;
  const auto stream = stream_of(handle);
  if (!stream) return invalid_handle;
  if (stream->capture) return stream->capture->valid = false, capture_unsupported;
  return query(*stream, stream->issued);
}

// On the device's time a driver calls it with its lock free; a function that calls CUDA hangs here as there.
API cuLaunchHostFunc(void* handle, void (*function)(void*), void* argument) {
  ENTER;
  Work work;
  work.run = [=](Device&) { function(argument); };
  return submit(stream_of(handle), std::move(work));
}

API cuEventCreate(void** handle, unsigned) {
  ENTER;
  auto* event = new Event;
  state().events.insert(event);
  *handle = event;
  return ok;
}

API cuEventDestroy_v2(void* handle) {
  Lock lock(state().mutex);
  Event* event = event_of(handle);
  if (!event) return invalid_handle;
  state().events.erase(event);
  delete event;
  return ok;
}

API cuEventRecord(void* handle, void* stream_handle) {
  ENTER;
  Event* event = event_of(handle);
  const auto stream = stream_of(stream_handle);
  if (!event || !stream) return invalid_handle;
  if (stream->device != &device) return complain(invalid_handle, "event recorded in a stream of another context");
  event->capture = stream->capture;
  if (stream->capture) return ok;  // what is captured is ordered as it was submitted
  auto seconds = event->seconds = std::make_shared<double>();
  Work work;
  work.run = [seconds](Device&) { *seconds = now(); };
  const int result = submit(stream, std::move(work));
  event->stream = stream, event->target = stream->issued;
  return result;
}
API cuEventRecordWithFlags(void* handle, void* stream, unsigned) { return cuEventRecord(handle, stream); }

API cuStreamWaitEvent(void* stream_handle, void* handle, unsigned) {
  ENTER;
  Event* event = event_of(handle);
  const auto stream = stream_of(stream_handle);
  if (!event || !stream) return invalid_handle;
  if (event->capture) {  // the stream joins the capture
    stream->capture = event->capture;
    return ok;
  }
  if (stream->capture) return stream->capture->valid = false, capture_isolation;
  if (!event->stream) return ok;
  Work work;
  work.awaited = event->stream, work.target = event->target;
  return submit(stream, std::move(work));
}

API cuEventSynchronize(void* handle) {
  ENTER;
  Event* event = event_of(handle);
  if (!event) return invalid_handle;
  if (event->capture) return event->capture->valid = false, capture_unsupported;
  if (!event->stream) return ok;
  const auto stream = event->stream;
  return wait_for(lock, *stream, event->target);
}

API cuEventQuery(void* handle) {
  ENTER;
  Event* event = event_of(handle);
  if (!event) return invalid_handle;
  if (event->capture) return event->capture->valid = false, capture_unsupported;
  return event->stream ? query(*event->stream, event->target) : int(ok);
}

// The time that emulation took.
API cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) {
  ENTER;
  Event *a = event_of(from), *b = event_of(to);
  if (!a || !b || !a->stream || !b->stream) return invalid_handle;
  if (!is_complete(*a) || !is_complete(*b)) return not_ready;
  *milliseconds = float((*b->seconds - *a->seconds) * 1e3);
  return ok;
}
API cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  return cuEventElapsedTime_v2(milliseconds, from, to);
}
