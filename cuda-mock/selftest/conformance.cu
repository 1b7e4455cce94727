// Each wrapper of portable.cuh against what it should do, on plain buffers: the same kernels and the same expected
// numbers are for the emulator and for a GPU. One block of one warp each, unless said otherwise.
#include "portable.cuh"

// d[16, 8] = c[16, 8] + a[16, 16] b[16, 8], row-major, fragments filled as the table in portable.cuh says.
extern "C" __global__ void selftest_mma(const u16* a, const u16* b, const float* c, float* d) {
  const int group = threadIdx.x / 4, pair = threadIdx.x % 4 * 2;
  u32 fa[4], fb[2];
  float fd[4];
  for (int r = 0; r < 4; ++r) {
    const u16* at = a + (group + r % 2 * 8) * 16 + pair + r / 2 * 8;
    fa[r] = u32(at[0]) | u32(at[1]) << 16;
    fd[r] = c[(group + r / 2 * 8) * 8 + pair + r % 2];
  }
  for (int r = 0; r < 2; ++r) {
    const u16* at = b + (pair + r * 8) * 8 + group;
    fb[r] = u32(at[0]) | u32(at[8]) << 16;
  }
  mma_m16n8k16_bf16(fd, fa, fb);
  for (int r = 0; r < 4; ++r) d[(group + r / 2 * 8) * 8 + pair + r % 2] = fd[r];
}

// in[4][8][8] u16; out: x4, x4 transposed (128 words each, [lane][matrix]), then x2, x2 transposed (64 words each).
extern "C" __global__ void selftest_ldmatrix(const u16* in, u32* out) {
  SHARED_ARRAY(u16, tile, 4 * 64);
  const int lane = threadIdx.x;
  for (int i = lane; i < 4 * 64; i += 32) tile[i] = in[i];
  __syncwarp();
  u32 four[4], two[2];
  ldmatrix_x4(four, tile + lane * 8);
  for (int r = 0; r < 4; ++r) out[lane * 4 + r] = four[r];
  ldmatrix_x4_trans(four, tile + lane * 8);
  for (int r = 0; r < 4; ++r) out[128 + lane * 4 + r] = four[r];
  ldmatrix_x2(two, tile + lane % 16 * 8);
  for (int r = 0; r < 2; ++r) out[256 + lane * 2 + r] = two[r];
  ldmatrix_x2_trans(two, tile + lane % 16 * 8);
  for (int r = 0; r < 2; ++r) out[320 + lane * 2 + r] = two[r];
}

// Two stages of a pipeline, then zeros where the source is not valid: out[3][32] of 16 bytes.
extern "C" __global__ void selftest_cp_async(const uint4* in, uint4* out) {
  SHARED_ARRAY(uint4, stage, 3 * 32);
  const int lane = threadIdx.x;
  cp_async_16(stage + lane, in + lane, true);
  cp_async_commit();
  cp_async_16(stage + 32 + lane, in + 32 + lane, true);
  cp_async_commit();
  cp_async_wait<1>();
  store_16(out + lane, load_16(stage + lane));
  cp_async_16(stage + 64 + lane, nullptr, false);
  cp_async_commit();
  cp_async_wait<0>();
  store_16(out + 32 + lane, load_16(stage + 32 + lane));
  store_16(out + 64 + lane, load_16(stage + 64 + lane));
}

// in[32]; out[8][32]: xor 1, down 3, up 3, source 5 of each 8, ballot of > 0, ballots of the two halves, any, all.
extern "C" __global__ void selftest_shuffles(const float* in, u32* out) {
  const u32 all = 0xFFFFFFFFu;
  const int lane = threadIdx.x;
  const float v = in[lane];
  out[lane] = __float_as_uint(__shfl_xor_sync(all, v, 1));
  out[32 + lane] = __float_as_uint(__shfl_down_sync(all, v, 3));
  out[64 + lane] = __float_as_uint(__shfl_up_sync(all, v, 3));
  out[96 + lane] = __float_as_uint(__shfl_sync(all, v, 5, 8));
  out[128 + lane] = __ballot_sync(all, v > 0.f);
  out[160 + lane] = lane < 16 ? __ballot_sync(0x0000FFFFu, v > 0.f) : __ballot_sync(0xFFFF0000u, v > 0.f);
  out[192 + lane] = __any_sync(all, v > 0.f) != 0;
  out[224 + lane] = __all_sync(all, v > 0.f) != 0;
}

// Each of n fp32 patterns to bf16 alone, in a pair with 1, and back. One block of any size.
extern "C" __global__ void selftest_bf16(const u32* in, u16* single, u32* pairs, float* back, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float f = __uint_as_float(in[i]);
    const bf16 b = float_to_bf16(f);
    single[i] = b.bits;
    pairs[i] = pack_bf16(f, 1.f);
    back[i] = bf16_to_float(b);
  }
}

// Eight bf16 at a time: out = 2 * in, as vectors of 16 bytes; sums[lane] = the same eight in fp32.
extern "C" __global__ void selftest_vectors(const bf16* in, bf16* out, float* sums) {
  float f[8];
  unpack_bf16x8(f, load_16(in + 8 * threadIdx.x));
  float sum = 0.f;
  for (int i = 0; i < 8; ++i) {
    sum += f[i];
    f[i] *= 2.f;
  }
  store_16(out + 8 * threadIdx.x, pack_bf16x8(f));
  sums[threadIdx.x] = sum;
}

// fp32 four at a time, and functions on numbers: out[lane] = (fma, rsqrt, exp, max of a number and NaN).
extern "C" __global__ void selftest_numbers(const float* in, float* out) {
  const float4 v = load_float4(in + 4 * threadIdx.x);
  const float nan = __uint_as_float(0x7FC00000u);
  store_float4(out + 4 * threadIdx.x, make_float4(fmaf(v.x, v.y, v.z), rsqrtf(v.w), expf(v.x), max(v.y, nan)));
}

// The last block to take a ticket adds what all left: any grid, partial[grid], ticket[1] zero, out[1].
extern "C" __global__ void __launch_bounds__(64)
selftest_ticket(const float* in, float* partial, u32* ticket, float* out) {
  SHARED_ARRAY(u32, is_last, 1);
  DYNAMIC_SHARED(raw);
  float* values = reinterpret_cast<float*>(raw);
  values[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0.f;
    for (u32 i = 0; i < blockDim.x; ++i) sum += values[i];
    partial[blockIdx.x] = sum;
    __threadfence();
    is_last[0] = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (is_last[0] == 0 || threadIdx.x != 0) return;
  float sum = 0.f;
  for (u32 i = 0; i < gridDim.x; ++i) sum += partial[i];
  out[0] = sum;
}

// Adds one to out[0]; one block.
extern "C" __global__ void selftest_add_one(float* out) {
  if (threadIdx.x == 0) out[0] += 1.f;
}

struct SelftestArguments {
  int first;
  float second;
  long long third;
};

// Arguments by value and a struct, as a host passes them. One thread.
extern "C" __global__ void selftest_arguments(float* out, int a, SelftestArguments s, float b) {
  out[0] = float(a);
  out[1] = float(s.first);
  out[2] = s.second;
  out[3] = float(s.third);
  out[4] = b;
}
