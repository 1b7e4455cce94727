// BatchNorm, backward, in two passes over an activation [slices, rows, C]: the two sums that every row of a slice
// needs, then the rows. Kept from forward: z, y where a ReLU followed, and the statistics.
//
// Order of the sums of a slice: a thread adds its rows of its block in fp32, first to last; the block adds its threads'
// in fp32, top to bottom; the second kernel adds the blocks' in fp64: group g of GROUPS takes blocks g, g + GROUPS and
// so on, then the groups are added, first to last. How many rows a block has depends on the slice's shape alone.
//
// Bytes of DRAM for E elements of size s: reduce 4 E s (2 E s without a mask), apply 3 E s.
#include "rows.cuh"

constexpr int GROUPS = 8;

template <typename T> struct Reduce {
  T* dy;       // [slices, rows, C]
  const T* y;  // the same, if masked
  const T* z;  // the same
  const float* mean;  // of the block's channels, in shared memory
  int channels;
};

// Adds up dy and dy * (z - mean) over the thread's rows; with MASKED, dy becomes 0 before where y is not above 0.
template <bool MASKED, bool WIDE, typename T, int N>
__device__ __forceinline__ void add_rows(const Reduce<T>& op, Rows rows, float (&sums)[N], float (&products)[N]) {
  float mean[N];
  channel_numbers<T>(mean, op.mean);
  const auto add = [&](int i, float dy, float z) {
    sums[i] += dy;
    products[i] = fmaf(dy, z - mean[i], products[i]);
  };
  if constexpr (MASKED) {
    const T* const operands[] = {op.dy, op.z, op.y};
    each_row<true, WIDE>(rows, op.channels, operands, op.dy, [&](float(&v)[3][N]) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        v[0][i] = v[2][i] <= 0.f ? 0.f : v[0][i];
        add(i, v[0][i], v[1][i]);
      }
    });
  } else {
    const T* const operands[] = {op.dy, op.z};
    each_row<false, WIDE>(rows, op.channels, operands, op.dy, [&](float(&v)[2][N]) {
#pragma unroll
      for (int i = 0; i < N; ++i) add(i, v[0][i], v[1][i]);
    });
  }
}

template <typename T>
__device__ __forceinline__ void reduce(T* dy, const T* y, const T* z, const float* stats, float* partials,
                                       int slice_rows, int channels, int block_rows, int wide) {
  constexpr int N = LANES<T>;
  SHARED_ARRAY(float, mean, ROW_VECTORS * N);
  SHARED_ARRAY(float, parts, 2 * ROW_THREADS * N);  // [block's rows, 2, block's channels]
  const Rows rows = rows_of_thread<T>(slice_rows, channels, block_rows);
  share_channels<T>(mean, stats + (long long)blockIdx.z * 2 * channels, rows.group, channels);
  __syncthreads();
  float sums[N] = {}, products[N] = {};
  if (rows.valid > 0) {
    const Reduce<T> op = {dy, y, z, mean, channels};
    if (y && wide) add_rows<true, true>(op, rows, sums, products);
    else if (y) add_rows<true, false>(op, rows, sums, products);
    else if (wide) add_rows<false, true>(op, rows, sums, products);
    else add_rows<false, false>(op, rows, sums, products);
  }
  const int width = int(blockDim.x) * N;
  float* mine = parts + int(threadIdx.y) * 2 * width + int(threadIdx.x) * N;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    mine[i] = sums[i];
    mine[width + i] = products[i];
  }
  __syncthreads();
  float* partial = partials + ((long long)blockIdx.z * gridDim.x + blockIdx.x) * 2 * channels;
  const int thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  for (int i = thread; i < 2 * width; i += int(blockDim.x * blockDim.y)) {
    const int channel = rows.group + i % width;
    if (channel >= channels) continue;
    float sum = 0.f;
    for (int row = 0; row < int(blockDim.y); ++row) sum += parts[row * 2 * width + i];
    partial[i / width * channels + channel] = sum;
  }
}

// Masks dy in place where y is given, and adds up dy and dy * (z - mean) over blocks of rows: partials
// [slices, gridDim.x, 2, C]; stats [slices, 2, C]. Grid and block as in rows.cuh.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    norm_backward_reduce_f32(float* dy, const float* y, const float* z, const float* stats, float* partials,
                             int slice_rows, int channels, int block_rows, int wide) {
  reduce<float>(dy, y, z, stats, partials, slice_rows, channels, block_rows, wide);
}
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    norm_backward_reduce_bf16(bf16* dy, const bf16* y, const bf16* z, const float* stats, float* partials,
                              int slice_rows, int channels, int block_rows, int wide) {
  reduce<bf16>(dy, y, z, stats, partials, slice_rows, channels, block_rows, wide);
}

