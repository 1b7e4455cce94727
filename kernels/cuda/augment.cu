// Bytes to normalised activations in one pass: out = (pixel / 255 - mean[c]) / std[c], cropped and mirrored; outside the
// image the pixel is 0.
//
// pixels [N, H, W, C] u8, crops [N], mean_std [2, C], out [N, OH, OW, C]. A block of 256 threads makes up to
// 256 * ROUNDS pieces of sixteen bytes of one sample; blockIdx.x = sample * blocks of a sample + block. The values of all
// bytes are worked out once a block, in shared memory [C, 256] fp32.
// DRAM: a byte in, a T out, for each element.
#include "lanes.cuh"

constexpr int THREADS = 256;
constexpr int ROUNDS = 8;  // as in src/cuda/augment.rs

struct AugmentShape {
  int height, width, channels, out_height, out_width;
};

struct Crop {
  int top, left, flip;
};

// The byte of channel 0 at a place of the window, or null outside the image.
__device__ __forceinline__ const unsigned char* source(const AugmentShape& shape, const unsigned char* image,
                                                       const Crop& crop, int row, int column) {
  const int from_row = crop.top + row;
  const int from_column = crop.left + (crop.flip ? shape.out_width - 1 - column : column);
  const bool inside = 0 <= from_row && from_row < shape.height && 0 <= from_column && from_column < shape.width;
  return inside ? image + (static_cast<long long>(from_row) * shape.width + from_column) * shape.channels : nullptr;
}

template <typename T>
__device__ __forceinline__ void augment(const AugmentShape& shape, const unsigned char* pixels, const Crop* crops,
                                        const float* mean_std, T* out, int blocks, float* table) {
  for (int i = threadIdx.x; i < shape.channels * 256; i += THREADS) {
    const float mean = mean_std[i / 256], std = mean_std[shape.channels + i / 256];
    table[i] = (static_cast<float>(i % 256) / 255.0f - mean) / std;
  }
  __syncthreads();
  const int sample = blockIdx.x / blocks, row_len = shape.out_width * shape.channels, len = shape.out_height * row_len;
  const unsigned char* image = pixels + static_cast<long long>(sample) * shape.height * shape.width * shape.channels;
  const Crop crop = crops[sample];
  out += static_cast<long long>(sample) * len;
  for (int round = 0; round < ROUNDS; ++round) {
    const long long first = ((blockIdx.x % blocks * ROUNDS + round) * static_cast<long long>(THREADS) + threadIdx.x) * LANES<T>;
    if (first >= len) return;
    int row = int(first) / row_len, column = int(first) % row_len / shape.channels, channel = int(first) % shape.channels;
    const unsigned char* pixel = source(shape, image, crop, row, column);
    float v[LANES<T>];
#pragma unroll
    for (int k = 0; k < LANES<T>; ++k) {
      v[k] = table[channel * 256 + (pixel ? pixel[channel] : 0)];
      if (++channel == shape.channels) {
        channel = 0;
        if (++column == shape.out_width) column = 0, ++row;
        pixel = source(shape, image, crop, row, column);
      }
    }
    store_lanes(out + first, v, len - first);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    augment_f32(AugmentShape shape, const unsigned char* pixels, const Crop* crops, const float* mean_std, float* out,
                int blocks) {
  DYNAMIC_SHARED(shared);
  augment(shape, pixels, crops, mean_std, out, blocks, reinterpret_cast<float*>(shared));
}
extern "C" __global__ void __launch_bounds__(THREADS)
    augment_bf16(AugmentShape shape, const unsigned char* pixels, const Crop* crops, const float* mean_std, bf16* out,
                 int blocks) {
  DYNAMIC_SHARED(shared);
  augment(shape, pixels, crops, mean_std, out, blocks, reinterpret_cast<float*>(shared));
}
