// What the convolutions share. Each is a product of matrices: the forward pass and the input gradient have a row for each
// pixel of the result, a column for each of its channels, and add over taps and channels of the source (a "walk" says
// where a row's taps lie); the weight gradient has a row for each tap and input channel, a column for each output channel,
// and adds over pixels.
#pragma once
#include "portable.cuh"

// One axis, height or width, of a walk.
struct Axis {
  int rows;                                // rows of the product along this axis
  int source;                              // extent of the image that is gathered from
  int step, origin, direction;             // tap t of row r is source pixel r * step + origin + t * direction
  int taps;                                // taps that this walk has
  int weight_origin, weight_step;          // tap t of the walk is weight_origin + t * weight_step of the kernel
  int target, target_step, target_origin;  // row r is target pixel r * target_step + target_origin of so many
};

// From the pixels of one image to those of another; the host fills it in (src/cuda/conv/walk.rs).
struct Walk {
  Axis high, wide;
  int samples;  // of one slice
  int source_channels, target_channels;
  int kernel;  // taps of the packed weights along an axis
};

__device__ __forceinline__ int divide_up(int a, int b) { return (a + b - 1) / b; }
__device__ __forceinline__ int padded(int channels) { return divide_up(channels, 8) * 8; }

// Rows of one slice.
__device__ __forceinline__ int rows_of(const Walk& walk) { return walk.samples * walk.high.rows * walk.wide.rows; }

// Elements of one slice's images.
__device__ __forceinline__ long long source_len(const Walk& walk) {
  return (long long)walk.samples * walk.high.source * walk.wide.source * walk.source_channels;
}
__device__ __forceinline__ long long target_len(const Walk& walk) {
  return (long long)walk.samples * walk.high.target * walk.wide.target * walk.target_channels;
}

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(bf16 v) { return bf16_to_float(v); }
__device__ __forceinline__ void round_to(float& to, float v) { to = v; }
__device__ __forceinline__ void round_to(bf16& to, float v) { to = float_to_bf16(v); }

// A row as sample and place; what a division finds out once.
struct Place {
  int sample, i, j;
};

__device__ __forceinline__ Place place_of(const Walk& walk, int row) {
  const int pixels = walk.high.rows * walk.wide.rows;
  const int sample = row / pixels, pixel = row - sample * pixels;
  const int i = pixel / walk.wide.rows;
  return {sample, i, pixel - i * walk.wide.rows};
}

// Where a row's taps begin in the source. `pixel` counts those of the slice before its sample; a row past the end has
// every tap outside.
struct Reach {
  int pixel, i, j;
};

__device__ __forceinline__ Reach reach_of(const Walk& walk, int row) {
  if (row >= rows_of(walk)) return {0, -(1 << 14), 0};
  const Place at = place_of(walk, row);
  return {at.sample * walk.high.source * walk.wide.source, at.i * walk.high.step + walk.high.origin,
          at.j * walk.wide.step + walk.wide.origin};
}

// Whether a tap lies inside the source, and at which pixel of the slice.
__device__ __forceinline__ bool is_inside(const Walk& walk, const Reach& row, int high_tap, int wide_tap, int& pixel) {
  const int i = row.i + high_tap * walk.high.direction, j = row.j + wide_tap * walk.wide.direction;
  pixel = row.pixel + i * walk.wide.source + j;
  return u32(i) < u32(walk.high.source) && u32(j) < u32(walk.wide.source);
}

// The first element, in its slice, of what a row writes.
__device__ __forceinline__ long long target_of(const Walk& walk, int row) {
  const Place at = place_of(walk, row);
  const int i = at.i * walk.high.target_step + walk.high.target_origin;
  const int j = at.j * walk.wide.target_step + walk.wide.target_origin;
  const int pixel = (at.sample * walk.high.target + i) * walk.wide.target + j;
  return (long long)pixel * walk.target_channels;
}

// The first element of a tap in a packed row of weights, [kernel, kernel, padded(source channels)].
__device__ __forceinline__ int weight_of(const Walk& walk, int high_tap, int wide_tap) {
  const int i = walk.high.weight_origin + high_tap * walk.high.weight_step;
  const int j = walk.wide.weight_origin + wide_tap * walk.wide.weight_step;
  return (i * walk.kernel + j) * padded(walk.source_channels);
}

// Statistics of the columns of a tile of rows, [slices, tiles, 3, channels]: how many rows, their mean, and the sum of
// squared distances from it. conv_statistics.cu merges the tiles of a slice.
__device__ __forceinline__ void write_part(float* parts, int tiles, int tile, int channels, int column, float count,
                                           float mean, float squares) {
  float* part = parts + ((long long)blockIdx.y * tiles + tile) * 3 * channels + column;
  part[0] = count;
  part[channels] = mean;
  part[2 * channels] = squares;
}
