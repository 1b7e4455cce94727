// Max pooling and global average pooling over images [N, H, W, C].
//
// Backward of max pooling needs x and y, and no other record of where the maxima were: an input pixel looks at all
// windows that it lies in, first to last, and asks whether an earlier pixel of the window is as large. Sums: dx over
// these windows, row by row; the mean over pixels, first to last; both in fp32, and both of one image alone.
//
// Bytes of DRAM for X and Y elements of size s: max pooling (X + Y) s, backward 2 (X + Y) s, average X s.
#include "vectors.cuh"

// Pixels of a window whose loads are on their way at once: a row of the usual one.
constexpr int COLUMNS_AHEAD = 3;

// All the same for each image, whose elements an int counts. The host passes eight ints in this order.
struct MaxPool {
  int height, width, channels, kernel, stride, pad, out_height, out_width;
};

// A window's pixels inside the image: rows top to bottom, columns left to right, the last ones excluded.
struct Window {
  int top, bottom, left, right;
};

__device__ __forceinline__ Window window_of(const MaxPool& pool, int out_row, int out_column) {
  const int row = out_row * pool.stride - pool.pad, column = out_column * pool.stride - pool.pad;
  return {max(row, 0), min(row + pool.kernel, pool.height), max(column, 0), min(column + pool.kernel, pool.width)};
}

// What a thread works on: a vector of channels of a pixel of image blockIdx.y.
struct Place {
  int row, column, channel;
  int valid;  // lanes that are channels; none past the last pixel
};

template <typename T> __device__ __forceinline__ Place place_of_thread(int height, int width, int channels) {
  const int vectors = (channels + LANES<T> - 1) / LANES<T>;
  const int index = int(blockIdx.x * blockDim.x + threadIdx.x);
  const int pixel = index / vectors, channel = index % vectors * LANES<T>;
  return {pixel / width, pixel % width, channel, pixel < height * width ? channels - channel : 0};
}

template <bool WIDE, typename T> __device__ __forceinline__ void max_forward(const T* x, T* y, const MaxPool& pool) {
  const Place at = place_of_thread<T>(pool.out_height, pool.out_width, pool.channels);
  if (at.valid <= 0) return;
  x += (long long)blockIdx.y * pool.height * pool.width * pool.channels + at.channel;
  y += (long long)blockIdx.y * pool.out_height * pool.out_width * pool.channels + at.channel;
  const Window window = window_of(pool, at.row, at.column);
  float largest[LANES<T>];
#pragma unroll
  for (int i = 0; i < LANES<T>; ++i) largest[i] = -__uint_as_float(0x7F800000u);
  for (int row = window.top; row < window.bottom; ++row) {
    for (int first = window.left; first < window.right; first += COLUMNS_AHEAD) {
      uint4 raw[COLUMNS_AHEAD];
#pragma unroll
      for (int a = 0; a < COLUMNS_AHEAD; ++a)
        if (first + a < window.right)
          raw[a] = load_vector<WIDE>(x + (row * pool.width + first + a) * pool.channels, at.valid);
#pragma unroll
      for (int a = 0; a < COLUMNS_AHEAD; ++a) {
        if (first + a >= window.right) continue;
        float v[LANES<T>];
        unpack<T>(v, raw[a]);
#pragma unroll
        for (int i = 0; i < LANES<T>; ++i)
          if (v[i] > largest[i] || v[i] != v[i]) largest[i] = v[i];  // NaN wins, so that a diverged run is seen
      }
    }
  }
  store_vector<WIDE>(y + (at.row * pool.out_width + at.column) * pool.channels, largest, at.valid);
}

// y[n, oh, ow, c] = the largest of its window. x, y [N, H, W, C]. A thread per vector of an output pixel; grid (blocks
// of an image, N). `wide` as in vectors.cuh.
extern "C" __global__ void __launch_bounds__(256)
    max_pool_forward_f32(const float* x, float* y, MaxPool pool, int wide) {
  if (wide) max_forward<true>(x, y, pool);
  else max_forward<false>(x, y, pool);
}
extern "C" __global__ void __launch_bounds__(256)
    max_pool_forward_bf16(const bf16* x, bf16* y, MaxPool pool, int wide) {
  if (wide) max_forward<true>(x, y, pool);
  else max_forward<false>(x, y, pool);
}

// Of the lanes in `first`, those where no pixel of the window before (row, column) equals `y`.
template <bool WIDE, typename T>
__device__ __forceinline__ u32 still_first(u32 first, const T* x, const float (&y)[LANES<T>], const Window& window,
                                           const Place& at, const MaxPool& pool) {
  for (int row = window.top; row <= at.row && first; ++row) {
    const int right = row == at.row ? at.column : window.right;
    for (int column = window.left; column < right && first; ++column) {
      float v[LANES<T>];
      unpack<T>(v, load_vector<WIDE>(x + (row * pool.width + column) * pool.channels, at.valid));
#pragma unroll
      for (int i = 0; i < LANES<T>; ++i)
        if (v[i] == y[i]) first &= ~(1u << i);
    }
  }
  return first;
}

