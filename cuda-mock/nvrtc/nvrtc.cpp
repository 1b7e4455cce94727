// A libnvrtc.so for tests. It compiles nothing: a "cubin" names the source file and the hash of its text, and the
// mock's driver runs what the build compiled from that file. It fails as NVRTC does on `#error`, on an include
// that was not passed, and on what is no option.
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "../driver/blob.hpp"

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

// nvrtcResult, as far as it is used.
enum { ok = 0, invalid_input = 3, invalid_program = 4, invalid_option = 5, failed = 6 };

struct Program {
  std::string source, name, log, cubin;
  std::map<std::string, std::string> headers;
};

// Follows the `#include "..."` and finds the `#error` of a text, headers once each. Conditions are not evaluated
// but for those of the other compiler: an #else of `__CUDACC_RTC__` includes the emulator.
class Reader {
 public:
  explicit Reader(Program& program) : program_(program) {}

  void read(const std::string& name, const std::string& text) {
    size_t line = 1;
    for (size_t at = 0; at < text.size(); ++line) {
      const size_t end = std::min(text.find('\n', at), text.size());
      directive(name, line, text.substr(at, end - at));
      at = end + 1;
    }
  }

 private:
  void directive(const std::string& name, size_t line, const std::string& text) {
    if (text.rfind("#error", 0) == 0) return report(name, line, "#error directive:" + text.substr(6));
    if (text.rfind("#include", 0) != 0) return;
    const size_t open = text.find_first_of("\"<"), close = text.find_last_of("\">");
    if (open == std::string::npos || close <= open) return;
    const std::string header = text.substr(open + 1, close - open - 1);
    if (header == "emulator.hpp" || header == "hopper.hpp" || !seen_.insert(header).second) return;
    const auto found = program_.headers.find(header);
    if (found == program_.headers.end())
      return report(name, line, "could not open source file \"" + header + "\" (no directories in search list)");
    read(header, found->second);
  }

  void report(const std::string& name, size_t line, const std::string& what) {
    program_.log += name + "(" + std::to_string(line) + "): catastrophic error: " + what + "\n";
  }

  Program& program_;
  std::set<std::string> seen_;
};

// What follows one of the spellings of the option; empty when it is another option.
std::string architecture(const std::string& option) {
  for (const char* spelling : {"--gpu-architecture=", "-arch="})
    if (option.rfind(spelling, 0) == 0) return option.substr(strlen(spelling));
  return "";
}

Program* of(void* handle) { return static_cast<Program*>(handle); }

int give(const std::string& text, char* out) {
  memcpy(out, text.c_str(), text.size() + 1);
  return ok;
}

}  // namespace

API nvrtcVersion(int* major, int* minor) {
  *major = 13, *minor = 0;
  return ok;
}

API nvrtcGetNumSupportedArchs(int* count) {
  *count = 3;
  return ok;
}
API nvrtcGetSupportedArchs(int* archs) {
  archs[0] = 80, archs[1] = 89, archs[2] = 90;
  return ok;
}

extern "C" __attribute__((visibility("default"))) const char* nvrtcGetErrorString(int result) {
  switch (result) {
    case ok: return "NVRTC_SUCCESS";
    case invalid_input: return "NVRTC_ERROR_INVALID_INPUT";
    case invalid_program: return "NVRTC_ERROR_INVALID_PROGRAM";
    case invalid_option: return "NVRTC_ERROR_INVALID_OPTION";
    case failed: return "NVRTC_ERROR_COMPILATION";
    default: return "NVRTC_ERROR";
  }
}

API nvrtcCreateProgram(void** handle, const char* source, const char* name, int count, const char* const* texts,
                       const char* const* names) {
  if (!handle || !source || count < 0) return invalid_input;
  auto* program = new Program{source, name ? name : "default_program", "", "", {}};
  for (int i = 0; i < count; ++i) program->headers[names[i]] = texts[i];
  *handle = program;
  return ok;
}

API nvrtcDestroyProgram(void** handle) {
  if (!handle || !*handle) return invalid_program;
  delete of(*handle);
  *handle = nullptr;
  return ok;
}

API nvrtcCompileProgram(void* handle, int count, const char* const* options) {
  Program& program = *of(handle);
  program.log.clear(), program.cubin.clear();
  std::string arch = "compute_75";
  for (int i = 0; i < count; ++i) {
    const std::string option = options[i];
    if (option.rfind('-', 0) != 0) {
      program.log = "nvrtc: error: unrecognized option " + option + " found\n";
      return invalid_option;
    }
    const std::string named = architecture(option);
    if (!named.empty()) arch = named;
  }
  Reader(program).read(program.name, program.source);
  if (!program.log.empty()) return failed;
  mock::Blob blob;
  blob.file = program.name.substr(program.name.find_last_of('/') + 1);
  blob.arch = arch;
  blob.hash = mock::hash_of(program.source.c_str());
  program.cubin = mock::written(blob);
  return ok;
}

// A virtual architecture yields PTX alone, so no cubin; the mock's driver takes no PTX.
API nvrtcGetCUBINSize(void* handle, size_t* bytes) {
  const Program& program = *of(handle);
  *bytes = program.cubin.find("\nsm_") == std::string::npos ? 0 : program.cubin.size() + 1;
  return ok;
}
API nvrtcGetCUBIN(void* handle, char* cubin) { return give(of(handle)->cubin, cubin); }

API nvrtcGetPTXSize(void* handle, size_t* bytes) {
  *bytes = of(handle)->cubin.size() + 1;
  return ok;
}
API nvrtcGetPTX(void* handle, char* ptx) { return give(of(handle)->cubin, ptx); }

API nvrtcGetProgramLogSize(void* handle, size_t* bytes) {
  *bytes = of(handle)->log.size() + 1;
  return ok;
}
API nvrtcGetProgramLog(void* handle, char* log) { return give(of(handle)->log, log); }
