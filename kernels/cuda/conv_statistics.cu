// Statistics of the channels of a convolution's result from those of its tiles: [slices, tiles, 3, C] (count, mean, sum of squared
// distances from the mean) to [slices, 2, C] (mean, biased variance), and a step on the way there for many tiles.
//
// Of parts with counts n, means m and sums s: the mean is sum(n m) / sum(n), the sum is sum(s + n (m - mean)^2): the formula
// of Chan, Golub and LeVeque for many parts at once. In fp64; each of 8 lanes adds every eighth part in ascending order,
// then the lanes are added in order.
//
// Grid: x counts 32 channels, y the slices, z (first step) groups of GROUP tiles. Block: 32 channels x 8 lanes.
#include "conv.cuh"

constexpr int LANES = 8, GROUP = 64;  // GROUP: also in src/cuda/conv/statistics.rs

struct Part {
  double count, mean, squares;
};

// Adds a number of each lane; all get the sum.
__device__ __forceinline__ double add_lanes(double* shared, double mine) {
  __syncthreads();
  shared[threadIdx.y * 32 + threadIdx.x] = mine;
  __syncthreads();
  double sum = 0;
  for (int lane = 0; lane < LANES; ++lane) sum += shared[lane * 32 + threadIdx.x];
  return sum;
}

__device__ __forceinline__ Part merge(const float* parts, int from, int to, int channels, int channel) {
  SHARED_ARRAY(double, shared, 32 * LANES);
  if (channel >= channels) to = from;  // goes along for the barriers
  const long long pitch = 3ll * channels;
  double count = 0, sum = 0, squares = 0;
  for (int part = from + threadIdx.y; part < to; part += LANES) {
    const float* at = parts + part * pitch + channel;
    count += at[0];
    sum += double(at[0]) * at[channels];
  }
  count = add_lanes(shared, count);
  const double mean = add_lanes(shared, sum) / count;
  for (int part = from + threadIdx.y; part < to; part += LANES) {
    const float* at = parts + part * pitch + channel;
    const double distance = at[channels] - mean;
    squares += at[2 * channels] + at[0] * distance * distance;
  }
  return {count, mean, add_lanes(shared, squares)};
}

extern "C" __global__ void __launch_bounds__(256)
    conv_statistics_group(const float* parts, float* groups, int tiles, int channels) {
  const int channel = blockIdx.x * 32 + threadIdx.x, first = blockIdx.z * GROUP;
  const Part part = merge(parts + (long long)blockIdx.y * tiles * 3 * channels, first, min(first + GROUP, tiles), channels, channel);
  if (threadIdx.y || channel >= channels) return;
  write_part(groups, gridDim.z, blockIdx.z, channels, channel, float(part.count), float(part.mean), float(part.squares));
}

extern "C" __global__ void __launch_bounds__(256) conv_statistics(const float* parts, float* stats, int tiles, int channels) {
  const int channel = blockIdx.x * 32 + threadIdx.x;
  const Part part = merge(parts + (long long)blockIdx.y * tiles * 3 * channels, 0, tiles, channels, channel);
  if (threadIdx.y || channel >= channels) return;
  float* to = stats + (long long)blockIdx.y * 2 * channels + channel;
  to[0] = float(part.mean);
  to[channels] = float(part.squares / part.count);
}
