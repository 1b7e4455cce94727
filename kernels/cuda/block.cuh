// One value out of those of a block's threads.
#pragma once
#include "portable.cuh"

// Over the binary tree of thread numbers: t takes t + THREADS / 2, then t + THREADS / 4, and so on. In thread 0; all
// threads of the block call it, once in a kernel.
template <int THREADS, typename V, typename Combine>
__device__ __forceinline__ V over_block(V value, Combine combine) {
  SHARED_ARRAY(V, values, THREADS);
  values[threadIdx.x] = value;
#pragma unroll
  for (int half = THREADS / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) values[threadIdx.x] = combine(values[threadIdx.x], values[threadIdx.x + half]);
  }
  return values[threadIdx.x];
}
