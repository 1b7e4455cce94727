// The sum of the squares of each span's elements, in fp64: what L2 norms are the roots of.
//
// `sums_of_squares_blocks`: a block of 256 threads for each 8192 elements of a span, counted from the span's own start.
// Thread t adds up elements 4t to 4t + 3 of each 1024 in their order, the threads are added over the binary tree of
// their numbers. `sums_of_squares_spans`: a block for each span; thread t adds up blocks t, t + 256, ..., then the tree
// again. So the order depends on the span's length alone.
// DRAM: 4 bytes an element.
#include "block.cuh"
#include "lanes.cuh"
#include "spans.cuh"

constexpr int THREADS = 256;
constexpr int BLOCK = 8192;  // as in src/cuda/sums_of_squares.rs
constexpr int ROUNDS = BLOCK / THREADS / 4;

__device__ __forceinline__ double plus(double a, double b) { return a + b; }

// partials: [blocks of all spans].
extern "C" __global__ void __launch_bounds__(THREADS)
    sums_of_squares_blocks(const float* values, const CutSpan* spans, int count, double* partials) {
  const CutSpan span = spans[span_of(spans, count, blockIdx.x)];
  const long long first = (blockIdx.x - span.first_block) * BLOCK;
  const float* block = values + span.start + first;
  float v[ROUNDS][4];
#pragma unroll
  for (int i = 0; i < ROUNDS; ++i) {
    const int at = (i * THREADS + threadIdx.x) * 4;
    load_lanes(v[i], block + at, span.len - first - at);
  }
  double sum = 0.0;
#pragma unroll
  for (int i = 0; i < ROUNDS; ++i)
#pragma unroll
    for (int k = 0; k < 4; ++k) sum += static_cast<double>(v[i][k]) * v[i][k];  // the product is exact
  sum = over_block<THREADS>(sum, plus);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// sums: [spans]; an empty one has the sum 0.
extern "C" __global__ void __launch_bounds__(THREADS)
    sums_of_squares_spans(const double* partials, const CutSpan* spans, double* sums) {
  const CutSpan span = spans[blockIdx.x];
  const int blocks = int((span.len + BLOCK - 1) / BLOCK);
  double sum = 0.0;
  for (int i = threadIdx.x; i < blocks; i += THREADS) sum += partials[span.first_block + i];
  sum = over_block<THREADS>(sum, plus);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
