// Weight gradient in bf16 on tensor cores (mma.sync): dw[kernel, kernel, C_in, C_out] = sum over output pixels of x * dy.
//
// x [samples, high, wide, C_in] and dy [pixels, C_out] in bf16, both numbers of channels multiples of 8; dw in fp32. Each sum is
// over the pixels of its split of its slice, in order, 16 at a time in the order of the tensor core; with one split of one
// slice it is the result, else a part, [slices, splits, weights], which conv_sum.cu adds up.
//
// Both operands lie pixel by pixel, so they are transposed on the way from shared memory (ldmatrix.trans).
//
// Grid: x counts tiles of (tap, C_in) x C_out, those of C_out first; y the splits, z the slices. Block: the tile's threads. STAGES
// slices of DEPTH pixels are on their way by cp.async. A thread brings one chunk of 8 channels (of a tap) of some pixels, whose
// places it carries along by addition.
// Predicted bytes: x and dy once (L2 serves the other tiles and taps), 8 bytes for each weight, split and slice.
#include "conv_tile.cuh"

constexpr int DEPTH = 32, STAGES = 4;

// Adds the products of one slice of DEPTH pixels.
template <typename T> __device__ __forceinline__ void multiply(bf16* a, bf16* b, typename T::Sums& sums) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < DEPTH; k += 16) {
    u32 left[T::HIGH][4], right[T::WIDE / 2][4];
#pragma unroll
    for (int i = 0; i < T::HIGH; ++i)
      ldmatrix_x4_trans(left[i], chunk_at<T::ROWS / 8>(a, k + lane % 8 + lane / 16 * 8, T::warp_row() / 8 + 2 * i + lane / 8 % 2));
#pragma unroll
    for (int j = 0; j < T::WIDE / 2; ++j)
      ldmatrix_x4_trans(right[j], chunk_at<T::COLUMNS / 8>(b, k + lane % 16, T::warp_column() / 8 + 2 * j + lane / 16));
#pragma unroll
    for (int i = 0; i < T::HIGH; ++i)
#pragma unroll
      for (int j = 0; j < T::WIDE; ++j) {
        const u32 pair[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
        mma_m16n8k16_bf16(sums[i][j], left[i], pair);
      }
  }
}

// Brings the chunk of a tap and 8 input channels of every LINES-th pixel: the left operand.
template <typename T> struct InputLoader {
  static constexpr int CHUNKS = T::ROWS / 8, LINES = T::THREADS / CHUNKS, FETCHES = DEPTH / LINES;
  const bf16* x;
  int high_tap, wide_tap, channel;
  bool is_weight;
  Place step;            // DEPTH pixels
  Place place[FETCHES];  // of the next pixels

  __device__ __forceinline__ InputLoader(const Walk& walk, const bf16* x, int first_row, int first_pixel) : x(x) {
    const int row = first_row + threadIdx.x % CHUNKS * 8, tap = row / walk.source_channels;
    high_tap = tap / walk.kernel, wide_tap = tap - high_tap * walk.kernel;
    channel = row - tap * walk.source_channels;
    is_weight = high_tap < walk.kernel;
    step = place_of(walk, DEPTH);
#pragma unroll
    for (int f = 0; f < FETCHES; ++f) place[f] = place_of(walk, first_pixel + threadIdx.x / CHUNKS + f * LINES);
  }

  // Pixels [pixel, pixel + DEPTH), those from `end` on as zeros.
  __device__ __forceinline__ void load(const Walk& walk, bf16* a, int pixel, int end) {
#pragma unroll
    for (int f = 0; f < FETCHES; ++f) {
      const int line = threadIdx.x / CHUNKS + f * LINES;
      Place& at = place[f];
      const int i = at.i * walk.high.step + walk.high.origin + high_tap, j = at.j * walk.wide.step + walk.wide.origin + wide_tap;
      const bool is_inside = u32(i) < u32(walk.high.source) && u32(j) < u32(walk.wide.source);
      const bool is_there = is_inside && is_weight && pixel + line < end;
      const long long from = ((long long)at.sample * walk.high.source + i) * walk.wide.source + j;
      cp_async_16(chunk_at<CHUNKS>(a, line, threadIdx.x % CHUNKS), is_there ? x + from * walk.source_channels + channel : x, is_there);
      at.j += step.j, at.i += step.i, at.sample += step.sample;
      if (at.j >= walk.wide.rows) at.j -= walk.wide.rows, ++at.i;
      if (at.i >= walk.high.rows) at.i -= walk.high.rows, ++at.sample;
    }
  }
};

