// Forward pass of a network's first convolution in bf16 on tensor cores: few input channels, any kernel, stride and pad.
//
// x [samples, high, wide, C] and packed weights [columns, kernel, kernel, 8] (C < 8) to y [samples, high, wide, columns], all bf16.
// Sums are fp32, over [kernel, kernel * C] with each kernel row rounded up to 16 by zeros, 16 at a time in the order of the
// tensor core. Epilogue as in conv_mma.cu.
//
// Grid: x counts runs of RUN tiles of 8 x 16 output pixels, y the slices, z tiles of 64 columns. Block: 128 threads. The weights go to
// shared memory once for a run.
// Predicted bytes: x and y once (neighbouring tiles' borders come from L2).
#include "conv_stem.cuh"

typedef Tile128x64 Shape;
constexpr int RUN = 8;  // also in src/cuda/conv/engine.rs

// Weights of the block's columns, lines of [kernel, row_len] and 8 more, so that eight lines lie in different banks.
__device__ __forceinline__ void load_weights(const Walk& walk, const Stem& stem, const bf16* weights, bf16* b, int pitch) {
  for (int line = threadIdx.x / 32; line < Shape::COLUMNS; line += Shape::THREADS / 32) {
    const int column = blockIdx.z * Shape::COLUMNS + line;
    for (int kh = 0; kh < walk.kernel; ++kh)
      for (int at = threadIdx.x % 32; at < stem.row_len; at += 32) {
        const int kw = at / walk.source_channels, c = at - kw * walk.source_channels;
        const bool is_there = column < walk.target_channels && kw < walk.kernel;
        const int from = (column * walk.kernel + kh) * walk.kernel + kw;
        b[line * pitch + kh * stem.row_len + at].bits = is_there ? weights[(long long)from * 8 + c].bits : u16(0);
      }
  }
}

// Two numbers side by side.
template <bool EVEN> __device__ __forceinline__ u32 two_at(const bf16* at) {
  if constexpr (EVEN) return *reinterpret_cast<const u32*>(at);
  return u32(at[0].bits) | u32(at[1].bits) << 16;
}

// EVEN: output pixels are an even number of inputs apart, so two numbers are one aligned word.
template <bool EVEN>
__device__ __forceinline__ void multiply(const Walk& walk, const Stem& stem, const bf16* patch, bf16* b, int pitch, Shape::Sums& sums) {
  const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4 * 2;
  for (int kh = 0; kh < walk.kernel; ++kh)
    for (int k = 0; k < stem.row_len; k += 16) {
      // Behind the row's end a window's neighbour would be multiplied by zero, which keeps its NaN.
      u32 mask[2];
      for (int half = 0; half < 2; ++half) {
        const int left = stem.row - (k + pair + 8 * half);
        mask[half] = left >= 2 ? ~0u : left == 1 ? 0xFFFFu : 0u;
      }
      u32 right[2][4];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int line = Shape::warp_column() + j * 16 + lane % 8 + lane / 16 * 8;
        ldmatrix_x4(right[j], b + line * pitch + kh * stem.row_len + k + lane / 8 % 2 * 8);
      }
#pragma unroll
      for (int i = 0; i < Shape::HIGH; ++i) {
        const int line = (Shape::warp_row() / STEM_WIDE + i) * walk.high.step + kh;
        const bf16* at = patch + line * stem.pitch + group * stem.pixel + k + pair;
        const bf16* lower = at + 8 * stem.pixel;
        const u32 left[4] = {two_at<EVEN>(at) & mask[0], two_at<EVEN>(lower) & mask[0], two_at<EVEN>(at + 8) & mask[1],
                             two_at<EVEN>(lower + 8) & mask[1]};
#pragma unroll
        for (int j = 0; j < Shape::WIDE; ++j) {
          const u32 two[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
          mma_m16n8k16_bf16(sums[i][j], left, two);
        }
      }
    }
}

template <bool EVEN>
__device__ __forceinline__ void product(const Walk& walk, const bf16* x, const bf16* weights, bf16* y, int add, float* parts) {
  static_assert(STEM_WIDE == 16 && STEM_HIGH * STEM_WIDE == Shape::ROWS, "a fragment's rows are side by side");
  DYNAMIC_SHARED(shared);
  const Stem stem(walk);
  const int pitch = walk.kernel * stem.row_len + 8, first_column = blockIdx.z * Shape::COLUMNS;
  bf16* const b = reinterpret_cast<bf16*>(shared);
  bf16* const patch = b + Shape::COLUMNS * pitch;
  float* const scratch = reinterpret_cast<float*>(patch + stem.lines * stem.pitch);
  x += blockIdx.y * source_len(walk);
  y += blockIdx.y * target_len(walk);
  load_weights(walk, stem, weights, b, pitch);
  const int tiles = stem.tiles(walk), end = min(int(blockIdx.x + 1) * RUN, tiles);
  for (int number = blockIdx.x * RUN; number < end; ++number) {
    const StemTile tile(stem, number);
    load_patch(walk, stem, tile, x, patch, Shape::THREADS / 32);
    __syncthreads();
    Shape::Sums sums = {};
    multiply<EVEN>(walk, stem, patch, b, pitch, sums);
    __syncthreads();
    const RoundAndStore epilogue{walk.target_channels, add != 0};
    finish<Shape>(sums, first_column, epilogue, [&](int row) -> bf16* {
      int pixel;
      return tile.has(walk, row, pixel) ? y + (long long)pixel * walk.target_channels : nullptr;
    });
    if (!parts) continue;
    const auto is_row = [&](int row) {
      int pixel;
      return tile.has(walk, row, pixel);
    };
    write_statistics<Shape>(sums, scratch, is_row, tile.count(walk), parts, tiles, number, first_column, walk.target_channels);
  }
}

extern "C" __global__ void __launch_bounds__(128, 3) conv_stem_even(Walk walk, const bf16* source, const bf16* weights,
                                                                    bf16* target, int add, float* parts) {
  product<true>(walk, source, weights, target, add, parts);
}
extern "C" __global__ void __launch_bounds__(128, 3) conv_stem_odd(Walk walk, const bf16* source, const bf16* weights,
                                                                   bf16* target, int add, float* parts) {
  product<false>(walk, source, weights, target, add, parts);
}
