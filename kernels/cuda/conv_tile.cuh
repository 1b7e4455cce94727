// Tiles of the tensor-core products: how shared memory holds operands, how a warp's fragments hold results, and what becomes of
// results. The fragments are those of mma.sync; wgmma's are the same for each warp, so its kernels end in the same functions.
#pragma once
#include "conv.cuh"

// A block's tile of ROWS x COLUMNS results; each warp computes WARP_ROWS x WARP_COLUMNS of them.
template <int ROWS_, int COLUMNS_, int WARP_ROWS, int WARP_COLUMNS> struct Tile {
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_;
  static constexpr int WARPS_HIGH = ROWS / WARP_ROWS, WARPS_WIDE = COLUMNS / WARP_COLUMNS;
  static constexpr int THREADS = 32 * WARPS_HIGH * WARPS_WIDE;
  static constexpr int HIGH = WARP_ROWS / 16, WIDE = WARP_COLUMNS / 8;  // fragments of a warp
  static_assert(WIDE == 4, "store and statistics take four fragments side by side");

  // The warp's first row and column in the tile.
  static __device__ __forceinline__ int warp_row() { return threadIdx.x / 32 / WARPS_WIDE * WARP_ROWS; }
  static __device__ __forceinline__ int warp_column() { return threadIdx.x / 32 % WARPS_WIDE * WARP_COLUMNS; }

  // What a thread holds: of fragment (i, j), with group = lane / 4 and pair = lane % 4 * 2, columns pair and pair + 1 of row
  // group in [0] and [1], of row group + 8 in [2] and [3].
  typedef float Sums[HIGH][WIDE][4];

  // The row in the tile that `half` of fragments (i, ...) hold.
  static __device__ __forceinline__ int row(int i, int half) {
    return warp_row() + i * 16 + half * 8 + threadIdx.x % 32 / 4;
  }
};

typedef Tile<128, 128, 64, 32> Tile128x128;
typedef Tile<128, 64, 64, 32> Tile128x64;
typedef Tile<64, 64, 32, 32> Tile64x64;

// Lines of LINE chunks of 16 bytes, the chunks of a line exchanged by its number: eight lines read at one chunk, as
// ldmatrix does it, and eight chunks written into one line, meet all 32 banks once.
template <int LINE> __device__ __forceinline__ bf16* chunk_at(bf16* lines, int line, int chunk) {
  return lines + (line * LINE + (chunk ^ (line & 7))) * 8;
}

// Lane q of four holds word q of each of four columns before, and column q after, or the other way round.
__device__ __forceinline__ void transpose_quad(u32 (&words)[4]) {
  const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const u32 other = __shfl_xor_sync(~0u, odd ? words[i] : words[i + 1], 1);
    (odd ? words[i] : words[i + 1]) = other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const u32 other = __shfl_xor_sync(~0u, upper ? words[i] : words[i + 2], 2);
    (upper ? words[i] : words[i + 2]) = other;
  }
}

// What becomes of a product's results: each, plus what was there with `add`, is rounded and stored. A functor over the
// column pairs of a row: takes of one row the pairs of four fragments side by side, [pair][low or high column], whose first
// column is `column`, and leaves in `v` what the memory holds now. All lanes of a warp call it together, with `target` null
// where there is no such row.
struct RoundAndStore {
  int columns;  // of the matrix
  bool add;

  __device__ __forceinline__ void operator()(bf16* target, int column, float (&v)[4][2]) const {
    u32 words[4] = {};
    const int mine = column + threadIdx.x % 4 * 8;
    const bool by_eight = columns % 8 == 0, is_mine = target && mine < columns;
    if (add) {
      if (by_eight) {
        if (is_mine) {
          const uint4 there = load_16(target + mine);
          words[0] = there.x, words[1] = there.y, words[2] = there.z, words[3] = there.w;
        }
        transpose_quad(words);
      } else if (target) {
        each_pair(column, [&](int pair, int half, int at) { words[pair] |= u32(target[at].bits) << 16 * half; });
      }
    }
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
      if (add) v[pair][0] += unpack_low(words[pair]), v[pair][1] += unpack_high(words[pair]);
      words[pair] = pack_bf16(v[pair][0], v[pair][1]);
      v[pair][0] = unpack_low(words[pair]), v[pair][1] = unpack_high(words[pair]);
    }
    if (by_eight) {
      transpose_quad(words);
      if (is_mine) store_16(target + mine, make_uint4(words[0], words[1], words[2], words[3]));
    } else if (target) {
      each_pair(column, [&](int pair, int half, int at) { target[at].bits = u16(words[pair] >> 16 * half); });
    }
  }

  // The thread's columns that the matrix has.
  template <typename F> __device__ __forceinline__ void each_pair(int column, F f) const {
#pragma unroll
    for (int pair = 0; pair < 4; ++pair)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = column + pair * 8 + threadIdx.x % 4 * 2 + half;
        if (at < columns) f(pair, half, at);
      }
  }
};

