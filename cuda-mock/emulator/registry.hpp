// The kernels that the build compiled in, by file and name, and how to call one with an array of pointers to
// its arguments, as cuLaunchKernel gets them. build.rs writes one registration for each .cu file.
#pragma once
#include <cstring>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "types.hpp"

namespace emu {

struct Kernel {
  std::string name;
  unsigned threads_max;                  // __launch_bounds__, or 1024
  std::vector<size_t> argument_bytes;
  void (*call)(void (*kernel)(), void** arguments);
  void (*entry)();
};

struct SourceFile {
  u64 hash;                              // of the text that was compiled, see build.rs
  std::map<std::string, Kernel> kernels;
};

inline std::map<std::string, SourceFile>& registry() {
  static auto* files = new std::map<std::string, SourceFile>;
  return *files;
}

template <class T> T argument(const void* p) {
  T value;
  memcpy(static_cast<void*>(&value), p, sizeof value);
  return value;
}

template <class... P, size_t... I> void call_with(void (*kernel)(P...), void** p, std::index_sequence<I...>) {
  kernel(argument<std::remove_cv_t<P>>(p[I])...);
}

template <class... P> Kernel kernel(const char* name, void (*entry)(P...), unsigned threads_max) {
  static_assert((std::is_trivially_copyable<P>::value && ...), "kernel arguments are copied as bytes");
  auto call = [](void (*f)(), void** p) {
    call_with(reinterpret_cast<void (*)(P...)>(f), p, std::index_sequence_for<P...>{});
  };
  return {name, threads_max, {sizeof(P)...}, call, reinterpret_cast<void (*)()>(entry)};
}

inline bool add_file(const char* file, u64 hash, std::vector<Kernel> kernels) {
  SourceFile& entry = registry()[file];
  entry.hash = hash;
  for (Kernel& k : kernels) entry.kernels.emplace(k.name, k);
  return true;
}

}  // namespace emu
