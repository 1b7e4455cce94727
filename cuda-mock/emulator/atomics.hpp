// Atomics on integers: tickets and counters. Those on floating point are deleted, because the order of their
// additions is anybody's. They are relaxed: only with __threadfence do they order other accesses.
#pragma once
#include "schedule.hpp"

namespace emu {

inline void atomic_edge(void* p) {
#ifdef EMU_TSAN
  Fiber* f = machine.current;
  if (f->fenced) release(p);
  {
    Quiet quiet;
    f->atomics.push_back(p);
  }
#else
  (void)p;
#endif
  maybe_yield();
}

inline void fence() {
#ifdef EMU_TSAN
  Fiber* f = machine.current;
  f->fenced = true;
  for (void* p : f->atomics) acquire(p);
  Quiet quiet;
  f->atomics.clear();
#endif
}

template <class T, class F> T atomic_update(T* p, F f) {
  static_assert(!std::is_floating_point<T>::value, "no atomics on floating point: their order is not fixed");
  atomic_edge(p);
  T old, next;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  do next = f(old);
  while (!__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace emu

inline void __threadfence() { emu::fence(); }
inline void __threadfence_block() { emu::fence(); }
inline void __nanosleep(unsigned) { emu::spin(); }

template <class T> T atomicAdd(T* p, T v) {
  return emu::atomic_update(p, [v](T old) { return T(old + v); });
}
template <class T> T atomicMax(T* p, T v) {
  return emu::atomic_update(p, [v](T old) { return old > v ? old : v; });
}
template <class T> T atomicMin(T* p, T v) {
  return emu::atomic_update(p, [v](T old) { return old < v ? old : v; });
}
template <class T> T atomicExch(T* p, T v) {
  return emu::atomic_update(p, [v](T) { return v; });
}
template <class T> T atomicCAS(T* p, T compare, T v) {
  return emu::atomic_update(p, [compare, v](T old) { return old == compare ? v : old; });
}
inline u32 atomicInc(u32* p, u32 limit) {
  return emu::atomic_update(p, [limit](u32 old) { return old >= limit ? 0 : old + 1; });
}
