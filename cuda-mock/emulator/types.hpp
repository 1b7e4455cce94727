// The built-in types and keywords of CUDA C++ that NVRTC knows without any header, for a host compiler.
// Knows no thread and no memory: what they do is in the other files.
#pragma once
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
// The bound is read from the source text when a kernel is registered, see build.rs.
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static
#define __align__(n) alignas(n)
// Keeps working, but neither poisoned nor made anew for each block: kernels use SHARED_ARRAY.
#define __shared__ static

typedef uint32_t u32;
typedef uint16_t u16;
typedef unsigned long long u64;

#define EMU_VECTORS(T, name, size)                                                            \
  struct alignas(2 * size) name##2 { T x, y; };                                               \
  struct name##3 { T x, y, z; };                                                              \
  struct alignas(4 * size > 16 ? 16 : 4 * size) name##4 { T x, y, z, w; };                    \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                  \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                          \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTORS(signed char, char, 1)
EMU_VECTORS(unsigned char, uchar, 1)
EMU_VECTORS(unsigned short, ushort, 2)
EMU_VECTORS(int, int, 4)
EMU_VECTORS(unsigned, uint, 4)
EMU_VECTORS(float, float, 4)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;
