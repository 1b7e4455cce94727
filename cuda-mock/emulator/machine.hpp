// The state of an emulated GPU: threads in warps in blocks, and what each of them waits for. One launch runs
// at a time, on the host thread that waits for it; the driver's lock guards the one Machine of the process.
#pragma once
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "sanitizers.hpp"
#include "types.hpp"

namespace emu {

// In which order threads run that could all run.
// lockstep: warps take turns, ascending. depth_first: one warp runs until it blocks, the last one first, so
// that warps drift apart as far as barriers let them. Any larger value seeds random priorities.
enum Schedule : u64 { lockstep = 0, depth_first = 1 };

struct Options {
  u64 schedule = lockstep;
  unsigned resident_blocks = 1;                // more than one only for blocks that wait for each other
  size_t static_shared_limit = 48 * 1024;      // what ptxas takes on every architecture
  size_t shared_limit = 227 * 1024;            // static + dynamic, sm_90
  u64 spin_limit = 100000;                     // rounds of nothing but polling that count as a deadlock
};

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Fiber;

struct Warp {
  Fiber* lane[32] = {};
  // A bit for each lane: not yet exited; at a collective; able to run; in a polling loop.
  u32 alive = 0, waiting = 0, ready = 0, spinning = 0;
  u32 priority = 0;
  char token[32][2];
};

struct Barrier {
  unsigned phase = 0;
  std::vector<Fiber*> waiters;
  char token[2];
};

struct StaticShared {
  const void* key;
  void* memory;
};

struct Block {
  dim3 index;
  unsigned alive = 0;
  std::vector<Warp> warps;
  Barrier barrier;
  std::vector<StaticShared> statics;
  unsigned char* dynamic = nullptr;
  size_t static_bytes = 0;
};

// One cp.async that was issued and not yet waited for.
struct Copy {
  void* to;
  const void* from;
  bool valid;
};

using Collective = void (*)(Warp&, u32 lanes);

// One CUDA thread, with a stack of its own.
struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  Block* block = nullptr;
  Warp* warp = nullptr;
  dim3 index;
  unsigned lane = 0, warp_syncs = 0;
  bool done = false;
  const char* site = "";                   // what it waits at
  u32 mask = 0;                            // of the collective that it waits at
  Collective collective = nullptr;
  void* slot = nullptr;
  bool fenced = false;
  std::vector<void*> atomics;              // touched since the last fence
  std::vector<std::vector<Copy>> groups;   // committed groups of copies, oldest first
  std::vector<Copy> open;                  // copies not committed yet
  void* fake_stack = nullptr;              // AddressSanitizer's
  void* tsan = nullptr;                    // ThreadSanitizer's
};

struct Machine {
  Options options;
  const char* kernel = "";
  void (*body)(void*) = nullptr;
  void* body_data = nullptr;
  size_t dynamic_bytes = 0;
  std::vector<char*> stacks;
  std::vector<Warp*> warps;                // of the resident blocks
  size_t turn = 0;
  u32 batch = 0;                           // lanes of warp `turn` that have yet to run in this turn
  Fiber* current = nullptr;
  void* main_stack_pointer = nullptr;
  void* main_fake_stack = nullptr;
  const void* main_bottom = nullptr;
  size_t main_size = 0;
  void* main_tsan = nullptr;
  std::string error;
  u64 random = 1;
};
// Never destroyed: another thread may be in a launch when the process ends.
inline Machine& machine = *new Machine;

inline bool is_random() { return machine.options.schedule > depth_first; }

// splitmix64.
inline u64 next_random() {
  u64 z = (machine.random += 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

}  // namespace emu
