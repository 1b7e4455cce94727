// Neighbouring channels of a row or pixel, as many as sixteen bytes hold, as they lie in memory: on their way they take
// half the registers of what they are in fp32, if they are bf16.
//
// How many they are depends on their type alone, never on where they lie. Whether all accesses of a kernel are WIDE, of
// sixteen bytes at a multiple of sixteen, its host side knows; other accesses go number by number, and of the lanes
// only `valid` ones are there: the others are loaded as zeros and go nowhere.
#pragma once
#include "lanes.cuh"

template <typename T> __device__ __forceinline__ void unpack(float (&v)[LANES<T>], uint4 raw) {
  if constexpr (sizeof(T) == 2) {
    unpack_bf16x8(v, raw);
  } else {
    v[0] = __uint_as_float(raw.x), v[1] = __uint_as_float(raw.y);
    v[2] = __uint_as_float(raw.z), v[3] = __uint_as_float(raw.w);
  }
}

// Rounded once, if T is bf16.
template <typename T> __device__ __forceinline__ uint4 pack(const float (&v)[LANES<T>]) {
  if constexpr (sizeof(T) == 2) {
    return pack_bf16x8(v);
  } else {
    return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3]));
  }
}

template <bool WIDE, typename T> __device__ __forceinline__ uint4 load_vector(const T* p, int valid) {
  if constexpr (WIDE) {
    return load_16(p);
  } else {
    float v[LANES<T>];
#pragma unroll
    for (int i = 0; i < LANES<T>; ++i) v[i] = i < valid ? widened(p[i]) : 0.f;
    return pack<T>(v);
  }
}

template <bool WIDE, typename T>
__device__ __forceinline__ void store_vector(T* p, const float (&v)[LANES<T>], int valid) {
  if constexpr (WIDE) {
    store_16(p, pack<T>(v));
  } else {
#pragma unroll
    for (int i = 0; i < LANES<T>; ++i)
      if (i < valid) narrow(p[i], v[i]);
  }
}
