// The parts of a weight gradient, [slices, splits, len], added up to [len]: of each slice the splits in ascending order, then the
// slices over their binary tree, (0 + 1) + (2 + 3) and so on. All fp32. One thread an element.
#include "portable.cuh"

// The subtree of `COUNT` slices from `first`.
template <int COUNT> __device__ __forceinline__ float subtree(const float* parts, int splits, long long len, int first) {
  if constexpr (COUNT > 1) {
    const float left = subtree<COUNT / 2>(parts, splits, len, first);
    return left + subtree<COUNT / 2>(parts, splits, len, first + COUNT / 2);
  } else {
    const float* part = parts + (long long)first * splits * len;
    float sum = part[0];
    for (int split = 1; split < splits; ++split) sum += part[split * len];
    return sum;
  }
}

extern "C" __global__ void __launch_bounds__(256) conv_sum(const float* parts, float* dw, int slices, int splits, long long len) {
  const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= len) return;
  parts += at;
  switch (slices) {
    case 1: dw[at] = subtree<1>(parts, splits, len, 0); break;
    case 2: dw[at] = subtree<2>(parts, splits, len, 0); break;
    case 4: dw[at] = subtree<4>(parts, splits, len, 0); break;
    case 8: dw[at] = subtree<8>(parts, splits, len, 0); break;
    case 16: dw[at] = subtree<16>(parts, splits, len, 0); break;
    default: dw[at] = subtree<32>(parts, splits, len, 0);
  }
}
