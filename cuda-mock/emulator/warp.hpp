// Collectives of a warp: the lanes that a mask names meet, and the last to arrive computes for all. A lane
// that arrives with another mask or at another collective is an error, as is one outside its own mask.
#pragma once
#include <cstring>

#include "schedule.hpp"

namespace emu {

constexpr u32 full_warp = 0xFFFFFFFFu;

template <class F> void each_lane(u32 lanes, F f) {
  for (unsigned i = 0; i < 32; ++i)
    if (lanes >> i & 1) f(i);
}

template <class T> T& slot(Warp& w, unsigned lane) { return *static_cast<T*>(w.lane[lane]->slot); }

// Computes if all lanes that `f` waits for are there; lanes that exited are not waited for.
inline bool complete(Warp& w, Fiber* f) {
  const u32 need = f->mask & w.alive;
  if ((w.waiting & need) != need) return false;
  each_lane(need, [&](unsigned i) {
    const Fiber* o = w.lane[i];
    if (o->collective != f->collective || o->mask != f->mask)
      fail("warp divergence: lane %u at %s mask %08x, lane %u at %s mask %08x", f->lane, f->site, f->mask, i,
           o->site, o->mask);
  });
  w.waiting &= ~need;
  f->collective(w, need);
  w.ready |= need;
  return true;
}

inline void meet(Collective op, u32 mask, void* slot, const char* site) {
  Fiber* f = machine.current;
  if (!(mask >> f->lane & 1)) fail("%s: lane %u is not in its own mask %08x", site, f->lane, mask);
  f->collective = op, f->mask = mask, f->slot = slot, f->site = site;
  f->warp->waiting |= 1u << f->lane;
  if (complete(*f->warp, f) && !is_random())
    f->warp->ready &= ~(1u << f->lane);  // runs on
  else
    to_main();
}

inline void need_full_warp(u32 lanes, const char* what) {
  if (lanes != full_warp) fail("%s needs 32 lanes, has %08x", what, lanes);
}

struct SyncWarp {
  char* mine;
  char* tokens[32];
  u32 lanes;
};

inline void sync_warp(u32 mask) {
  Fiber* f = machine.current;
  SyncWarp s;
  {
    Quiet quiet;
    s.mine = &f->warp->token[f->lane][f->warp_syncs++ & 1];
  }
  release(s.mine);
  {
    Quiet quiet;
    const Collective op = [](Warp& w, u32 lanes) {
      each_lane(lanes, [&](unsigned i) {
        slot<SyncWarp>(w, i).lanes = lanes;
        each_lane(lanes, [&](unsigned j) { slot<SyncWarp>(w, i).tokens[j] = slot<SyncWarp>(w, j).mine; });
      });
    };
    meet(op, mask, &s, "__syncwarp");
  }
  each_lane(s.lanes, [&](unsigned i) { acquire(s.tokens[i]); });
}

template <class T> struct Shuffle {
  T in, out;
  int source;
};

// The value of a lane that does not take part is undefined on a GPU, and all ones here.
template <class T> T shuffle(u32 mask, T value, int source) {
  Quiet quiet;
  Shuffle<T> s{value, value, source};
  const Collective op = [](Warp& w, u32 lanes) {
    each_lane(lanes, [&](unsigned i) {
      auto& mine = slot<Shuffle<T>>(w, i);
      if (lanes >> mine.source & 1)
        mine.out = slot<Shuffle<T>>(w, unsigned(mine.source)).in;
      else
        memset(static_cast<void*>(&mine.out), 0xFF, sizeof(T));
    });
  };
  meet(op, mask, &s, "__shfl_sync");
  return s.out;
}

struct Ballot {
  bool in;
  u32 out;
};

inline u32 ballot(u32 mask, bool predicate) {
  Quiet quiet;
  Ballot b{predicate, 0};
  const Collective op = [](Warp& w, u32 lanes) {
    u32 votes = 0;
    each_lane(lanes, [&](unsigned i) { votes |= u32(slot<Ballot>(w, i).in) << i; });
    each_lane(lanes, [&](unsigned i) { slot<Ballot>(w, i).out = votes; });
  };
  meet(op, mask, &b, "__ballot_sync");
  return b.out;
}

inline int lane() { return int(machine.current->lane); }

}  // namespace emu

inline void __syncwarp(u32 mask = emu::full_warp) { emu::sync_warp(mask); }

template <class T> T __shfl_sync(u32 mask, T value, int source, int width = 32) {
  return emu::shuffle(mask, value, (emu::lane() & ~(width - 1)) | (source & (width - 1)));
}
template <class T> T __shfl_xor_sync(u32 mask, T value, int bits, int width = 32) {
  const int lane = emu::lane(), source = lane ^ bits;
  return emu::shuffle(mask, value, source >= (lane & ~(width - 1)) + width ? lane : source);
}
template <class T> T __shfl_down_sync(u32 mask, T value, u32 delta, int width = 32) {
  const int lane = emu::lane();
  return emu::shuffle(mask, value, (lane & (width - 1)) + int(delta) < width ? lane + int(delta) : lane);
}
template <class T> T __shfl_up_sync(u32 mask, T value, u32 delta, int width = 32) {
  const int lane = emu::lane();
  return emu::shuffle(mask, value, (lane & (width - 1)) >= int(delta) ? lane - int(delta) : lane);
}
inline u32 __ballot_sync(u32 mask, int predicate) { return emu::ballot(mask, predicate != 0); }
inline int __any_sync(u32 mask, int predicate) { return emu::ballot(mask, predicate != 0) != 0; }
inline int __all_sync(u32 mask, int predicate) { return emu::ballot(mask, predicate == 0) == 0; }