// Brings the right operand: 8 output channels of every LINES-th pixel.
template <typename T> __device__ __forceinline__ void load_output(const Walk& walk, const bf16* dy, bf16* b, int first_column, int pixel, int end) {
  constexpr int CHUNKS = T::COLUMNS / 8, LINES = T::THREADS / CHUNKS;
  const int column = first_column + threadIdx.x % CHUNKS * 8;
#pragma unroll
  for (int line = threadIdx.x / CHUNKS; line < DEPTH; line += LINES) {
    const bool is_there = pixel + line < end && column < walk.target_channels;
    const long long from = (long long)(pixel + line) * walk.target_channels + column;
    cp_async_16(chunk_at<CHUNKS>(b, line, threadIdx.x % CHUNKS), is_there ? dy + from : dy, is_there);
  }
}

template <typename T>
__device__ __forceinline__ void weight_grad(const Walk& walk, const bf16* x, const bf16* dy, float* dw, int split_len) {
  DYNAMIC_SHARED(shared);
  bf16* const a = reinterpret_cast<bf16*>(shared);
  bf16* const b = a + STAGES * DEPTH * T::ROWS;
  const int height = walk.kernel * walk.kernel * walk.source_channels, width = walk.target_channels;
  const int tiles_wide = divide_up(width, T::COLUMNS);
  const int first_row = blockIdx.x / tiles_wide * T::ROWS, first_column = blockIdx.x % tiles_wide * T::COLUMNS;
  const int first = blockIdx.y * split_len, end = min(first + split_len, rows_of(walk));
  x += blockIdx.z * source_len(walk);
  dy += blockIdx.z * target_len(walk);
  dw += ((long long)blockIdx.z * gridDim.y + blockIdx.y) * height * width;

  InputLoader<T> input(walk, x, first_row, first);
  const int slices = divide_up(end - first, DEPTH);
  const auto load = [&](int slice) {
    const int stage = slice % STAGES, pixel = first + slice * DEPTH;
    if (slice < slices) {
      input.load(walk, a + stage * DEPTH * T::ROWS, pixel, end);
      load_output<T>(walk, dy, b + stage * DEPTH * T::COLUMNS, first_column, pixel, end);
    }
    cp_async_commit();
  };
  for (int slice = 0; slice < STAGES - 1; ++slice) load(slice);
  typename T::Sums sums = {};
  for (int slice = 0; slice < slices; ++slice) {
    cp_async_wait<STAGES - 2>();
    // Behind it the slice is there for all, and nobody reads the stage that is filled next.
    __syncthreads();
    load(slice + STAGES - 1);
    const int stage = slice % STAGES;
    multiply<T>(a + stage * DEPTH * T::ROWS, b + stage * DEPTH * T::COLUMNS, sums);
  }
  cp_async_wait<0>();

#pragma unroll
  for (int i = 0; i < 2 * T::HIGH; ++i) {
    const int row = first_row + T::row(i / 2, i % 2);
#pragma unroll
    for (int j = 0; j < T::WIDE; ++j) {
      const int column = first_column + T::warp_column() + j * 8 + threadIdx.x % 4 * 2;
      const float* pair = sums[i / 2][j] + i % 2 * 2;
      if (row < height && column < width)
        *reinterpret_cast<float2*>(dw + (long long)row * width + column) = make_float2(pair[0], pair[1]);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_mma_weight_grad_128x128(Walk walk, const bf16* x, const bf16* dy, float* dw, int split_len) {
  weight_grad<Tile128x128>(walk, x, dy, dw, split_len);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    conv_mma_weight_grad_128x64(Walk walk, const bf16* x, const bf16* dy, float* dw, int split_len) {
  weight_grad<Tile128x64>(walk, x, dy, dw, split_len);
}
extern "C" __global__ void __launch_bounds__(128, 4)
    conv_mma_weight_grad_64x64(Walk walk, const bf16* x, const bf16* dy, float* dw, int split_len) {
  weight_grad<Tile64x64>(walk, x, dy, dw, split_len);
}
