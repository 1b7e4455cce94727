// What AddressSanitizer and ThreadSanitizer have to be told: which accesses are the emulator's own, and
// which events order the accesses of emulated threads. Without a sanitizer all of it is empty.
#pragma once
#include "types.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define EMU_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EMU_TSAN 1
#endif
#endif

#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EMU_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateIgnoreReadsBegin(const char*, int);
extern "C" void AnnotateIgnoreReadsEnd(const char*, int);
extern "C" void AnnotateIgnoreWritesBegin(const char*, int);
extern "C" void AnnotateIgnoreWritesEnd(const char*, int);
#endif

namespace emu {

// While one lives, ThreadSanitizer does not see this thread's accesses.
struct Quiet {
  Quiet() {
#ifdef EMU_TSAN
    AnnotateIgnoreReadsBegin("", 0);
    AnnotateIgnoreWritesBegin("", 0);
#endif
  }
  ~Quiet() {
#ifdef EMU_TSAN
    AnnotateIgnoreWritesEnd("", 0);
    AnnotateIgnoreReadsEnd("", 0);
#endif
  }
  Quiet(const Quiet&) = delete;
};

// What happened before `release` in one emulated thread happened before what follows `acquire` of the same
// token in another. Nothing else orders emulated threads for ThreadSanitizer, however they are interleaved.
#ifdef EMU_TSAN
inline void release(void* token) { __tsan_release(token); }
inline void acquire(void* token) { __tsan_acquire(token); }
#else
inline void release(void*) {}
inline void acquire(void*) {}
#endif

// The accesses of an emulated thread to 16 aligned bytes. Word by word: g++ makes a memset or memcpy of a known size
// into instructions that ThreadSanitizer does not see.
inline void fill_16(void* to, u32 word) {
  for (int i = 0; i < 4; ++i) static_cast<u32*>(to)[i] = word;
}
inline void copy_16(void* to, const void* from) {
  for (int i = 0; i < 4; ++i) static_cast<u32*>(to)[i] = static_cast<const u32*>(from)[i];
}

}  // namespace emu
