// How the threads of a grid share an activation [slices, rows, C], `rows` those of one slice.
//
// grid: (blocks of rows, groups of 32 vectors of channels, slices); block: (vectors, rows), at most ROW_THREADS. A
// vector is what vectors.cuh takes at once. A thread has one vector in every blockDim.y-th row of its block.
#pragma once
#include "vectors.cuh"

constexpr int ROW_THREADS = 256;
constexpr int ROW_VECTORS = 32;
// Rows of a thread whose loads are on their way at once.
constexpr int ROWS_AHEAD = 4;

struct Rows {
  int group;    // first channel of the block
  int channel;  // first channel of the thread
  int valid;    // its channels that exist; with none, it has nothing to do
  long long begin, end;  // rows, counted over all slices: begin, begin + blockDim.y, ...
};

template <typename T> __device__ __forceinline__ Rows rows_of_thread(int slice_rows, int channels, int block_rows) {
  Rows rows;
  rows.group = int(blockIdx.y) * ROW_VECTORS * LANES<T>;
  rows.channel = rows.group + int(threadIdx.x) * LANES<T>;
  rows.valid = channels - rows.channel;
  const long long slice = (long long)blockIdx.z * slice_rows;
  const int first = int(blockIdx.x) * block_rows;
  rows.begin = slice + first + int(threadIdx.y);
  rows.end = slice + min(first + block_rows, slice_rows);
  return rows;
}

// The channels of a block, of a vector [C], in shared memory: `channel_numbers` of a thread are found there behind a
// barrier.
template <typename T>
__device__ __forceinline__ void share_channels(float* shared, const float* vector, int group, int channels) {
  const int thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  const int count = min(ROW_VECTORS * LANES<T>, channels - group);
  for (int i = thread; i < count; i += int(blockDim.x * blockDim.y)) shared[i] = vector[group + i];
}

template <typename T>
__device__ __forceinline__ void channel_numbers(float (&v)[LANES<T>], const float* shared) {
#pragma unroll
  for (int i = 0; i < LANES<T>; ++i) v[i] = shared[int(threadIdx.x) * LANES<T> + i];
}

// Calls f(v) for each row of the thread, first to last: v[operand][lane] in fp32. With STORED, v[0] is then what goes
// to `into`, which may be where an operand is. Loads of some rows are issued before the first of them is stored: the
// compiler can't see that no store meets them.
template <bool STORED, bool WIDE, typename T, int OPERANDS, typename F>
__device__ __forceinline__ void each_row(const Rows& rows, int channels, const T* const (&operands)[OPERANDS], T* into,
                                         F f) {
  constexpr int N = LANES<T>;
  const int step = int(blockDim.y);
  for (long long first = rows.begin; first < rows.end; first += ROWS_AHEAD * step) {
    uint4 raw[ROWS_AHEAD][OPERANDS];
#pragma unroll
    for (int a = 0; a < ROWS_AHEAD; ++a) {
      if (first + a * step >= rows.end) continue;
      const long long at = (first + a * step) * channels + rows.channel;
#pragma unroll
      for (int o = 0; o < OPERANDS; ++o) raw[a][o] = load_vector<WIDE>(operands[o] + at, rows.valid);
    }
#pragma unroll
    for (int a = 0; a < ROWS_AHEAD; ++a) {
      if (first + a * step >= rows.end) continue;
      float v[OPERANDS][N];
#pragma unroll
      for (int o = 0; o < OPERANDS; ++o) unpack<T>(v[o], raw[a][o]);
      f(v);
      if constexpr (STORED)
        store_vector<WIDE>(into + (first + a * step) * channels + rows.channel, v[0], rows.valid);
    }
  }
}
