// cp.async: done as late as the program allows. The destination holds NaN from the issue until the issuing
// thread waits, which is when the source is read, too.
#pragma once
#include <utility>

#include "shared_memory.hpp"

namespace emu {

inline void copy_async(void* shared, const void* global, bool valid) {
  check_aligned(shared, 16, "cp.async destination");
  if (valid) check_aligned(global, 16, "cp.async source");
  fill_16(shared, poison_word);
  {
    Quiet quiet;
    machine.current->open.push_back({shared, global, valid});
  }
  maybe_yield();
}

inline void commit_copies() {
  Quiet quiet;
  Fiber* f = machine.current;
  f->groups.push_back(std::move(f->open));
  f->open.clear();
}

inline void wait_copies(size_t pending) {
  Fiber* f = machine.current;
  while (f->groups.size() > pending) {
    std::vector<Copy> group;
    {
      Quiet quiet;
      group = std::move(f->groups.front());
      f->groups.erase(f->groups.begin());
    }
    for (const Copy& c : group) {
      if (c.valid)
        copy_16(c.to, c.from);
      else
        fill_16(c.to, 0);
    }
  }
}

inline bool has_pending_copies(const Fiber& f) {
  bool pending = !f.open.empty();
  for (auto& group : f.groups) pending |= !group.empty();
  return pending;
}

}  // namespace emu

inline void cp_async_16(void* shared, const void* global, bool valid) {
  emu::copy_async(shared, global, valid);
}
inline void cp_async_commit() { emu::commit_copies(); }
template <int N> void cp_async_wait() { emu::wait_copies(N); }
