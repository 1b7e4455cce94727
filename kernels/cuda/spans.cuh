// Many spans of a flat buffer in one launch: each is cut into blocks from its own start, so that what a block holds
// depends on the span's length alone. The host writes the table (src/cuda/spans.rs).
#pragma once
#include "portable.cuh"

struct CutSpan {
  long long start;        // first element
  long long len;          // elements
  long long first_block;  // number of its first block, counted over all spans
};

// The span that a block belongs to: the last one that begins there or before. Empty spans have no block.
__device__ __forceinline__ int span_of(const CutSpan* spans, int count, int block) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (spans[middle].first_block <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}
