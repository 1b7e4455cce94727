// Which thread runs next. Threads pass control only where they wait, so a schedule is a choice among ready
// lanes; `maybe_yield` adds places to pass it under random schedules.
#pragma once
#include "fiber.hpp"

namespace emu {

inline void wake(Fiber* f) { f->warp->ready |= 1u << f->lane; }

inline void yield_now() {
  wake(machine.current);
  to_main();
}

inline void maybe_yield() {
  if (!is_random()) return;
  Quiet quiet;
  if (next_random() % 4 == 0) yield_now();
}

// For polling loops: runs on when nothing else can.
inline void spin() {
  Quiet quiet;
  Fiber* f = machine.current;
  f->site = "a polling loop";
  f->warp->spinning |= 1u << f->lane;
  to_main();
}

inline Fiber* take(Warp* warp, unsigned lane) {
  warp->ready &= ~(1u << lane);
  return warp->lane[lane];
}

// The lanes of a warp that were ready when its turn came, ascending; then the next warp.
inline Fiber* pick_in_turn() {
  Machine& m = machine;
  m.batch &= m.warps[m.turn]->ready;
  for (size_t i = 0; i < m.warps.size() && !m.batch; ++i) {
    m.turn = (m.turn + 1) % m.warps.size();
    m.batch = m.warps[m.turn]->ready;
  }
  if (!m.batch) return nullptr;
  const unsigned lane = unsigned(__builtin_ctz(m.batch));
  m.batch &= m.batch - 1;
  return take(m.warps[m.turn], lane);
}

// The highest lane of the ready warp with the highest priority, the last one among equals.
inline Fiber* pick_by_priority() {
  Warp* best = nullptr;
  for (size_t i = machine.warps.size(); i-- > 0;) {
    Warp* w = machine.warps[i];
    if (w->ready && (!best || w->priority > best->priority)) best = w;
  }
  if (!best) return nullptr;
  unsigned lane = 31 - unsigned(__builtin_clz(best->ready));
  if (is_random()) {
    const u64 r = next_random();
    if (r % 256 == 0) best->priority = u32(r >> 32);
    const unsigned from = (r >> 8) % 32;
    if (const u32 rotated = best->ready >> from) lane = unsigned(__builtin_ctz(rotated)) + from;
  }
  return take(best, lane);
}

inline Fiber* pick() {
  return machine.options.schedule == lockstep ? pick_in_turn() : pick_by_priority();
}

}  // namespace emu
