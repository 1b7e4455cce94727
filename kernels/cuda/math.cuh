// Exponential and logarithm out of operations that IEEE rounds, so that their bits do not depend on the compiler's
// version. NaN stays NaN.
#pragma once
#include "portable.cuh"

// e^x within 1 ulp: x = k ln 2 + r with |r| at most half of ln 2, e^r from its Taylor series, whose ninth term is below
// 2^-27. Below the smallest fp32 number 0, above the largest infinity.
__device__ __forceinline__ float exp_f32(float x) {
  if (x > 88.8f) return __uint_as_float(0x7F800000u);
  if (x < -104.f) return 0.f;
  const float k = rintf(x * 1.44269504f);
  // The first part of ln 2 has nine bits: its products with k are exact.
  float r = fmaf(k, -0.693359375f, x);
  r = fmaf(k, 2.12194440e-4f, r);
  float p = 1.f / 5040.f;
  p = fmaf(p, r, 1.f / 720.f);
  p = fmaf(p, r, 1.f / 120.f);
  p = fmaf(p, r, 1.f / 24.f);
  p = fmaf(p, r, 1.f / 6.f);
  p = fmaf(p, r, 0.5f);
  p = fmaf(p, r, 1.f);
  p = fmaf(p, r, 1.f);
  // In two steps, each by a normal power of two: only the last one rounds, where the result is subnormal.
  if (x != x) return x;
  const int whole = int(k), half = whole / 2;
  return p * __uint_as_float(u32(127 + half) << 23) * __uint_as_float(u32(127 + whole - half) << 23);
}

// ln x of a normal number above 0 within 3 ulp: x = 2^e m with m between sqrt(1/2) and sqrt(2), ln m = 2 artanh(f)
// with f = (m - 1) / (m + 1), from its series, whose thirteenth term is below 2^-65 of the first.
__device__ __forceinline__ double log_f64(double x) {
  union {
    double number;
    u64 bits;
  } m = {x};
  if (m.bits >> 52 >= 0x7FF) return x;
  int e = int(m.bits >> 52) - 1023;
  m.bits = (m.bits & 0xFFFFFFFFFFFFFull) | 1023ull << 52;
  if (m.number > 1.4142135623730951) {
    m.number *= 0.5;
    e += 1;
  }
  const double f = (m.number - 1.0) / (m.number + 1.0), s = f * f;
  double p = 1.0 / 23.0;
#pragma unroll
  for (int n = 21; n > 0; n -= 2) p = fma(p, s, 1.0 / double(n));
  // The first part of ln 2 ends in 21 zeros: its products with e are exact.
  const double low = fma(double(e), 1.90821492927058770002e-10, 2.0 * f * p);
  return fma(double(e), 6.93147180369123816490e-01, low);
}
