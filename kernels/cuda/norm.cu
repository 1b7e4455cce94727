// BatchNorm, forward: scale and shift of each channel, the pass over an activation with residual and ReLU, and the
// running statistics. Statistics of a batch come from the convolution that made the activation.
//
// Nothing is summed here: every number depends on its own operands alone, whatever the grid.
#include "rows.cuh"

// affine[0] = gamma / sqrt(variance + epsilon), affine[1] = beta - mean * affine[0].
// stats, affine [slices, 2, C], gamma, beta [C]. A thread per channel of a slice.
extern "C" __global__ void norm_affine(const float* __restrict__ stats, const float* __restrict__ gamma,
                                       const float* __restrict__ beta, float* __restrict__ affine, int slices,
                                       int channels, float epsilon) {
  const int index = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (index >= slices * channels) return;
  const int channel = index % channels;
  const long long at = (long long)(index / channels) * 2 * channels + channel;
  const float inverse = 1.f / sqrtf(stats[at + channels] + epsilon);
  const float scale = gamma[channel] * inverse;
  affine[at] = scale;
  affine[at + channels] = fmaf(-stats[at], scale, beta[channel]);
}

// running += momentum * (sum / slices * factor - running); running, sums [2, C]; the factor of means is 1, that of
// variances `unbiased`. A thread per number.
extern "C" __global__ void norm_update_running(float* __restrict__ running, const float* __restrict__ sums,
                                               int channels, float slices, float unbiased, float momentum) {
  const int index = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (index >= 2 * channels) return;
  const float batch = sums[index] / slices * (index < channels ? 1.f : unbiased);
  running[index] = fmaf(momentum, batch - running[index], running[index]);
}

// What is added to the normalised activation: nothing, an activation, or one that is normalised, too.
enum Added { NOTHING, PLAIN, NORMALISED };

// NaN stays.
__device__ __forceinline__ float at_least(float floor, float v) { return v < floor ? floor : v; }

template <typename T> struct Apply {
  const T* z;      // [slices, rows, C]
  const T* other;  // the same, unless NOTHING is added
  T* y;            // the same
  const float* shared;  // scale, shift, and those of `other`: [4, block's channels]
  int channels;
  float floor;  // 0 for ReLU, else minus infinity
};

template <Added ADDED, bool WIDE, typename T> __device__ __forceinline__ void apply(const Apply<T>& op, Rows rows) {
  constexpr int N = LANES<T>;
  constexpr int GROUP = ROW_VECTORS * N;
  float scale[N], shift[N], other_scale[N], other_shift[N];
  channel_numbers<T>(scale, op.shared);
  channel_numbers<T>(shift, op.shared + GROUP);
  if constexpr (ADDED == NORMALISED) {
    channel_numbers<T>(other_scale, op.shared + 2 * GROUP);
    channel_numbers<T>(other_shift, op.shared + 3 * GROUP);
  }
  const float floor = op.floor;
  if constexpr (ADDED == NOTHING) {
    const T* const operands[] = {op.z};
    each_row<true, WIDE>(rows, op.channels, operands, op.y, [&](float(&v)[1][N]) {
#pragma unroll
      for (int i = 0; i < N; ++i) v[0][i] = at_least(floor, fmaf(v[0][i], scale[i], shift[i]));
    });
  } else {
    const T* const operands[] = {op.z, op.other};
    each_row<true, WIDE>(rows, op.channels, operands, op.y, [&](float(&v)[2][N]) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float added = ADDED == PLAIN ? v[1][i] : fmaf(v[1][i], other_scale[i], other_shift[i]);
        v[0][i] = at_least(floor, fmaf(v[0][i], scale[i], shift[i]) + added);
      }
    });
  }
}

template <typename T, Added ADDED>
__device__ __forceinline__ void apply(const T* z, const float* affine, const T* other, const float* other_affine, T* y,
                                      int slice_rows, int channels, int block_rows, int relu, int wide) {
  constexpr int GROUP = ROW_VECTORS * LANES<T>;
  SHARED_ARRAY(float, shared, 4 * GROUP);
  const Rows rows = rows_of_thread<T>(slice_rows, channels, block_rows);
  const long long pair = (long long)blockIdx.z * 2 * channels;
  share_channels<T>(shared, affine + pair, rows.group, channels);
  share_channels<T>(shared + GROUP, affine + pair + channels, rows.group, channels);
  if (ADDED == NORMALISED) {
    share_channels<T>(shared + 2 * GROUP, other_affine + pair, rows.group, channels);
    share_channels<T>(shared + 3 * GROUP, other_affine + pair + channels, rows.group, channels);
  }
  __syncthreads();
  if (rows.valid <= 0) return;
  const float floor = relu ? 0.f : -__uint_as_float(0x7F800000u);
  const Apply<T> op = {z, other, y, shared, channels, floor};
  if (wide) apply<ADDED, true>(op, rows);
  else apply<ADDED, false>(op, rows);
}

// y = act(z * affine[0] + affine[1] + residual), the residual being nothing, `other`, or other * other_affine[0] +
// other_affine[1]. z, other, y [slices, rows, C], affine [slices, 2, C]. Grid and block as in rows.cuh, `wide` as in
// vectors.cuh.
//
// Bytes of DRAM for E elements of size s: 2 E s, with a residual 3 E s.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    norm_apply_f32(const float* z, const float* affine, const float* other, const float* other_affine, float* y,
                   int slice_rows, int channels, int block_rows, int relu, int wide) {
  apply<float, NOTHING>(z, affine, other, other_affine, y, slice_rows, channels, block_rows, relu, wide);
}
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    norm_apply_bf16(const bf16* z, const float* affine, const bf16* other, const float* other_affine, bf16* y,
                    int slice_rows, int channels, int block_rows, int relu, int wide) {
  apply<bf16, NOTHING>(z, affine, other, other_affine, y, slice_rows, channels, block_rows, relu, wide);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    norm_apply_plain_f32(const float* z, const float* affine, const float* other, const float* other_affine, float* y,
                         int slice_rows, int channels, int block_rows, int relu, int wide) {
  apply<float, PLAIN>(z, affine, other, other_affine, y, slice_rows, channels, block_rows, relu, wide);
}
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    norm_apply_plain_bf16(const bf16* z, const float* affine, const bf16* other, const float* other_affine, bf16* y,
                          int slice_rows, int channels, int block_rows, int relu, int wide) {
  apply<bf16, PLAIN>(z, affine, other, other_affine, y, slice_rows, channels, block_rows, relu, wide);
}

extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    norm_apply_normalised_f32(const float* z, const float* affine, const float* other, const float* other_affine,
                              float* y, int slice_rows, int channels, int block_rows, int relu, int wide) {
  apply<float, NORMALISED>(z, affine, other, other_affine, y, slice_rows, channels, block_rows, relu, wide);
}
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
    norm_apply_normalised_bf16(const bf16* z, const float* affine, const bf16* other, const float* other_affine,
                               bf16* y, int slice_rows, int channels, int block_rows, int relu, int wide) {
  apply<bf16, NORMALISED>(z, affine, other, other_affine, y, slice_rows, channels, block_rows, relu, wide);
}
