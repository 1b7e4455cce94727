// Forward pass and input gradient in bf16 on tensor cores (mma.sync): a product of matrices whose left one is gathered
// from an image on the way into shared memory.
//
// source [samples, high, wide, C], C a multiple of 8, and weights [columns, kernel, kernel, C] to target [samples, high, wide,
// columns], all bf16; which pixel of which, the walk says. Sums are fp32: over the walk's taps in row order and the channels of
// each, 16 at a time in the order of the tensor core, whatever the tile. Epilogue: RoundAndStore, and with `parts` the
// statistics of the rounded results of each tile.
//
// Grid: x counts tiles, columns first, so that blocks side by side read the same rows; y is the slice, whose rows a tile never
// leaves. Block: the tile's threads. STAGES slices of DEPTH of the long axis are on their way by cp.async; taps that lie
// outside, and what is behind the last row, column or tap, become zeros there. A thread brings one chunk of 8 channels of every
// eighth or sixteenth row, so the place of its rows is found once, and that of its chunk moves on by addition.
// Predicted bytes: source and target once, weights once (L2 serves the other tiles).
#include "conv_tile.cuh"

constexpr int DEPTH = 64, CHUNKS = DEPTH / 8, STAGES = 3;

// The place of a thread's chunk on the long axis: channels [8 * chunk, 8 * chunk + 8) of a tap.
struct Cursor {
  int chunk, high_tap, wide_tap;

  // Behind the last chunk of a tap stands the first of the next one.
  __device__ __forceinline__ void forward(const Walk& walk, int chunks) {
    chunk += chunks;
    while (chunk >= walk.source_channels / 8) {
      chunk -= walk.source_channels / 8;
      if (++wide_tap == walk.wide.taps) wide_tap = 0, ++high_tap;
    }
  }
};

// Brings a tile's operands into shared memory, a slice of DEPTH at a time.
template <typename T> struct Loader {
  static constexpr int LINES = T::THREADS / CHUNKS, HIGH = T::ROWS / LINES, WIDE = T::COLUMNS / LINES;
  const bf16 *source, *weights;
  Reach rows[HIGH];
  Cursor cursor;
  int first_column;

  __device__ __forceinline__ Loader(const Walk& walk, const bf16* source, const bf16* weights, int first_row, int first_column)
      : source(source), weights(weights), cursor{0, 0, 0}, first_column(first_column) {
#pragma unroll
    for (int i = 0; i < HIGH; ++i) rows[i] = reach_of(walk, first_row + threadIdx.x / CHUNKS + i * LINES);
    cursor.forward(walk, threadIdx.x % CHUNKS);
  }

  __device__ __forceinline__ void load(const Walk& walk, bf16* a, bf16* b) {
    const int line = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    const bool is_tap = cursor.high_tap < walk.high.taps;
#pragma unroll
    for (int i = 0; i < HIGH; ++i) {
      int pixel;
      const bool is_there = is_inside(walk, rows[i], cursor.high_tap, cursor.wide_tap, pixel) && is_tap;
      const bf16* from = source + (long long)pixel * walk.source_channels + cursor.chunk * 8;
      cp_async_16(chunk_at<CHUNKS>(a, line + i * LINES, chunk), is_there ? from : source, is_there);
    }
    const int weight = weight_of(walk, cursor.high_tap, cursor.wide_tap) + cursor.chunk * 8;
    const int row_len = walk.kernel * walk.kernel * walk.source_channels;
#pragma unroll
    for (int i = 0; i < WIDE; ++i) {
      const int column = first_column + line + i * LINES;
      const bool is_there = is_tap && column < walk.target_channels;
      const bf16* from = weights + (long long)column * row_len + weight;
      cp_async_16(chunk_at<CHUNKS>(b, line + i * LINES, chunk), is_there ? from : weights, is_there);
    }
    cursor.forward(walk, CHUNKS);
  }
};

// Adds the products of one slice of DEPTH.
template <typename T> __device__ __forceinline__ void multiply(bf16* a, bf16* b, typename T::Sums& sums) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < DEPTH / 16; ++k) {
    u32 left[T::HIGH][4], right[T::WIDE / 2][4];
#pragma unroll
    for (int i = 0; i < T::HIGH; ++i)
      ldmatrix_x4(left[i], chunk_at<CHUNKS>(a, T::warp_row() + i * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
    for (int j = 0; j < T::WIDE / 2; ++j)
      ldmatrix_x4(right[j], chunk_at<CHUNKS>(b, T::warp_column() + j * 16 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
#pragma unroll
    for (int i = 0; i < T::HIGH; ++i)
#pragma unroll
      for (int j = 0; j < T::WIDE; ++j) {
        const u32 pair[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
        mma_m16n8k16_bf16(sums[i][j], left[i], pair);
      }
  }
}

template <typename T>
__device__ __forceinline__ void product(const Walk& walk, const bf16* source, const bf16* weights, bf16* target, int add,
                                        float* parts) {
  DYNAMIC_SHARED(shared);
  bf16* const a = reinterpret_cast<bf16*>(shared);
  bf16* const b = a + STAGES * T::ROWS * DEPTH;
  const int tiles_wide = divide_up(walk.target_channels, T::COLUMNS), rows = rows_of(walk);
  const int tile = blockIdx.x / tiles_wide, first_row = tile * T::ROWS;
  const int first_column = blockIdx.x % tiles_wide * T::COLUMNS;
  target += blockIdx.y * target_len(walk);

  Loader<T> loader(walk, source + blockIdx.y * source_len(walk), weights, first_row, first_column);
  const int slices = divide_up(walk.high.taps * walk.wide.taps * walk.source_channels, DEPTH);
  const auto load = [&](int slice) {
    const int stage = slice % STAGES;
    if (slice < slices) loader.load(walk, a + stage * T::ROWS * DEPTH, b + stage * T::COLUMNS * DEPTH);
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
    multiply<T>(a + stage * T::ROWS * DEPTH, b + stage * T::COLUMNS * DEPTH, sums);
  }
  cp_async_wait<0>();

  const RoundAndStore epilogue{walk.target_channels, add != 0};
  finish<T>(sums, first_column, epilogue, [&](int row) -> bf16* {
    return first_row + row < rows ? target + target_of(walk, first_row + row) : nullptr;
  });
  if (!parts) return;
  __syncthreads();
  const int count = min(T::ROWS, rows - first_row);
  write_statistics<T>(
      sums, reinterpret_cast<float*>(shared), [&](int row) { return row < count; }, count, parts, divide_up(rows, T::ROWS), tile,
      first_column, walk.target_channels);
}

extern "C" __global__ void __launch_bounds__(256, 2) conv_mma_128x128(Walk walk, const bf16* source, const bf16* weights,
                                                                      bf16* target, int add, float* parts) {
  product<Tile128x128>(walk, source, weights, target, add, parts);
}
extern "C" __global__ void __launch_bounds__(128, 3) conv_mma_128x64(Walk walk, const bf16* source, const bf16* weights,
                                                                     bf16* target, int add, float* parts) {
  product<Tile128x64>(walk, source, weights, target, add, parts);
}
extern "C" __global__ void __launch_bounds__(128, 4) conv_mma_64x64(Walk walk, const bf16* source, const bf16* weights,
                                                                    bf16* target, int add, float* parts) {
  product<Tile64x64>(walk, source, weights, target, add, parts);
}