// Calls the epilogue for every row of a thread. `target_of_row` tells where a row of the tile lies, or null.
template <typename T, typename Epilogue, typename Target>
__device__ __forceinline__ void finish(typename T::Sums& sums, int first_column, const Epilogue& epilogue, Target target_of_row) {
#pragma unroll
  for (int i = 0; i < T::HIGH; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float v[4][2];
#pragma unroll
      for (int j = 0; j < 4; ++j) v[j][0] = sums[i][j][2 * half], v[j][1] = sums[i][j][2 * half + 1];
      epilogue(target_of_row(T::row(i, half)), first_column + T::warp_column(), v);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][j][2 * half] = v[j][0], sums[i][j][2 * half + 1] = v[j][1];
    }
}

// Sums of the tile's columns: the rows of a thread in order, then its eight lanes pairwise, then the warps in order. All
// threads of a column get the same. `scratch`: WARPS_HIGH x COLUMNS numbers of its own for each call.
template <typename T>
__device__ __forceinline__ void add_columns(float* scratch, float (&sums)[4][2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
#pragma unroll
      for (int other = 4; other < 32; other *= 2) sums[j][e] += __shfl_xor_sync(~0u, sums[j][e], other);
      const int column = T::warp_column() + j * 8 + lane % 4 * 2 + e;
      if (lane < 4) scratch[T::warp_row() / (16 * T::HIGH) * T::COLUMNS + column] = sums[j][e];
    }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float* column = scratch + T::warp_column() + j * 8 + lane % 4 * 2 + e;
      sums[j][e] = column[0];
      for (int warp = 1; warp < T::WARPS_HIGH; ++warp) sums[j][e] += column[warp * T::COLUMNS];
    }
}

// Mean and sum of squared distances of each column of a tile, over the rows for which `is_row` holds, `count` in all.
// `scratch`: 2 x WARPS_HIGH x COLUMNS numbers.
template <typename T, typename IsRow>
__device__ __forceinline__ void tile_statistics(const typename T::Sums& v, float* scratch, IsRow is_row, float count,
                                                float (&mean)[4][2], float (&squares)[4][2]) {
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      mean[j][e] = 0.f;
#pragma unroll
      for (int i = 0; i < 2 * T::HIGH; ++i) mean[j][e] += is_row(T::row(i / 2, i % 2)) ? v[i / 2][j][i % 2 * 2 + e] : 0.f;
    }
  add_columns<T>(scratch, mean);
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      mean[j][e] /= count;
      squares[j][e] = 0.f;
#pragma unroll
      for (int i = 0; i < 2 * T::HIGH; ++i) {
        const float distance = v[i / 2][j][i % 2 * 2 + e] - mean[j][e];
        squares[j][e] = is_row(T::row(i / 2, i % 2)) ? fmaf(distance, distance, squares[j][e]) : squares[j][e];
      }
    }
  add_columns<T>(scratch + T::WARPS_HIGH * T::COLUMNS, squares);
}

// The statistics of a tile to `parts` (see conv.cuh).
template <typename T, typename IsRow>
__device__ __forceinline__ void write_statistics(const typename T::Sums& v, float* scratch, IsRow is_row, int count, float* parts,
                                                 int tiles, int tile, int first_column, int columns) {
  float mean[4][2], squares[4][2];
  tile_statistics<T>(v, scratch, is_row, float(count), mean, squares);
  if (T::warp_row() > 0 || threadIdx.x % 32 >= 4) return;
#pragma unroll
  for (int j = 0; j < 4; ++j)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int column = first_column + T::warp_column() + j * 8 + threadIdx.x % 4 * 2 + e;
      if (column < columns) write_part(parts, tiles, tile, columns, column, float(count), mean[j][e], squares[j][e]);
    }
}