// Adds the blocks: sums[0] = sum of dy * (z - mean) / sqrt(variance + epsilon), sums[1] = sum of dy; stats, sums
// [slices, 2, C]. Grid (groups of 32 channels, slices), block (32, GROUPS).
extern "C" __global__ void norm_backward_sum(const float* __restrict__ partials, const float* __restrict__ stats,
                                             float* __restrict__ sums, int blocks, int channels, float epsilon) {
  SHARED_ARRAY(double, of_dy, GROUPS * 32);
  SHARED_ARRAY(double, of_products, GROUPS * 32);
  const int channel = int(blockIdx.x * 32 + threadIdx.x);
  const int place = int(threadIdx.y * 32 + threadIdx.x);
  double sum = 0.0, product = 0.0;
  if (channel < channels) {
    const float* partial = partials + (long long)blockIdx.y * blocks * 2 * channels + channel;
#pragma unroll 4
    for (int block = int(threadIdx.y); block < blocks; block += GROUPS) {
      sum += double(partial[(long long)block * 2 * channels]);
      product += double(partial[((long long)block * 2 + 1) * channels]);
    }
  }
  of_dy[place] = sum;
  of_products[place] = product;
  __syncthreads();
  if (threadIdx.y > 0 || channel >= channels) return;
  for (int group = 1; group < GROUPS; ++group) {
    sum += of_dy[group * 32 + threadIdx.x];
    product += of_products[group * 32 + threadIdx.x];
  }
  const long long pair = (long long)blockIdx.y * 2 * channels;
  const float inverse = 1.f / sqrtf(stats[pair + channels + channel] + epsilon);
  sums[pair + channel] = float(product * double(inverse));
  sums[pair + channels + channel] = float(sum);
}

template <typename T> struct Slope {
  const T* dy;  // [slices, rows, C]
  const T* z;   // the same
  T* dz;        // the same
  const float* shared;  // scale, mean of dy, slope, mean of z: [4, block's channels]
  int channels;
};

template <bool WIDE, typename T> __device__ __forceinline__ void apply(const Slope<T>& op, Rows rows) {
  constexpr int N = LANES<T>;
  constexpr int GROUP = ROW_VECTORS * N;
  float scale[N], dy_mean[N], slope[N], mean[N];
  channel_numbers<T>(scale, op.shared);
  channel_numbers<T>(dy_mean, op.shared + GROUP);
  channel_numbers<T>(slope, op.shared + 2 * GROUP);
  channel_numbers<T>(mean, op.shared + 3 * GROUP);
  const T* const operands[] = {op.dy, op.z};
  each_row<true, WIDE>(rows, op.channels, operands, op.dz, [&](float(&v)[2][N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) v[0][i] = scale[i] * fmaf(mean[i] - v[1][i], slope[i], v[0][i] - dy_mean[i]);
  });
}

template <typename T>
__device__ __forceinline__ void apply(const T* dy, const T* z, const float* stats, const float* gamma,
                                      const float* sums, T* dz, int slice_rows, int channels, int block_rows,
                                      float epsilon, int wide) {
  constexpr int GROUP = ROW_VECTORS * LANES<T>;
  SHARED_ARRAY(float, shared, 4 * GROUP);
  const Rows rows = rows_of_thread<T>(slice_rows, channels, block_rows);
  const long long pair = (long long)blockIdx.z * 2 * channels;
  const int thread = int(threadIdx.y * blockDim.x + threadIdx.x);
  for (int i = thread; i < min(GROUP, channels - rows.group); i += int(blockDim.x * blockDim.y)) {
    const long long at = pair + rows.group + i;
    const float inverse = 1.f / sqrtf(stats[at + channels] + epsilon);
    shared[i] = gamma[rows.group + i] * inverse;
    shared[GROUP + i] = sums[at + channels] / float(slice_rows);
    shared[2 * GROUP + i] = sums[at] / float(slice_rows) * inverse;
    shared[3 * GROUP + i] = stats[at];
  }
  __syncthreads();
  if (rows.valid <= 0) return;
  const Slope<T> op = {dy, z, dz, shared, channels};
  if (wide) apply<true>(op, rows);
  else apply<false>(op, rows);
}

// dz = gamma / sqrt(variance + epsilon) * (dy - sums[1] / rows - z_hat * sums[0] / rows); dy, z, dz [slices, rows, C],
// stats, sums [slices, 2, C], gamma [C]. Grid and block as in rows.cuh.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    norm_backward_apply_f32(const float* dy, const float* z, const float* stats, const float* gamma, const float* sums,
                            float* dz, int slice_rows, int channels, int block_rows, float epsilon, int wide) {
  apply<float>(dy, z, stats, gamma, sums, dz, slice_rows, channels, block_rows, epsilon, wide);
}
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    norm_backward_apply_bf16(const bf16* dy, const bf16* z, const float* stats, const float* gamma, const float* sums,
                             bf16* dz, int slice_rows, int channels, int block_rows, float epsilon, int wide) {
  apply<bf16>(dy, z, stats, gamma, sums, dz, slice_rows, channels, block_rows, epsilon, wide);
}