template <bool WIDE, typename T>
__device__ __forceinline__ void max_backward(const T* x, const T* y, const T* dy, T* dx, const MaxPool& pool) {
  const Place at = place_of_thread<T>(pool.height, pool.width, pool.channels);
  if (at.valid <= 0) return;
  x += (long long)blockIdx.y * pool.height * pool.width * pool.channels + at.channel;
  y += (long long)blockIdx.y * pool.out_height * pool.out_width * pool.channels + at.channel;
  dy += (long long)blockIdx.y * pool.out_height * pool.out_width * pool.channels + at.channel;
  const int pixel = (at.row * pool.width + at.column) * pool.channels;
  float mine[LANES<T>], sums[LANES<T>] = {};
  unpack<T>(mine, load_vector<WIDE>(x + pixel, at.valid));
  // Windows that start at or before this pixel and end behind it.
  const int row = at.row + pool.pad, column = at.column + pool.pad;
  const int first_row = max(row - pool.kernel + pool.stride, 0) / pool.stride;
  const int first_column = max(column - pool.kernel + pool.stride, 0) / pool.stride;
  const int last_row = min(row / pool.stride, pool.out_height - 1);
  const int last_column = min(column / pool.stride, pool.out_width - 1);
  for (int out_row = first_row; out_row <= last_row; ++out_row) {
    for (int out_column = first_column; out_column <= last_column; ++out_column) {
      const int out = (out_row * pool.out_width + out_column) * pool.channels;
      float largest[LANES<T>], gradient[LANES<T>];
      unpack<T>(largest, load_vector<WIDE>(y + out, at.valid));
      unpack<T>(gradient, load_vector<WIDE>(dy + out, at.valid));
      u32 first = 0;
#pragma unroll
      for (int i = 0; i < LANES<T>; ++i) first |= (mine[i] == largest[i] ? 1u : 0u) << i;
      first = still_first<WIDE>(first, x, largest, window_of(pool, out_row, out_column), at, pool);
#pragma unroll
      for (int i = 0; i < LANES<T>; ++i)
        if (first >> i & 1u) sums[i] += gradient[i];
    }
  }
  dx += (long long)blockIdx.y * pool.height * pool.width * pool.channels + at.channel;
  store_vector<WIDE>(dx + pixel, sums, at.valid);
}

// The gradient of each window goes to its first maximum, in row order; to nobody where the maximum is NaN. x, dx
// [N, H, W, C], y, dy [N, OH, OW, C]. A thread per vector of an input pixel; grid (blocks of an image, N). Two blocks a
// processor: aiming at more, the compiler keeps fewer registers than it needs.
extern "C" __global__ void __launch_bounds__(256, 2)
    max_pool_backward_f32(const float* x, const float* y, const float* dy, float* dx, MaxPool pool, int wide) {
  if (wide) max_backward<true>(x, y, dy, dx, pool);
  else max_backward<false>(x, y, dy, dx, pool);
}
extern "C" __global__ void __launch_bounds__(256, 2)
    max_pool_backward_bf16(const bf16* x, const bf16* y, const bf16* dy, bf16* dx, MaxPool pool, int wide) {
  if (wide) max_backward<true>(x, y, dy, dx, pool);
  else max_backward<false>(x, y, dy, dx, pool);
}

template <bool WIDE, typename T>
__device__ __forceinline__ void average_forward(const T* __restrict__ x, float* __restrict__ y, int pixels,
                                                int channels) {
  const Place at = place_of_thread<T>(1, 1, channels);
  if (at.valid <= 0) return;
  x += (long long)blockIdx.y * pixels * channels + at.channel;
  y += (long long)blockIdx.y * channels + at.channel;
  float sums[LANES<T>] = {};
#pragma unroll 8
  for (int pixel = 0; pixel < pixels; ++pixel) {
    float v[LANES<T>];
    unpack<T>(v, load_vector<WIDE>(x + pixel * channels, at.valid));
#pragma unroll
    for (int i = 0; i < LANES<T>; ++i) sums[i] += v[i];
  }
#pragma unroll
  for (int i = 0; i < LANES<T>; ++i)
    if (i < at.valid) y[i] = sums[i] / float(pixels);
}

// y[n, c] = sum over pixels of x[n, pixel, c] / pixels. x [N, pixels, C], y [N, C] fp32. A thread per vector of
// channels; grid (blocks of an image's channels, N).
extern "C" __global__ void __launch_bounds__(256)
    average_pool_forward_f32(const float* x, float* y, int pixels, int channels, int wide) {
  if (wide) average_forward<true>(x, y, pixels, channels);
  else average_forward<false>(x, y, pixels, channels);
}
extern "C" __global__ void __launch_bounds__(256)
    average_pool_forward_bf16(const bf16* x, float* y, int pixels, int channels, int wide) {
  if (wide) average_forward<true>(x, y, pixels, channels);
  else average_forward<false>(x, y, pixels, channels);
}

template <bool WIDE, typename T>
__device__ __forceinline__ void average_backward(const float* dy, T* dx, int pixels, int channels) {
  const Place at = place_of_thread<T>(1, 1, channels);
  if (at.valid <= 0) return;
  dy += (long long)blockIdx.y * channels + at.channel;
  dx += (long long)blockIdx.y * pixels * channels + at.channel;
  float v[LANES<T>];
#pragma unroll
  for (int i = 0; i < LANES<T>; ++i) v[i] = i < at.valid ? dy[i] / float(pixels) : 0.f;
  for (int pixel = int(threadIdx.y); pixel < pixels; pixel += int(blockDim.y))
    store_vector<WIDE>(dx + pixel * channels, v, at.valid);
}

// dx[n, pixel, c] = dy[n, c] / pixels. dx [N, pixels, C], dy [N, C] fp32. A thread per vector of channels and every
// blockDim.y-th pixel; grid (blocks of an image's channels, N).
extern "C" __global__ void __launch_bounds__(256)
    average_pool_backward_f32(const float* dy, float* dx, int pixels, int channels, int wide) {
  if (wide) average_backward<true>(dy, dx, pixels, channels);
  else average_backward<false>(dy, dx, pixels, channels);
}
extern "C" __global__ void __launch_bounds__(256)
    average_pool_backward_bf16(const float* dy, bf16* dx, int pixels, int channels, int wide) {
  if (wide) average_backward<true>(dy, dx, pixels, channels);
  else average_backward<false>(dy, dx, pixels, channels);
}
