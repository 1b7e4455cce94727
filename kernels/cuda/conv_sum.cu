// The parts of a weight gradient, [slices, splits, len], added up to [len]: of each slice the splits in ascending order, then the
// slices over their binary tree, (0 + 1) + (2 + 3) and so on. All fp32. One thread an element.
#include "portable.cuh"

// A tree of so many slices has one level fewer than this: ops::SLICES_MAX is 32.
constexpr int LEVELS = 6;

extern "C" __global__ void __launch_bounds__(256) conv_sum(const float* parts, float* dw, int slices, int splits, long long len) {
  const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= len) return;
  parts += at;
  float left[LEVELS] = {}, sum = 0.f;  // finished left halves, by level
  for (int slice = 0; slice < slices; ++slice) {
    sum = *parts, parts += len;
    for (int split = 1; split < splits; ++split) sum += *parts, parts += len;
    bool is_right = true;  // the sum is a finished right half on all levels so far
#pragma unroll
    for (int level = 0; level < LEVELS; ++level) {
      if (!is_right) continue;
      is_right = slice >> level & 1;
      if (is_right)
        sum += left[level];
      else
        left[level] = sum;
    }
  }
  dw[at] = sum;
}
