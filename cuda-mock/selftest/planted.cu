// Kernels with bugs that were put there: what finds which is a table in tests/mock/planted.rs. `out` is what the
// test looks at; one block of one warp each, unless said otherwise.
#include "portable.cuh"

// Two threads meet at different __syncthreads.
extern "C" __global__ void planted_divergent_barrier(float* out) {
  if (threadIdx.x < 16) {
    __syncthreads();
    out[threadIdx.x] = 1.f;
  } else {
    __syncthreads();
    out[threadIdx.x] = 2.f;
  }
}

// Half of the lanes wait for the others, which wait at a barrier.
extern "C" __global__ void planted_early_exit_shuffle(float* out) {
  const float v = float(threadIdx.x);
  if (threadIdx.x < 16) {
    __syncthreads();
    out[threadIdx.x] = v;
    return;
  }
  out[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, v, 1);
}

// Odd lanes name the even ones.
extern "C" __global__ void planted_wrong_mask(float* out) {
  float v = float(threadIdx.x);
  if (threadIdx.x & 1) v = __shfl_xor_sync(0x55555555u, v, 2);
  out[threadIdx.x] = v;
}

extern "C" __global__ void planted_misaligned_copy(const float* in, float* out) {
  SHARED_ARRAY(float, tile, 256);
  cp_async_16(tile + threadIdx.x * 4, in + threadIdx.x * 4 + 1, true);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[threadIdx.x * 4];
}

extern "C" __global__ void planted_misaligned_load(const float* in, float* out) {
  out[threadIdx.x] = load_float4(in + threadIdx.x).x;
}

extern "C" __global__ void planted_copy_without_wait(const float* in, float* out) {
  SHARED_ARRAY(float, tile, 128);
  cp_async_16(tile + threadIdx.x * 4, in + threadIdx.x * 4, true);
  cp_async_commit();
  out[threadIdx.x] = tile[threadIdx.x * 4];
}

extern "C" __global__ void planted_too_much_shared(float* out) {
  SHARED_ARRAY(float, tile, 13 * 1024);
  tile[threadIdx.x] = 0.f;
  out[threadIdx.x] = tile[threadIdx.x];
}

// Element 31 is read and never written.
extern "C" __global__ void planted_uninitialised(float* out) {
  SHARED_ARRAY(float, tile, 32);
  if (threadIdx.x < 31) tile[threadIdx.x] = 1.f;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

// What another lane wrote is read without __syncwarp.
extern "C" __global__ void planted_warp_race(float* out) {
  SHARED_ARRAY(float, tile, 32);
  tile[threadIdx.x] = float(threadIdx.x);
  out[threadIdx.x] = tile[31 - threadIdx.x];
}

// Sums of 8 warps without the barrier between writing and reading; 256 threads.
extern "C" __global__ void planted_no_barrier(float* out) {
  SHARED_ARRAY(float, partial, 8);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sum = 1.f;
  for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, bit);
  if (lane == 0) partial[warp] = sum;
  if (warp != 0) return;
  sum = lane < 8 ? partial[lane] : 0.f;
  for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, bit);
  if (lane == 0) out[0] = sum;
}

// A pipeline of two stages that loads the next tile before the barrier that says that all are done with the tile
// before: 64 threads, in[8][64], out[64] = sums over warps and tiles.
extern "C" __global__ void planted_stage_reuse(const float* in, float* out) {
  SHARED_ARRAY(float, stage, 2 * 64);
  const u32 t = threadIdx.x;
  auto load = [&](u32 tile) {
    if (tile < 8 && t % 4 == 0) cp_async_16(stage + tile % 2 * 64 + t, in + tile * 64 + t, true);
    cp_async_commit();
  };
  float sum = 0.f;
  load(0);
  for (u32 tile = 0; tile < 8; ++tile) {
    cp_async_wait<0>();
    load(tile + 1);
    __syncthreads();
    float v = stage[tile % 2 * 64 + 63 - t];
    for (int bit = 16; bit > 0; bit /= 2) v += __shfl_xor_sync(0xFFFFFFFFu, v, bit);
    sum += v;
  }
  out[t] = sum;
}

// Blocks add to one address; 4 blocks.
extern "C" __global__ void planted_block_race(float* out) {
  if (threadIdx.x == 0) out[0] += float(blockIdx.x);
}

// The ticket pattern without __threadfence; 8 blocks, partial[8] behind out[0].
extern "C" __global__ void planted_no_fence(float* out, u32* ticket) {
  SHARED_ARRAY(u32, is_last, 1);
  if (threadIdx.x == 0) {
    out[1 + blockIdx.x] = 1.f;
    is_last[0] = atomicAdd(ticket, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (is_last[0] == 0 || threadIdx.x != 0) return;
  float sum = 0.f;
  for (u32 i = 0; i < gridDim.x; ++i) sum += out[1 + i];
  out[0] = sum;
}

// Block 1 waits for block 0, which nothing promises to run before or beside it; 2 blocks.
extern "C" __global__ void planted_block_order(float* out, u32* flag) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    out[0] = 5.f;
    __threadfence();
    atomicExch(flag, 1u);
  } else {
    while (atomicAdd(flag, 0u) == 0) __nanosleep(20);
    __threadfence();
    out[1] = out[0] + 1.f;
  }
}

// Element 33 of an array of 33.
extern "C" __global__ void planted_shared_overflow(float* out) {
  SHARED_ARRAY(float, tile, 33);
  tile[threadIdx.x + 2] = float(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x + 2];
}

// Reads one element behind in[512], and uses nothing of it; 513 threads.
extern "C" __global__ void planted_unguarded_read(const float* in, float* out) {
  const volatile float v = in[threadIdx.x];
  if (threadIdx.x < 512) out[threadIdx.x] = v;
}

// Writes one element behind out[512]; 512 threads.
extern "C" __global__ void planted_unguarded_write(float* out) { out[threadIdx.x + 1] = 1.f; }
