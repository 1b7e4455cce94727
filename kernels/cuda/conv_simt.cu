// Forward pass and input gradient of any convolution, in fp32 arithmetic: the engine of `precision = "fp32"`, and of the
// shapes that no tensor-core engine takes.
//
// source [samples, high, wide, C] and weights [columns, kernel, kernel, padded(C)] to target [samples, high, wide, columns], all
// T; which pixel of which, the walk says. Each result is one chain of fmaf over the walk's taps in row order and the padded
// channels of each, whatever the tile. With `add` it is added to what the target holds. With `parts`, statistics of the
// rounded results of each tile (see conv.cuh).
//
// Grid: x counts tiles of 64 rows x 64 columns, columns first; y is the slice, whose rows a tile never leaves. Block: 128 threads,
// 8 x 4 results each; slices of 16 of the long axis go through shared memory, the next one through registers meanwhile.
#include "conv.cuh"

constexpr int TILE = 64, DEPTH = 16, PITCH = TILE + 4, THREADS = 128, FETCHES = TILE * DEPTH / THREADS;

// What a thread brings into shared memory: place `tid % 16` of the long axis, of 8 rows and of 8 columns.
template <typename T> struct Fetch {
  float rows[FETCHES], columns[FETCHES];

  __device__ __forceinline__ void read(const Walk& walk, const T* source, const T* weights, const Reach* reaches, int first_column,
                                       int k) {
    const int pitch = padded(walk.source_channels);
    const int tap = k / pitch, channel = k - tap * pitch;
    const int high_tap = tap / walk.wide.taps, wide_tap = tap - high_tap * walk.wide.taps;
    const bool is_weight = high_tap < walk.high.taps, is_channel = is_weight && channel < walk.source_channels;
    const int weight = weight_of(walk, high_tap, wide_tap) + channel, row_len = walk.kernel * walk.kernel * pitch;
#pragma unroll
    for (int f = 0; f < FETCHES; ++f) {
      const int line = threadIdx.x / DEPTH + f * (THREADS / DEPTH), column = first_column + line;
      int pixel;
      const bool is_there = is_inside(walk, reaches[line], high_tap, wide_tap, pixel) && is_channel;
      rows[f] = is_there ? to_float(source[(long long)pixel * walk.source_channels + channel]) : 0.f;
      const bool is_column = is_weight && column < walk.target_channels;
      columns[f] = is_column ? to_float(weights[(long long)column * row_len + weight]) : 0.f;
    }
  }

  __device__ __forceinline__ void put(float* a, float* b) const {
    const int at = threadIdx.x % DEPTH * PITCH + threadIdx.x / DEPTH;
#pragma unroll
    for (int f = 0; f < FETCHES; ++f) {
      a[at + f * (THREADS / DEPTH)] = rows[f];
      b[at + f * (THREADS / DEPTH)] = columns[f];
    }
  }
};

// Column sums over the tile: 8 rows of a thread, then the 8 threads of a column, each in ascending order.
__device__ __forceinline__ void add_rows(float* shared, const float (&mine)[4], float (&sums)[4]) {
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  __syncthreads();
#pragma unroll
  for (int j = 0; j < 4; ++j) shared[ty * TILE + tx * 4 + j] = mine[j];
  __syncthreads();
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    sums[j] = 0.f;
    for (int y = 0; y < 8; ++y) sums[j] += shared[y * TILE + tx * 4 + j];
  }
}

__device__ __forceinline__ void statistics(const Walk& walk, float* parts, float* shared, const float (&v)[8][4], int first_row,
                                           int first_column) {
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16, rows = min(TILE, rows_of(walk) - first_row);
  float mine[4] = {}, mean[4], squares[4];
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) mine[j] += ty * 8 + i < rows ? v[i][j] : 0.f;
  add_rows(shared, mine, mean);
#pragma unroll
  for (int j = 0; j < 4; ++j) mean[j] /= float(rows), mine[j] = 0.f;
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float distance = v[i][j] - mean[j];
      mine[j] = ty * 8 + i < rows ? fmaf(distance, distance, mine[j]) : mine[j];
    }
  add_rows(shared, mine, squares);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int column = first_column + tx * 4 + j;
    if (ty == 0 && column < walk.target_channels)
      write_part(parts, divide_up(rows_of(walk), TILE), first_row / TILE, walk.target_channels, column, float(rows), mean[j],
                 squares[j]);
  }
}

template <typename T>
__device__ __forceinline__ void product(const Walk& walk, const T* source, const T* weights, T* target, int add, float* parts) {
  SHARED_ARRAY(Reach, reaches, TILE);
  SHARED_ARRAY(float, a, DEPTH * PITCH);
  SHARED_ARRAY(float, b, DEPTH * PITCH);
  const int tiles_wide = divide_up(walk.target_channels, TILE);
  const int first_row = blockIdx.x / tiles_wide * TILE, first_column = blockIdx.x % tiles_wide * TILE;
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  source += blockIdx.y * source_len(walk);
  target += blockIdx.y * target_len(walk);
  if (threadIdx.x < TILE) reaches[threadIdx.x] = reach_of(walk, first_row + threadIdx.x);
  __syncthreads();

  float sums[8][4] = {};
  const int length = walk.high.taps * walk.wide.taps * padded(walk.source_channels), place = threadIdx.x % DEPTH;
  Fetch<T> fetch;
  if (length > 0) fetch.read(walk, source, weights, reaches, first_column, place);
  for (int k = 0; k < length; k += DEPTH) {
    fetch.put(a, b);
    __syncthreads();
    if (k + DEPTH < length) fetch.read(walk, source, weights, reaches, first_column, k + DEPTH + place);
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
      const float4 low = load_float4(a + d * PITCH + ty * 8), high = load_float4(a + d * PITCH + ty * 8 + 4);
      const float4 right = load_float4(b + d * PITCH + tx * 4);
      const float x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      const float w[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(x[i], w[j], sums[i][j]);
    }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int row = first_row + ty * 8 + i;
    if (row >= rows_of(walk)) continue;
    T* to = target + target_of(walk, row) + first_column;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int column = tx * 4 + j;
      if (first_column + column >= walk.target_channels) continue;
      if (add) sums[i][j] += to_float(to[column]);
      round_to(to[column], sums[i][j]);
      sums[i][j] = to_float(to[column]);
    }
  }
  if (parts) statistics(walk, parts, a, sums, first_row, first_column);
}

extern "C" __global__ void __launch_bounds__(128)
    conv_simt_f32(Walk walk, const float* source, const float* weights, float* target, int add, float* parts) {
  product(walk, source, weights, target, add, parts);
}
extern "C" __global__ void __launch_bounds__(128)
    conv_simt_bf16(Walk walk, const bf16* source, const bf16* weights, bf16* target, int add, float* parts) {
  product(walk, source, weights, target, add, parts);
}
