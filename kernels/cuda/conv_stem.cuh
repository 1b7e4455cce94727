// A network's first convolution has few input channels, so a tap is shorter than a vector. But the taps of one kernel row lie
// side by side in NHWC: [kernel * C] numbers from the first pixel of a window, `walk.wide.step * C` further for the next output
// pixel. So a block brings the part of an image that its tile of output pixels sees into shared memory once, and fragments
// are read from there, windows overlapping; the long axis of the product is [kernel, row], each row rounded up to 16.
#pragma once
#include "conv_tile.cuh"

// Output pixels of a tile: also in src/cuda/conv/engine.rs.
constexpr int STEM_HIGH = 8, STEM_WIDE = 16;

struct Stem {
  int row;            // numbers of one kernel row of a window
  int row_len;        // as they are multiplied: rounded up to 16
  int pixel;          // from one output pixel to the next
  int lines;          // of the input that a tile sees
  int pitch;          // from one to the next in shared memory; what the last window's rounded row sees fits in
  int tiles_high, tiles_wide;  // of a sample

  __device__ __forceinline__ explicit Stem(const Walk& walk) {
    row = walk.kernel * walk.source_channels;
    row_len = divide_up(row, 16) * 16;
    pixel = walk.wide.step * walk.source_channels;
    lines = (STEM_HIGH - 1) * walk.high.step + walk.kernel;
    pitch = divide_up((STEM_WIDE - 1) * pixel + row_len, 8) * 8;
    tiles_high = divide_up(walk.high.rows, STEM_HIGH);
    tiles_wide = divide_up(walk.wide.rows, STEM_WIDE);
  }

  __device__ __forceinline__ int tiles(const Walk& walk) const { return walk.samples * tiles_high * tiles_wide; }
};

// Where a tile of output pixels lies.
struct StemTile {
  int sample, i, j;

  __device__ __forceinline__ StemTile(const Stem& stem, int tile) {
    const int of_sample = stem.tiles_high * stem.tiles_wide;
    sample = tile / of_sample;
    const int rest = tile - sample * of_sample;
    i = rest / stem.tiles_wide * STEM_HIGH, j = rest % stem.tiles_wide * STEM_WIDE;
  }

  // Whether the tile's pixel of this number is one of the image, and its number in the slice.
  __device__ __forceinline__ bool has(const Walk& walk, int number, int& pixel) const {
    const int oi = i + number / STEM_WIDE, oj = j + number % STEM_WIDE;
    pixel = (sample * walk.high.rows + oi) * walk.wide.rows + oj;
    return oi < walk.high.rows && oj < walk.wide.rows;
  }

  __device__ __forceinline__ int count(const Walk& walk) const {
    return min(STEM_HIGH, walk.high.rows - i) * min(STEM_WIDE, walk.wide.rows - j);
  }
};

// Brings what a tile sees of the image to `patch`, [lines, pitch], zeros outside; a warp takes every `warps`-th line.
__device__ __forceinline__ void load_patch(const Walk& walk, const Stem& stem, const StemTile& tile, const bf16* x, bf16* patch,
                                           int warps) {
  const int width = walk.wide.source * walk.source_channels;
  const int first = (tile.j * walk.wide.step + walk.wide.origin) * walk.source_channels;
  for (int line = threadIdx.x / 32; line < stem.lines; line += warps) {
    const int i = tile.i * walk.high.step + walk.high.origin + line;
    const bool is_line = u32(i) < u32(walk.high.source);
    const bf16* from = x + ((long long)tile.sample * walk.high.source + (is_line ? i : 0)) * width;
    for (int at = threadIdx.x % 32; at < stem.pitch; at += 32) {
      const int e = first + at;
      const bool is_there = is_line && u32(e) < u32(width);
      patch[line * stem.pitch + at].bits = is_there ? from[e].bits : u16(0);
    }
  }
}
