// The fully connected layer, fp32 throughout: y = x w + bias and its three gradients. x, dx [N, I], w, dw [I, O],
// y, dy [N, O], bias, d_bias [O]. Each product of two matrices is made in tiles of 64x64 results by 256 threads with
// 4x4 each, from shared memory, 16 terms at a time; blocks: (tiles across, tiles down).
//
// Order: every result is one chain of multiply-adds, first term to last. Gradients of weight and bias are such a chain
// for each slice; slices are then added over their binary tree, 0 to 1, 2 to 3, then these two sums, and so on.
//
// Bytes of DRAM: every operand and result once, 4 (N I + I O + N O) for each product. From N = 64 or so on arithmetic
// is what takes the time.
#include "portable.cuh"

constexpr int TILE = 64;
constexpr int DEPTH = 16;
constexpr int THREADS = 256;
constexpr int PADDED = TILE + 4;  // keeps the rows of a tile apart in the banks
constexpr int EACH = TILE * DEPTH / THREADS;
constexpr int LEVELS = 5;  // of the tree of at most 32 slices

// A factor: `count` rows (columns, of the right one) that the result has, each a run of terms. Two neighbours of a
// factor that is TERMS_INNER are terms of one row, of another, rows of one term; `stride` leads to the other neighbour.
struct Factor {
  const float* p;
  int stride, count;
};

template <bool TERMS_INNER>
__device__ __forceinline__ void load_part(float (&part)[EACH], const Factor& factor, int first, int term, int end) {
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    const int element = int(threadIdx.x) + i * THREADS;
    const int row = first + (TERMS_INNER ? element / DEPTH : element % TILE);
    const int t = term + (TERMS_INNER ? element % DEPTH : element / TILE);
    const long long at = TERMS_INNER ? (long long)row * factor.stride + t : (long long)t * factor.stride + row;
    part[i] = row < factor.count && t < end ? factor.p[at] : 0.f;
  }
}

template <bool TERMS_INNER> __device__ __forceinline__ void share_part(float* tile, const float (&part)[EACH]) {
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    const int element = int(threadIdx.x) + i * THREADS;
    const int row = TERMS_INNER ? element / DEPTH : element % TILE;
    const int t = TERMS_INNER ? element % DEPTH : element / TILE;
    tile[t * PADDED + row] = part[i];
  }
}

// The block's tiles of both factors, [DEPTH, PADDED] each, in shared memory.
struct Tiles {
  float *left, *right;
};

