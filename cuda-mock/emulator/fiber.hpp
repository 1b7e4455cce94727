// Switching between emulated threads and the scheduler, on one host thread. x86-64 alone: another processor
// needs its own `switch_stack` and `prepare_stack`.
#pragma once
#include <sys/mman.h>

#include <cstdlib>

#include "machine.hpp"

#if !defined(__x86_64__)
#error "no stack switch for this processor"
#endif

namespace emu {

#ifdef EMU_ASAN
constexpr size_t stack_bytes = 256 * 1024;
#else
constexpr size_t stack_bytes = 64 * 1024;
#endif
constexpr size_t guard_bytes = 4096;

// Saves the registers that a call must keep, leaves the stack pointer in `*save`, goes on at `to`.
__attribute__((naked, noinline, used)) inline void switch_stack(void** /*save*/, void* /*to*/) {
  __asm__ volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

// A stack that `switch_stack` enters `entry` on.
inline void* prepare_stack(char* top, void (*entry)()) {
  void** sp = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(15));
  *--sp = nullptr;  // the return address of `entry`, which also keeps the alignment that the ABI wants
  *--sp = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--sp = nullptr;
  return sp;
}

inline void* map_stack(void* at, int more_flags) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | more_flags;
  void* p = mmap(at, stack_bytes + (at ? 0 : guard_bytes), PROT_READ | PROT_WRITE, flags, -1, 0);
  if (p == MAP_FAILED) abort();
  return p;
}

// The stack of the i-th resident thread: kept between launches, below it a page that traps.
inline char* stack_for(size_t i) {
  while (machine.stacks.size() <= i) {
    char* lowest = static_cast<char*>(map_stack(nullptr, 0));
    mprotect(lowest, guard_bytes, PROT_NONE);
    machine.stacks.push_back(lowest + guard_bytes);
  }
  char* stack = machine.stacks[i];
#ifdef EMU_ASAN
  __asan_unpoison_memory_region(stack, stack_bytes);
#endif
#ifdef EMU_TSAN
  map_stack(stack, MAP_FIXED);  // forgets the accesses of the last owner
#endif
  return stack;
}

inline void to_main() {
  Fiber* f = machine.current;
#ifdef EMU_ASAN
  __sanitizer_start_switch_fiber(f->done ? nullptr : &f->fake_stack, machine.main_bottom, machine.main_size);
#endif
#ifdef EMU_TSAN
  __tsan_switch_to_fiber(machine.main_tsan, __tsan_switch_to_fiber_no_sync);
#endif
  switch_stack(&f->stack_pointer, machine.main_stack_pointer);
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(f->fake_stack, &machine.main_bottom, &machine.main_size);
#endif
}

inline void to_fiber(Fiber* f) {
  machine.current = f;
  ::threadIdx = f->index;
  ::blockIdx = f->block->index;
#ifdef EMU_ASAN
  __sanitizer_start_switch_fiber(&machine.main_fake_stack, f->stack, stack_bytes);
#endif
#ifdef EMU_TSAN
  __tsan_switch_to_fiber(f->tsan, __tsan_switch_to_fiber_no_sync);
#endif
  switch_stack(&machine.main_stack_pointer, f->stack_pointer);
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(machine.main_fake_stack, nullptr, nullptr);
#endif
  machine.current = nullptr;
}

// Ends the launch with a message that names the thread, if one is running. What waits on other stacks is
// abandoned: no destructor there runs.
[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  machine.error = std::string(machine.kernel) + ": " + text;
  Fiber* f = machine.current;
  if (!f) throw Error(machine.error);
  char where[160];
  const dim3 b = f->block->index, t = f->index;
  snprintf(where, sizeof where, " [block (%u,%u,%u) thread (%u,%u,%u)]", b.x, b.y, b.z, t.x, t.y, t.z);
  machine.error += where;
  to_main();
  abort();
}

inline void check_aligned(const void* p, size_t n, const char* what) {
  if (reinterpret_cast<uintptr_t>(p) % n) fail("%s: address %p is not aligned to %zu bytes", what, p, n);
}

}  // namespace emu
