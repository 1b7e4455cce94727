// Sixteen bytes of a tensor at a time: what a thread loads and stores at once, in its registers as fp32. Where the
// address is no multiple of 16, or fewer elements are left, it goes element by element.
#pragma once
#include "portable.cuh"

// Elements of T in sixteen bytes: 4 of fp32, 8 of bf16.
template <typename T> constexpr int LANES = 16 / int(sizeof(T));

__device__ __forceinline__ float widened(float v) { return v; }
__device__ __forceinline__ float widened(bf16 v) { return bf16_to_float(v); }
__device__ __forceinline__ void narrow(float& to, float v) { to = v; }
__device__ __forceinline__ void narrow(bf16& to, float v) { to = float_to_bf16(v); }

__device__ __forceinline__ bool is_aligned(const void* p) { return (reinterpret_cast<u64>(p) & 15) == 0; }

// At a multiple of 16.
template <typename T> __device__ __forceinline__ void load_whole(float (&v)[LANES<T>], const T* p) {
  if constexpr (sizeof(T) == 2) {
    unpack_bf16x8(v, load_16(p));
  } else {
    const float4 four = load_float4(p);
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
  }
}

// At a multiple of 16, rounded once.
template <typename T> __device__ __forceinline__ void store_whole(T* p, const float (&v)[LANES<T>]) {
  if constexpr (sizeof(T) == 2) {
    store_16(p, pack_bf16x8(v));
  } else {
    store_float4(p, make_float4(v[0], v[1], v[2], v[3]));
  }
}

// The elements from `p` on; lanes beyond the `left` ones that there are become 0, and nothing is read for them.
template <typename T> __device__ __forceinline__ void load_lanes(float (&v)[LANES<T>], const T* p, long long left) {
  if (left >= LANES<T> && is_aligned(p)) {
    load_whole(v, p);
  } else {
#pragma unroll
    for (int i = 0; i < LANES<T>; ++i) v[i] = i < left ? widened(p[i]) : 0.0f;
  }
}

// Rounded once. Lanes beyond the `left` ones that there are go nowhere.
template <typename T> __device__ __forceinline__ void store_lanes(T* p, const float (&v)[LANES<T>], long long left) {
  if (left >= LANES<T> && is_aligned(p)) {
    store_whole(p, v);
  } else {
#pragma unroll
    for (int i = 0; i < LANES<T>; ++i)
      if (i < left) narrow(p[i], v[i]);
  }
}
