// How fast multiply-adds are when nothing else is in their way. No memory is touched: `out` is written only when the sum
// is `never`, which keeps the compiler from leaving the work out.
//
// Eight independent chains to a thread (fp32) or to a warp (bf16, tensor cores), `rounds` multiply-adds each.
#include "portable.cuh"

constexpr int THREADS = 256;
constexpr int CHAINS = 8;

extern "C" __global__ void __launch_bounds__(THREADS) peak_f32(int rounds, float factor, float never, float* out) {
  float values[CHAINS];
#pragma unroll
  for (int i = 0; i < CHAINS; ++i) values[i] = static_cast<float>(threadIdx.x + i);
#pragma unroll 4
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < CHAINS; ++i) values[i] = fmaf(values[i], factor, 1.0f);
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < CHAINS; ++i) sum += values[i];
  if (sum == never) *out = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) peak_bf16(int rounds, float factor, float never, float* out) {
  const u32 halves = pack_bf16(factor, factor), ones = pack_bf16(1.0f, -1.0f);
  const u32 a[4] = {halves, halves, halves, halves}, b[2] = {ones, ones};
  float sums[CHAINS][4];
#pragma unroll
  for (int i = 0; i < CHAINS; ++i) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = static_cast<float>(threadIdx.x + i);
#pragma unroll 4
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < CHAINS; ++i) mma_m16n8k16_bf16(sums[i], a, b);
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < CHAINS; ++i) sum += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
  if (sum == never) *out = sum;
}
