// Plain passes over memory, every element for itself: `add`, `lerp`, `fill`, `sum_slices`, and the search for the first
// element that is no number.
//
// A thread takes sixteen bytes of each operand, whatever the length; blocks of 256. `sum_slices` adds
// [slices, len] over the binary tree of slices, ((0 + 1) + (2 + 3)) + ..., in registers. The search keeps the smallest
// index: which block found it makes no difference.
// DRAM: what the operands hold, each once.
#include "block.cuh"
#include "lanes.cuh"

constexpr int THREADS = 256;

__device__ __forceinline__ long long first_lane(int lanes) {
  return (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) * lanes;
}

template <typename T> __device__ __forceinline__ void add(T* into, const T* from, long long len) {
  const long long i = first_lane(LANES<T>);
  if (i >= len) return;
  float a[LANES<T>], b[LANES<T>];
  load_lanes(a, into + i, len - i);
  load_lanes(b, from + i, len - i);
#pragma unroll
  for (int k = 0; k < LANES<T>; ++k) a[k] += b[k];
  store_lanes(into + i, a, len - i);
}

template <typename T> __device__ __forceinline__ void fill(T* into, float value, long long len) {
  const long long i = first_lane(LANES<T>);
  if (i >= len) return;
  float v[LANES<T>];
#pragma unroll
  for (int k = 0; k < LANES<T>; ++k) v[k] = value;
  store_lanes(into + i, v, len - i);
}

// Loads that are on their way at once: a thread waits when it uses the first.
constexpr int TOGETHER = 8;

template <int SLICES>
__device__ __forceinline__ void tree(float (&sum)[4], const float* from, long long len, long long left) {
  if constexpr (SLICES <= TOGETHER) {
    float v[SLICES][4];
#pragma unroll
    for (int s = 0; s < SLICES; ++s) load_lanes(v[s], from + s * len, left);
#pragma unroll
    for (int step = 1; step < SLICES; step *= 2)
#pragma unroll
      for (int s = 0; s < SLICES; s += 2 * step)
#pragma unroll
        for (int k = 0; k < 4; ++k) v[s][k] += v[s + step][k];
#pragma unroll
    for (int k = 0; k < 4; ++k) sum[k] = v[0][k];
  } else {
    float right[4];
    tree<SLICES / 2>(sum, from, len, left);
    tree<SLICES / 2>(right, from + SLICES / 2 * len, len, left);
#pragma unroll
    for (int k = 0; k < 4; ++k) sum[k] += right[k];
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) add_f32(float* into, const float* from, long long len) {
  add(into, from, len);
}
extern "C" __global__ void __launch_bounds__(THREADS) add_bf16(bf16* into, const bf16* from, long long len) {
  add(into, from, len);
}
extern "C" __global__ void __launch_bounds__(THREADS) fill_f32(float* into, float value, long long len) {
  fill(into, value, len);
}
extern "C" __global__ void __launch_bounds__(THREADS) fill_bf16(bf16* into, float value, long long len) {
  fill(into, value, len);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    lerp_f32(float* into, const float* toward, float weight, long long len) {
  const long long i = first_lane(4);
  if (i >= len) return;
  float a[4], b[4];
  load_lanes(a, into + i, len - i);
  load_lanes(b, toward + i, len - i);
#pragma unroll
  for (int k = 0; k < 4; ++k) a[k] = fmaf(weight, b[k] - a[k], a[k]);
  store_lanes(into + i, a, len - i);
}

// `slices` is a power of two up to 32.
extern "C" __global__ void __launch_bounds__(THREADS)
    sum_slices_f32(const float* from, float* into, int slices, long long len) {
  const long long i = first_lane(4);
  if (i >= len) return;
  float sum[4];
  switch (slices) {
    case 1: tree<1>(sum, from + i, len, len - i); break;
    case 2: tree<2>(sum, from + i, len, len - i); break;
    case 4: tree<4>(sum, from + i, len, len - i); break;
    case 8: tree<8>(sum, from + i, len, len - i); break;
    case 16: tree<16>(sum, from + i, len, len - i); break;
    default: tree<32>(sum, from + i, len, len - i); break;
  }
  store_lanes(into + i, sum, len - i);
}

// No index is larger: there is none.
constexpr u64 NONE = ~0ull;
constexpr int TURNS = 4;

__device__ __forceinline__ u64 smaller(u64 a, u64 b) { return a < b ? a : b; }

// firsts[block]: of the elements that the blocks' threads take in turns.
extern "C" __global__ void __launch_bounds__(THREADS)
    first_non_finite_blocks(const float* values, long long len, u64* firsts) {
  const long long stride = static_cast<long long>(gridDim.x) * THREADS * 4;
  u64 first = NONE;
  for (long long start = first_lane(4); start < len; start += TURNS * stride) {
    float v[TURNS][4];
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn) {
      const long long i = start + turn * stride;
      load_lanes(v[turn], values + i, len - i);
    }
#pragma unroll
    for (int turn = 0; turn < TURNS; ++turn)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const bool is_finite = (__float_as_uint(v[turn][k]) & 0x7FFFFFFFu) < 0x7F800000u;
        if (!is_finite) first = smaller(first, u64(start + turn * stride + k));
      }
  }
  first = over_block<THREADS>(first, smaller);
  if (threadIdx.x == 0) firsts[blockIdx.x] = first;
}

// One block: the smallest of `firsts`.
extern "C" __global__ void __launch_bounds__(THREADS) first_non_finite_all(const u64* firsts, int count, u64* result) {
  u64 first = NONE;
  for (int i = threadIdx.x; i < count; i += THREADS) first = smaller(first, firsts[i]);
  first = over_block<THREADS>(first, smaller);
  if (threadIdx.x == 0) *result = first;
}
