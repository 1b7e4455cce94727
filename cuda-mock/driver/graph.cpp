// Stream capture and graphs. A graph is the list of what was submitted: one order that its edges allow.
#include "driver.hpp"

using namespace mock;

// Handles are shared pointers on the heap: a graph and what was instantiated from it live apart.
using Handle = std::shared_ptr<Graph>;

API cuStreamBeginCapture_v2(void* handle, int) {
  ENTER;
  if (reinterpret_cast<uintptr_t>(handle) <= 2) return capture_unsupported;  // the default stream
  const auto stream = stream_of(handle);
  if (!stream) return invalid_handle;
  if (stream->capture) return invalid_value;
  stream->capture = std::make_shared<Graph>();
  return ok;
}

API cuStreamIsCapturing(void* handle, int* status) {
  ENTER;
  const auto stream = stream_of(handle);
  if (!stream) return invalid_handle;
  *status = !stream->capture ? 0 : stream->capture->valid ? 1 : 2;
  return ok;
}

API cuStreamEndCapture(void* handle, void** graph) {
  ENTER;
  const auto stream = stream_of(handle);
  if (!stream) return invalid_handle;
  const auto captured = stream->capture;
  if (!captured) return invalid_value;
  for (auto& [other_handle, other] : state().streams)
    if (other->capture == captured) other->capture = nullptr;
  *graph = captured->valid ? new Handle(captured) : nullptr;
  return captured->valid ? ok : capture_invalidated;
}

API cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
  *executable = new Handle(*static_cast<Handle*>(graph));
  return ok;
}

API cuGraphUpload(void*, void*) { return ok; }

API cuGraphLaunch(void* executable, void* stream) {
  ENTER;
  for (const Work& work : (*static_cast<Handle*>(executable))->work)
    if (const int error = submit(stream_of(stream), work)) return error;
  return ok;
}

API cuGraphExecDestroy(void* executable) {
  delete static_cast<Handle*>(executable);
  return ok;
}

API cuGraphDestroy(void* graph) {
  delete static_cast<Handle*>(graph);
  return ok;
}
