// Weight gradient of a network's first convolution in bf16 on tensor cores: few input channels, kernels of up to 8 rows of up to 32
// numbers, any stride and pad.
//
// x [samples, high, wide, C] and dy [pixels, C_out] in bf16, C_out a multiple of 8, to dw [kernel, kernel, C, C_out] in fp32. Each sum is
// over the tiles of 8 x 16 output pixels of its split of its slice, in order, and over a tile's pixels row by row, 16 at a
// time in the order of the tensor core. One split of one slice is the result, more are parts for conv_sum.cu.
//
// Grid: x counts tiles of 64 output channels, y the splits, z the slices. Block: a warp for each kernel row, which holds that
// row of dw.
// Predicted bytes: x and dy once, 8 bytes for each weight, split and slice.
#include "conv_stem.cuh"

constexpr int COLUMNS = 64, PIXELS = STEM_HIGH * STEM_WIDE, HIGH = 2, WIDE = COLUMNS / 8;

// Two numbers of output pixels side by side.
__device__ __forceinline__ u32 two_pixels(const bf16* at, int pixel) { return u32(at[0].bits) | u32(at[pixel].bits) << 16; }

__device__ __forceinline__ void load_output(const Walk& walk, const StemTile& tile, const bf16* dy, bf16* b) {
  const int chunk = threadIdx.x % 8, column = blockIdx.x * COLUMNS + chunk * 8;
  for (int line = threadIdx.x / 8; line < PIXELS; line += blockDim.x / 8) {
    int pixel;
    const bool is_there = tile.has(walk, line, pixel) && column < walk.target_channels;
    const long long from = (long long)pixel * walk.target_channels + column;
    cp_async_16(chunk_at<8>(b, line, chunk), is_there ? dy + from : dy, is_there);
  }
}

extern "C" __global__ void __launch_bounds__(256, 2)
    conv_stem_weight_grad(Walk walk, const bf16* x, const bf16* dy, float* dw, int split_len) {
  DYNAMIC_SHARED(shared);
  const Stem stem(walk);
  bf16* const b = reinterpret_cast<bf16*>(shared);
  bf16* const patch = b + PIXELS * COLUMNS;
  const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4 * 2, kh = threadIdx.x / 32;
  x += blockIdx.z * source_len(walk);
  dy += blockIdx.z * target_len(walk);

  float sums[HIGH][WIDE][4] = {};
  const int first = blockIdx.y * split_len, end = min(first + split_len, stem.tiles(walk));
  for (int number = first; number < end; ++number) {
    const StemTile tile(stem, number);
    load_output(walk, tile, dy, b);
    cp_async_commit();
    load_patch(walk, stem, tile, x, patch, blockDim.x / 32);
    cp_async_wait<0>();
    __syncthreads();
    for (int i = 0; i < STEM_HIGH; ++i) {
      u32 right[WIDE / 2][4];
#pragma unroll
      for (int j = 0; j < WIDE / 2; ++j)
        ldmatrix_x4_trans(right[j], chunk_at<8>(b, i * STEM_WIDE + lane % 16, 2 * j + lane / 16));
#pragma unroll
      for (int h = 0; h < HIGH; ++h) {
        if (h * 16 >= stem.row_len) break;
        const bf16* at = patch + (i * walk.high.step + kh) * stem.pitch + pair * stem.pixel + h * 16 + group;
        const bf16* later = at + 8 * stem.pixel;
        const u32 left[4] = {two_pixels(at, stem.pixel), two_pixels(at + 8, stem.pixel), two_pixels(later, stem.pixel),
                             two_pixels(later + 8, stem.pixel)};
#pragma unroll
        for (int j = 0; j < WIDE; ++j) {
          const u32 two[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
          mma_m16n8k16_bf16(sums[h][j], left, two);
        }
      }
    }
    __syncthreads();
  }

  dw += (((long long)blockIdx.z * gridDim.y + blockIdx.y) * walk.kernel + kh) * stem.row * walk.target_channels;
#pragma unroll
  for (int h = 0; h < 2 * HIGH; ++h) {
    const int row = h * 8 + group;
#pragma unroll
    for (int j = 0; j < WIDE; ++j) {
      const int column = blockIdx.x * COLUMNS + j * 8 + pair;
      const float* two = sums[h / 2][j] + h % 2 * 2;
      if (row < stem.row && column < walk.target_channels)
        *reinterpret_cast<float2*>(dw + (long long)row * walk.target_channels + column) = make_float2(two[0], two[1]);
    }
  }
}
