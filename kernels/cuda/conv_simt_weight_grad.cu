// Weight gradient of any convolution, in fp32 arithmetic: dw[kernel, kernel, C_in, C_out] = sum over output pixels of x * dy.
//
// x [samples, high, wide, C_in] and dy [pixels, C_out] in T, dw in fp32. Each sum is one chain of fmaf over the pixels of its split
// of its slice, in order; with one split of one slice it is the result, else a part, [slices, splits, weights], which
// conv_sum.cu adds up.
//
// Grid: x counts tiles of 64 (tap, C_in) x 64 C_out, those of C_out first; y the splits, z the slices. Block: 128 threads, 8 x 4
// results each; 16 pixels at a time go through shared memory, the next ones through registers meanwhile.
#include "conv.cuh"

constexpr int TILE = 64, DEPTH = 16, PITCH = TILE + 4, FETCHES = 8;

// A thread brings one of 16 pixels, and of it every eighth of 64 rows and columns.
template <typename T> struct Fetch {
  float rows[FETCHES], columns[FETCHES];
  int offsets[FETCHES], taps[FETCHES];  // of a row: elements from the first tap; (high tap, wide tap), or far outside

  __device__ __forceinline__ Fetch(const Walk& walk, int first_row) {
#pragma unroll
    for (int f = 0; f < FETCHES; ++f) {
      const int row = first_row + threadIdx.x % 8 + f * 8;
      const int tap = row / walk.source_channels, high = tap / walk.kernel, wide = tap - high * walk.kernel;
      taps[f] = high < walk.kernel ? high << 16 | wide : 0x3fff0000;
      offsets[f] = (high * walk.wide.source + wide) * walk.source_channels + row - tap * walk.source_channels;
    }
  }

  __device__ __forceinline__ void read(const Walk& walk, const T* x, const T* dy, int first_column, int pixel, int end) {
    const bool is_pixel = pixel < end;
    const Reach reach = reach_of(walk, is_pixel ? pixel : rows_of(walk));
    const T* from = x + (long long)(reach.pixel + reach.i * walk.wide.source + reach.j) * walk.source_channels;
#pragma unroll
    for (int f = 0; f < FETCHES; ++f) {
      int at;
      const bool is_there = is_inside(walk, reach, taps[f] >> 16, taps[f] & 0xffff, at);
      rows[f] = is_there ? to_float(from[offsets[f]]) : 0.f;
      const int column = first_column + threadIdx.x % 8 + f * 8;
      const bool is_column = is_pixel && column < walk.target_channels;
      columns[f] = is_column ? to_float(dy[(long long)pixel * walk.target_channels + column]) : 0.f;
    }
  }

  __device__ __forceinline__ void put(float* a, float* b) const {
    const int at = threadIdx.x / 8 * PITCH + threadIdx.x % 8;
#pragma unroll
    for (int f = 0; f < FETCHES; ++f) {
      a[at + f * 8] = rows[f];
      b[at + f * 8] = columns[f];
    }
  }
};

template <typename T>
__device__ __forceinline__ void weight_grad(const Walk& walk, const T* x, const T* dy, float* dw, int split_len) {
  SHARED_ARRAY(float, a, DEPTH * PITCH);
  SHARED_ARRAY(float, b, DEPTH * PITCH);
  const int height = walk.kernel * walk.kernel * walk.source_channels, width = walk.target_channels;
  const int tiles_wide = divide_up(width, TILE);
  const int first_row = blockIdx.x / tiles_wide * TILE, first_column = blockIdx.x % tiles_wide * TILE;
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  x += blockIdx.z * source_len(walk);
  dy += blockIdx.z * target_len(walk);
  dw += ((long long)blockIdx.z * gridDim.y + blockIdx.y) * height * width;

  float sums[8][4] = {};
  const int first = blockIdx.y * split_len, end = min(first + split_len, rows_of(walk)), mine = threadIdx.x / 8;
  Fetch<T> fetch(walk, first_row);
  fetch.read(walk, x, dy, first_column, first + mine, end);
  for (int pixel = first; pixel < end; pixel += DEPTH) {
    fetch.put(a, b);
    __syncthreads();
    if (pixel + DEPTH < end) fetch.read(walk, x, dy, first_column, pixel + DEPTH + mine, end);
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
      const float4 low = load_float4(a + d * PITCH + ty * 8), high = load_float4(a + d * PITCH + ty * 8 + 4);
      const float4 right = load_float4(b + d * PITCH + tx * 4);
      const float u[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      const float v[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(u[i], v[j], sums[i][j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = first_row + ty * 8 + i, column = first_column + tx * 4 + j;
      if (row < height && column < width) dw[(long long)row * width + column] = sums[i][j];
    }
}

extern "C" __global__ void __launch_bounds__(128)
    conv_simt_weight_grad_f32(Walk walk, const float* x, const float* dy, float* dw, int split_len) {
  weight_grad(walk, x, dy, dw, split_len);
}
extern "C" __global__ void __launch_bounds__(128)
    conv_simt_weight_grad_bf16(Walk walk, const bf16* x, const bf16* dy, float* dw, int split_len) {
  weight_grad(walk, x, dy, dw, split_len);
}
