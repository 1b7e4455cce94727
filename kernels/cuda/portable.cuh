// What the kernels are written with, and the only inline PTX besides hopper.cuh. For NVRTC each wrapper is one
// instruction; for a host compiler the emulator of the crate cuda-mock has its twin. No CUDA header is needed.
//
// A kernel is written out as `extern "C" __global__ void [__launch_bounds__(n)] name(...)` and its name is unique
// over all files: the lists of kernels are made by reading the text, so no macro makes one. No atomics on floating
// point: the order of additions is fixed by shapes alone. Meant for --fmad=false: a multiply-add is fused where fmaf
// says so and nowhere else.
#pragma once

#if defined(__CUDACC_RTC__)

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

// Shared memory. A block finds it full of NaN in the emulator, of anything on a GPU. The dynamic one starts at a
// multiple of 1024 bytes, and there is one per kernel.
#define SHARED_ARRAY(T, name, n) __shared__ __align__(16) T name[n]
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

__device__ __forceinline__ u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

// d[16, 8] += a[16, 16] b[16, 8], bf16 with fp32 sums, by a whole warp. With group = lane / 4 and pair = lane % 4 * 2:
// a[0] holds (group, pair), a[1] (group + 8, pair), a[2] (group, pair + 8), a[3] (group + 8, pair + 8), each with the
// next column in its high half; b[0] holds (pair, group), b[1] (pair + 8, group), with the next row in its high half;
// d[0], d[1] are (group, pair), (group, pair + 1), and d[2], d[3] those of row group + 8.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Matrices of 8 rows of 16 bytes from shared memory: lane l names row l % 8 of matrix l / 8 and gets of each matrix
// columns l % 4 * 2 and the next of row l / 4; transposed, of column l / 4 the rows l % 4 * 2 and the next.
__device__ __forceinline__ void ldmatrix_x4(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(u32 (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(u32 (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

// Copies 16 bytes from global to shared memory behind the thread's back, or zeros unless `valid`: then nothing is
// read, whatever `global` is. What was committed is there for this thread after a wait that leaves at most N newer
// groups pending, for others after a barrier behind that.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid) {
  const u32 bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#else
#include "emulator.hpp"
#endif

// The upper half of an fp32 number.
struct bf16 {
  u16 bits;
};

// Exact.
__device__ __forceinline__ float bf16_to_float(bf16 v) { return __uint_as_float(u32(v.bits) << 16); }

// To nearest, ties to even.
__device__ __forceinline__ bf16 float_to_bf16(float f) {
  bf16 r;
#if defined(__CUDACC_RTC__)
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(f));
#else
  r.bits = emu::float_to_bf16(f);
#endif
  return r;
}

// Two bf16 in a word, as they lie in memory: `low` first.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
#if defined(__CUDACC_RTC__)
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
#else
  return u32(emu::float_to_bf16(low)) | u32(emu::float_to_bf16(high)) << 16;
#endif
}
__device__ __forceinline__ float unpack_low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float unpack_high(u32 pair) { return __uint_as_float(pair & 0xFFFF0000u); }

__device__ __forceinline__ void unpack_bf16x8(float (&f)[8], uint4 v) {
  const u32 pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    f[2 * i] = unpack_low(pairs[i]);
    f[2 * i + 1] = unpack_high(pairs[i]);
  }
}
__device__ __forceinline__ uint4 pack_bf16x8(const float (&f)[8]) {
  return make_uint4(pack_bf16(f[0], f[1]), pack_bf16(f[2], f[3]), pack_bf16(f[4], f[5]), pack_bf16(f[6], f[7]));
}

// Loads and stores of 16 bytes at an address that is a multiple of 16: the emulator names one that is not, as a GPU
// would fail on it.
#if defined(__CUDACC_RTC__)
#define CHECK_ALIGNED_16(p)
// A plain store of a vector may be taken apart where another branch stores its elements; this one is not.
#define STORE_VECTOR(p, v) __stwb(p, v)
#else
#define CHECK_ALIGNED_16(p) emu::check_aligned(p, 16, "access of 16 bytes")
#define STORE_VECTOR(p, v) (*(p) = (v))
#endif
__device__ __forceinline__ uint4 load_16(const void* p) {
  CHECK_ALIGNED_16(p);
  return *static_cast<const uint4*>(p);
}
__device__ __forceinline__ void store_16(void* p, uint4 v) {
  CHECK_ALIGNED_16(p);
  STORE_VECTOR(static_cast<uint4*>(p), v);
}
__device__ __forceinline__ float4 load_float4(const float* p) {
  CHECK_ALIGNED_16(p);
  return *reinterpret_cast<const float4*>(p);
}
__device__ __forceinline__ void store_float4(float* p, float4 v) {
  CHECK_ALIGNED_16(p);
  STORE_VECTOR(reinterpret_cast<float4*>(p), v);
}