// Continues the chains of this thread's 4x4 results by the terms from `term` to `end`.
template <bool LEFT_INNER, bool RIGHT_INNER>
__device__ __forceinline__ void add_terms(float (&sums)[4][4], const Factor& left, const Factor& right, Tiles tiles,
                                          int term, int end) {
  const int down = int(blockIdx.y) * TILE, across = int(blockIdx.x) * TILE;
  float left_part[EACH], right_part[EACH];
  load_part<LEFT_INNER>(left_part, left, down, term, end);
  load_part<RIGHT_INNER>(right_part, right, across, term, end);
  for (; term < end; term += DEPTH) {
    __syncthreads();
    share_part<LEFT_INNER>(tiles.left, left_part);
    share_part<RIGHT_INNER>(tiles.right, right_part);
    __syncthreads();
    load_part<LEFT_INNER>(left_part, left, down, term + DEPTH, end);
    load_part<RIGHT_INNER>(right_part, right, across, term + DEPTH, end);
#pragma unroll
    for (int t = 0; t < DEPTH; ++t) {
      const float4 a = load_float4(tiles.left + t * PADDED + int(threadIdx.x) / 16 * 4);
      const float4 b = load_float4(tiles.right + t * PADDED + int(threadIdx.x) % 16 * 4);
      const float row[4] = {a.x, a.y, a.z, a.w}, column[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(row[i], column[j], sums[i][j]);
    }
  }
}

// Calls f(row, column, sum) for those of the thread's results that there are.
template <typename F>
__device__ __forceinline__ void each_result(const float (&sums)[4][4], int rows, int columns, F f) {
  const int row = int(blockIdx.y) * TILE + int(threadIdx.x) / 16 * 4;
  const int column = int(blockIdx.x) * TILE + int(threadIdx.x) % 16 * 4;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (row + i < rows && column + j < columns) f(row + i, column + j, sums[i][j]);
}

// y[n, o] = sum over i of x[n, i] * w[i, o], first to last, + bias[o].
extern "C" __global__ void __launch_bounds__(THREADS)
    linear_forward(const float* x, const float* w, const float* bias, float* y, int batch, int inputs, int outputs) {
  SHARED_ARRAY(float, left, DEPTH * PADDED);
  SHARED_ARRAY(float, right, DEPTH * PADDED);
  float sums[4][4] = {};
  add_terms<true, false>(sums, {x, inputs, batch}, {w, outputs, outputs}, {left, right}, 0, inputs);
  each_result(sums, batch, outputs, [&](int n, int o, float sum) { y[(long long)n * outputs + o] = sum + bias[o]; });
}

// dx[n, i] = sum over o of dy[n, o] * w[i, o], first to last.
extern "C" __global__ void __launch_bounds__(THREADS)
    linear_input_grad(const float* dy, const float* w, float* dx, int batch, int inputs, int outputs) {
  SHARED_ARRAY(float, left, DEPTH * PADDED);
  SHARED_ARRAY(float, right, DEPTH * PADDED);
  float sums[4][4] = {};
  add_terms<true, true>(sums, {dy, outputs, batch}, {w, outputs, inputs}, {left, right}, 0, outputs);
  each_result(sums, batch, inputs, [&](int n, int i, float sum) { dx[(long long)n * inputs + i] = sum; });
}

// dw[i, o] = tree over slices of the sum over a slice's n of x[n, i] * dy[n, o], first to last. A thread keeps the sums
// of whole subtrees until their neighbours are there: `subtrees[l]` is of 2^l slices. After the last slice the sum is
// of all.
extern "C" __global__ void __launch_bounds__(THREADS)
    linear_weight_grad(const float* x, const float* dy, float* dw, int slices, int slice_batch, int inputs,
                       int outputs) {
  SHARED_ARRAY(float, left, DEPTH * PADDED);
  SHARED_ARRAY(float, right, DEPTH * PADDED);
  float sums[4][4], subtrees[LEVELS][4][4] = {};
  for (int slice = 0; slice < slices; ++slice) {
#pragma unroll
    for (int e = 0; e < 16; ++e) sums[e / 4][e % 4] = 0.f;
    add_terms<false, false>(sums, {x, inputs, inputs}, {dy, outputs, outputs}, {left, right}, slice * slice_batch,
                            (slice + 1) * slice_batch);
    bool is_left = false;
#pragma unroll
    for (int level = 0; level < LEVELS; ++level) {
      if (is_left) continue;
      is_left = (slice >> level & 1) == 0;
#pragma unroll
      for (int e = 0; e < 16; ++e) {
        float& sum = sums[e / 4][e % 4];
        float& subtree = subtrees[level][e / 4][e % 4];
        if (is_left) subtree = sum;
        else sum = subtree + sum;
      }
    }
  }
  each_result(sums, inputs, outputs, [&](int i, int o, float sum) { dw[(long long)i * outputs + o] = sum; });
}

// d_bias[o] = tree over slices of the sum over a slice's n of dy[n, o], first to last. Block (32 outputs, slices).
extern "C" __global__ void linear_bias_grad(const float* dy, float* d_bias, int slice_batch, int outputs) {
  SHARED_ARRAY(float, sums, 32 * 32);
  const int output = int(blockIdx.x * 32 + threadIdx.x), slice = int(threadIdx.y), slices = int(blockDim.y);
  float sum = 0.f;
  if (output < outputs) {
    const float* p = dy + (long long)slice * slice_batch * outputs + output;
#pragma unroll 8
    for (int n = 0; n < slice_batch; ++n) sum += p[(long long)n * outputs];
  }
  float* mine = sums + slice * 32 + int(threadIdx.x);
  *mine = sum;
  for (int apart = 1; apart < slices; apart *= 2) {
    __syncthreads();
    if (slice % (2 * apart) == 0) *mine += mine[apart * 32];
  }
  if (slice == 0 && output < outputs) d_bias[output] = *mine;
}
