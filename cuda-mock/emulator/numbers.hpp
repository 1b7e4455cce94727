// bf16 conversions with the rounding of the GPU's instructions, and the functions on numbers that NVRTC has
// built in. The last bits of expf, logf and the like are the C library's, not a GPU's.
#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>

#include "types.hpp"

inline float __uint_as_float(u32 u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
inline u32 __float_as_uint(float f) {
  u32 u;
  memcpy(&u, &f, 4);
  return u;
}
inline float __int_as_float(int i) { return __uint_as_float(u32(i)); }
inline int __float_as_int(float f) { return int(__float_as_uint(f)); }

namespace emu {

inline float bf16_to_float(u16 bits) { return __uint_as_float(u32(bits) << 16); }

// To nearest, ties to even; every NaN becomes 0x7FFF, as cvt.rn.bf16.f32 has it.
inline u16 float_to_bf16(float f) {
  const u32 u = __float_as_uint(f);
  if ((u & 0x7FFFFFFF) > 0x7F800000) return 0x7FFF;
  return u16((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

}  // namespace emu

// NVRTC's min and max take two types, and of a number and a NaN the number.
template <class A, class B> constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point<T>::value) return T(std::fmin(T(a), T(b)));
  return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B> constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point<T>::value) return T(std::fmax(T(a), T(b)));
  return T(a) < T(b) ? T(b) : T(a);
}

template <class T> T __ldg(const T* p) { return *p; }
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return float(1.0 / sqrt(double(x))); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __float2int_rn(float x) { return int(std::nearbyint(x)); }
inline int __popc(u32 x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline u32 __umulhi(u32 a, u32 b) { return u32(u64(a) * b >> 32); }
