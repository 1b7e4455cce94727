// Each image of a slice mixes with the one before it, the first with the slice's last, all as they were: a weighted sum
// of the two, or a window of pixels taken over.
//
// x [slices, samples, H, W, C] in place, rules [slices]. A thread has sixteen bytes of every image of a slice and walks from
// the last image to the first, so that it finds each neighbour as it was and nobody else touches what it reads; the last
// one is kept in registers for the first. AHEAD neighbours are on their way at once. Blocks of 256 threads; blockIdx.x
// counts pieces of an image, blockIdx.y slices.
// DRAM: each element read once and written once.
#include "lanes.cuh"

constexpr int THREADS = 256;
constexpr int AHEAD = 4;

struct MixRule {
  int paste;     // whether the window is taken over; else `lambda` weighs
  float lambda;  // of the image's own pixels
  int top, left, height, width;
};

// A bit for each lane whose element lies in the window.
template <typename T>
__device__ __forceinline__ u32 lanes_inside(const MixRule& rule, int first, int width, int channels) {
  u32 inside = 0;
  for (int k = 0; k < LANES<T>; ++k) {
    const int pixel = (first + k) / channels, row = pixel / width - rule.top, column = pixel % width - rule.left;
    if (0 <= row && row < rule.height && 0 <= column && column < rule.width) inside |= 1u << k;
  }
  return inside;
}

// From the last image of a slice to the first. `at`: the thread's piece of the first one, `left`: elements from there to
// the image's end. WHOLE: sixteen bytes in every image, at multiples of 16.
template <typename T, bool WHOLE>
__device__ __forceinline__ void walk(const MixRule& rule, u32 inside, T* at, int samples, long long image_len,
                                     long long left) {
  const auto load = [&](float(&v)[LANES<T>], int sample) {
    if constexpr (WHOLE) {
      load_whole(v, at + sample * image_len);
    } else {
      load_lanes(v, at + sample * image_len, left);
    }
  };
  float own[LANES<T>], kept[LANES<T>], others[AHEAD][LANES<T>];
  load(own, samples - 1);
#pragma unroll
  for (int k = 0; k < LANES<T>; ++k) kept[k] = own[k];
  for (int last = samples - 1; last >= 0; last -= AHEAD) {
#pragma unroll
    for (int i = 0; i < AHEAD; ++i)
      if (last - i > 0) load(others[i], last - i - 1);
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
      const int sample = last - i;
      if (sample < 0) break;
      float mixed[LANES<T>];
#pragma unroll
      for (int k = 0; k < LANES<T>; ++k) {
        const float other = sample > 0 ? others[i][k] : kept[k];
        const float pasted = inside >> k & 1 ? other : own[k];
        mixed[k] = rule.paste ? pasted : fmaf(rule.lambda, own[k], (1.0f - rule.lambda) * other);
        own[k] = other;
      }
      if constexpr (WHOLE) {
        store_whole(at + sample * image_len, mixed);
      } else {
        store_lanes(at + sample * image_len, mixed, left);
      }
    }
  }
}

template <typename T>
__device__ __forceinline__ void mix(const MixRule* rules, T* x, int samples, int image_len, int width, int channels) {
  const long long first = (static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x) * LANES<T>;
  if (first >= image_len) return;
  const MixRule rule = rules[blockIdx.y];
  const u32 inside = rule.paste ? lanes_inside<T>(rule, int(first), width, channels) : 0;
  T* at = x + static_cast<long long>(blockIdx.y) * samples * image_len + first;
  if (image_len % LANES<T> == 0 && is_aligned(at)) {
    walk<T, true>(rule, inside, at, samples, image_len, image_len - first);
  } else {
    walk<T, false>(rule, inside, at, samples, image_len, image_len - first);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    mix_f32(const MixRule* rules, float* x, int samples, int image_len, int width, int channels) {
  mix(rules, x, samples, image_len, width, channels);
}
extern "C" __global__ void __launch_bounds__(THREADS)
    mix_bf16(const MixRule* rules, bf16* x, int samples, int image_len, int width, int channels) {
  mix(rules, x, samples, image_len, width, channels);
}
