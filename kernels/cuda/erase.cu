// Zeros in a window of each image.
//
// x [N, H, W, C] in place, windows [N]. Eight blocks of eight warps for each image, blockIdx.x = sample * 8 + block; a
// warp takes whole rows of the window.
// DRAM: what the windows hold, written once.
#include "lanes.cuh"

constexpr int WARPS = 8;
constexpr int BLOCKS = 8;  // as in src/cuda/erase.rs

struct Window {
  int top, left, height, width;
};

template <typename T>
__device__ __forceinline__ void erase(const Window* windows, T* x, int height, int width, int channels) {
  const int sample = blockIdx.x / BLOCKS, lane = threadIdx.x % 32;
  const Window window = windows[sample];
  for (int row = blockIdx.x % BLOCKS * WARPS + threadIdx.x / 32; row < window.height; row += BLOCKS * WARPS) {
    const long long in_rows = static_cast<long long>(sample) * height + window.top + row;
    T* from = x + (in_rows * width + window.left) * channels;
    for (int i = lane; i < window.width * channels; i += 32) narrow(from[i], 0.0f);
  }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32)
    erase_f32(const Window* windows, float* x, int height, int width, int channels) {
  erase(windows, x, height, width, channels);
}
extern "C" __global__ void __launch_bounds__(WARPS * 32)
    erase_bf16(const Window* windows, bf16* x, int height, int width, int channels) {
  erase(windows, x, height, width, channels);
}
