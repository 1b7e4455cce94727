// __syncthreads: all threads of the block that have not exited, at the same place of the source.
#pragma once
#include <cstring>

#include "schedule.hpp"

namespace emu {

inline void release_barrier(Barrier& b) {
  ++b.phase;
  for (Fiber* f : b.waiters) wake(f);
  b.waiters.clear();
}

inline void barrier(const char* site) {
  Fiber* f = machine.current;
  Barrier& b = f->block->barrier;
  char* token;
  {
    Quiet quiet;
    const char* other = b.waiters.empty() ? site : b.waiters[0]->site;
    if (strcmp(other, site)) fail("threads meet at different barriers: %s and %s", other, site);
    token = &b.token[b.phase & 1];
  }
  release(token);
  {
    Quiet quiet;
    f->site = site;
    b.waiters.push_back(f);
    if (b.waiters.size() == f->block->alive) release_barrier(b);
    to_main();
  }
  acquire(token);
}

}  // namespace emu

#define EMU_TEXT_OF(x) #x
#define EMU_TEXT(x) EMU_TEXT_OF(x)
#define __syncthreads() emu::barrier(__FILE__ ":" EMU_TEXT(__LINE__))
