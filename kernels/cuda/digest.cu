// 128 bits that tell fp32 buffers apart by their bits, at the speed of memory. Not for anyone who wants to be fooled.
//
// Two words, x, at position p, counted from 1 over all buffers, have an odd key k(p). x + k, xor-shifted and multiplied
// with k, then again xor-shifted, is a bijection of x for each p: a change of one word always changes the first sum. The
// second sum is over one more such round. Sums of integers modulo 2^64 have no order, so the grid is of no matter.
// DRAM: 4 bytes an element.
#include "block.cuh"
#include "lanes.cuh"

constexpr int THREADS = 256;
constexpr int TURNS = 4;  // loads of a thread that are on their way at once

struct Sums {
  u64 first, second;
};

__device__ __forceinline__ Sums plus(Sums a, Sums b) { return {a.first + b.first, a.second + b.second}; }

__device__ __forceinline__ Sums hashed(u64 x, u64 position) {
  const u64 key = position * 0x9E3779B97F4A7C15ull | 1;
  const u64 keyed = x + key;
  const u64 product = (keyed ^ keyed >> 32) * key;
  const u64 first = product ^ product >> 32;
  const u64 again = (first ^ key) * 0xD6E8FEB86659FD93ull;
  return {first, again ^ again >> 32};
}

__device__ __forceinline__ u64 joined(float low, float high) {
  return u64(__float_as_uint(low)) | u64(__float_as_uint(high)) << 32;
}

// partials[block] of one buffer, whose first two words have position `base`; an odd last word is joined with 0.
extern "C" __global__ void __launch_bounds__(THREADS)
    digest_blocks(const float* values, long long len, u64 base, Sums* partials) {
  const long long stride = static_cast<long long>(gridDim.x) * THREADS * 4;
  Sums sums = {0, 0};
  for (long long start = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) * 4; start < len;
       start += TURNS * stride) {
    float v[TURNS][4];
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
      const long long i = start + turn * stride;
      load_lanes(v[turn], values + i, len - i);
    }
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
      const long long i = start + turn * stride;
      const u64 position = base + u64(i / 2);
      if (i < len) sums = plus(sums, hashed(joined(v[turn][0], v[turn][1]), position));
      if (i + 2 < len) sums = plus(sums, hashed(joined(v[turn][2], v[turn][3]), position + 1));
    }
  }
  sums = over_block<THREADS>(sums, plus);
  if (threadIdx.x == 0) partials[blockIdx.x] = sums;
}

// One block: the sum of `partials`.
extern "C" __global__ void __launch_bounds__(THREADS) digest_all(const Sums* partials, int count, Sums* result) {
  Sums sums = {0, 0};
  for (int i = threadIdx.x; i < count; i += THREADS) sums = plus(sums, partials[i]);
  sums = over_block<THREADS>(sums, plus);
  if (threadIdx.x == 0) *result = sums;
}
