// Shared memory of a block: each array is a heap block of exactly its size, so that AddressSanitizer sees
// an access past its end, and holds NaN (0xFF) when the block starts.
#pragma once
#include <cstdlib>
#include <cstring>

#include "schedule.hpp"

namespace emu {

constexpr unsigned char poison_byte = 0xFF;
constexpr u32 poison_word = 0xFFFFFFFFu;

inline void* poisoned(size_t align, size_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, align, bytes ? bytes : 1)) abort();
  memset(p, poison_byte, bytes);
  return p;
}

// The array that `key` stands for in this block, made by the first thread that comes by.
inline void* shared_static(const void* key, size_t bytes) {
  Quiet quiet;
  Block* b = machine.current->block;
  for (auto& s : b->statics)
    if (s.key == key) return s.memory;
  b->static_bytes += bytes;
  if (b->static_bytes > machine.options.static_shared_limit)
    fail("%zu bytes of static shared memory, limit %zu", b->static_bytes, machine.options.static_shared_limit);
  if (b->static_bytes + machine.dynamic_bytes > machine.options.shared_limit)
    fail("%zu bytes of shared memory, limit %zu", b->static_bytes + machine.dynamic_bytes,
         machine.options.shared_limit);
  b->statics.push_back({key, poisoned(128, bytes)});
  return b->statics.back().memory;
}

inline unsigned char* dynamic_shared() { return machine.current->block->dynamic; }

}  // namespace emu

// A static array in a macro, so that each use of it in the source is an array of its own.
#define SHARED_ARRAY(T, name, n)    \
  static const char name##_key = 0; \
  T(&name)[n] = *static_cast<T(*)[n]>(emu::shared_static(&name##_key, sizeof(T[n])))
#define DYNAMIC_SHARED(name) unsigned char* name = emu::dynamic_shared()
