// One launch: makes the threads of each block, runs them by the schedule until all have exited, and turns
// what went wrong into an Error. Blocks run one after another, since nothing orders them on a GPU either.
#pragma once
#include <algorithm>
#include <map>

#include "async_copy.hpp"
#include "barrier.hpp"
#include "warp.hpp"

namespace emu {

struct Launch {
  const char* kernel;
  dim3 grid, block;
  size_t dynamic_bytes;
  void (*body)(void*);
  void* body_data;
};

// What a thread starts with and never returns from. An exit may be what others wait for.
inline void fiber_main() {
#ifdef EMU_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &machine.main_bottom, &machine.main_size);
#endif
  machine.body(machine.body_data);
  Fiber* f = machine.current;
  release(&machine);
  {
    Quiet quiet;
    if (has_pending_copies(*f)) fail("thread exits with async copies never waited for");
    Block* b = f->block;
    f->done = true;
    --b->alive;
    f->warp->alive &= ~(1u << f->lane);
    if (f->warp->waiting) complete(*f->warp, f->warp->lane[__builtin_ctz(f->warp->waiting)]);
    if (b->alive && b->barrier.waiters.size() == b->alive) release_barrier(b->barrier);
  }
  to_main();
  abort();
}

// The blocks that run interleaved, from their first thread to their last.
class Residents {
 public:
  Residents(const std::vector<dim3>& indices, dim3 shape) : blocks_(indices.size()) {
    const unsigned threads = shape.x * shape.y * shape.z;
    fibers_ = std::vector<Fiber>(indices.size() * threads);
    machine.warps.clear();
    machine.batch = 0;
    for (size_t i = 0; i < indices.size(); ++i) {
      start_block(blocks_[i], indices[i], threads);
      for (unsigned t = 0; t < threads; ++t) {
        const size_t n = i * threads + t;
        start_thread(fibers_[n], blocks_[i], t, shape, stack_for(n));
      }
    }
    for (Block& b : blocks_)
      for (Warp& w : b.warps) {
        w.ready = w.alive;
        w.priority = is_random() ? u32(next_random()) : 0;
        machine.warps.push_back(&w);
      }
    machine.turn = machine.warps.size() - 1;
  }

  ~Residents() {
    for (Block& b : blocks_) {
      for (auto& s : b.statics) free(s.memory);
      free(b.dynamic);
    }
#ifdef EMU_TSAN
    // Abandoned ones are leaked: ThreadSanitizer objects to ending them half-way.
    if (machine.error.empty())
      for (Fiber& f : fibers_) __tsan_destroy_fiber(f.tsan);
#endif
  }

  void run() {
    for (u64 idle_rounds = 0; machine.error.empty();) {
      if (Fiber* next = pick()) {
        to_fiber(next);
        continue;
      }
      u32 polling = 0;
      for (Warp* w : machine.warps) polling |= w->ready = std::exchange(w->spinning, 0);
      if (!polling || ++idle_rounds > machine.options.spin_limit) break;
    }
    if (machine.error.empty() && std::any_of(fibers_.begin(), fibers_.end(), [](Fiber& f) { return !f.done; }))
      machine.error = std::string(machine.kernel) + ": " + deadlock();
  }

 private:
  static void start_block(Block& b, dim3 index, unsigned threads) {
    b.index = index;
    b.alive = threads;
    b.warps.resize((threads + 31) / 32);
    b.dynamic = static_cast<unsigned char*>(poisoned(1024, machine.dynamic_bytes));
  }

  static void start_thread(Fiber& f, Block& b, unsigned t, dim3 shape, char* stack) {
    f.block = &b;
    f.warp = &b.warps[t / 32];
    f.lane = t % 32;
    f.index = dim3(t % shape.x, t / shape.x % shape.y, t / shape.x / shape.y);
    f.warp->lane[f.lane] = &f;
    f.warp->alive |= 1u << f.lane;
    f.stack = stack;
    f.stack_pointer = prepare_stack(f.stack + stack_bytes, fiber_main);
#ifdef EMU_TSAN
    f.tsan = __tsan_create_fiber(0);
#endif
  }

  std::string deadlock() const {
    std::map<std::string, unsigned> waiting;
    unsigned done = 0;
    for (const Fiber& f : fibers_) f.done ? ++done : ++waiting[f.site];
    std::string text = "deadlock:";
    for (auto& [site, threads] : waiting) text += " " + std::to_string(threads) + " threads at " + site + ",";
    return text + " " + std::to_string(done) + " exited";
  }

  std::vector<Block> blocks_;
  std::vector<Fiber> fibers_;
};

// The order in which blocks start: ascending, descending (depth first) or shuffled.
inline std::vector<u64> block_order(u64 blocks) {
  std::vector<u64> order(blocks);
  for (u64 i = 0; i < blocks; ++i) order[i] = machine.options.schedule == depth_first ? blocks - 1 - i : i;
  if (is_random())
    for (u64 i = blocks; i > 1; --i) std::swap(order[i - 1], order[next_random() % i]);
  return order;
}

// Throws Error when a thread did what no GPU would allow, or when all wait for each other.
inline void run(const Launch& launch, const Options& options) {
  Quiet quiet;
  Machine& m = machine;
  m.options = options, m.kernel = launch.kernel, m.dynamic_bytes = launch.dynamic_bytes;
  m.body = launch.body, m.body_data = launch.body_data;
  m.error.clear(), m.random = options.schedule;
#ifdef EMU_TSAN
  m.main_tsan = __tsan_get_current_fiber();
#endif
  const dim3 grid = launch.grid;
  ::blockDim = launch.block, ::gridDim = grid;
  const std::vector<u64> order = block_order(u64(grid.x) * grid.y * grid.z);
  for (u64 first = 0; first < order.size(); first += options.resident_blocks) {
    std::vector<dim3> indices;
    for (u64 i = first; i < std::min<u64>(first + options.resident_blocks, order.size()); ++i) {
      const u64 n = order[i];
      indices.push_back(dim3(unsigned(n % grid.x), unsigned(n / grid.x % grid.y), unsigned(n / grid.x / grid.y)));
    }
    Residents(indices, launch.block).run();
    if (!m.error.empty()) throw Error(m.error);
  }
  acquire(&machine);
}

}  // namespace emu
