// Tensor core instructions of a warp: mma.sync m16n8k16 on bf16, and ldmatrix. Fragment layouts as in the
// PTX manual. The products of one mma are added in ascending order of k in fp32, the accumulator last; a GPU's
// order is its own, so results agree within rounding, not bit for bit.
#pragma once
#include "numbers.hpp"
#include "warp.hpp"

namespace emu {

struct Mma {
  float* d;
  const u32* a;
  const u32* b;
};

inline void mma_of_warp(Warp& w, u32 lanes) {
  need_full_warp(lanes, "mma.sync");
  float a[16][16], b[16][8], sum[16][8] = {};
  for (unsigned l = 0; l < 32; ++l) {
    const auto& s = slot<Mma>(w, l);
    const unsigned group = l / 4, pair = l % 4 * 2;
    for (unsigned h = 0; h < 2; ++h) {
      for (unsigned r = 0; r < 4; ++r)
        a[group + r % 2 * 8][pair + r / 2 * 8 + h] = bf16_to_float(u16(s.a[r] >> 16 * h));
      for (unsigned r = 0; r < 2; ++r) b[pair + r * 8 + h][group] = bf16_to_float(u16(s.b[r] >> 16 * h));
    }
  }
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < 16; ++k)
      for (int j = 0; j < 8; ++j) sum[i][j] += a[i][k] * b[k][j];
  for (unsigned l = 0; l < 32; ++l)
    for (unsigned r = 0; r < 4; ++r) slot<Mma>(w, l).d[r] += sum[l / 4 + r / 2 * 8][l % 4 * 2 + r % 2];
}

struct Ldmatrix {
  const u32* row;
  u32* out;
  unsigned count;
  bool transposed;
};

inline void ldmatrix_of_warp(Warp& w, u32 lanes) {
  need_full_warp(lanes, "ldmatrix");
  for (unsigned l = 0; l < 32; ++l) {
    auto& s = slot<Ldmatrix>(w, l);
    for (unsigned r = 0; r < s.count; ++r) {
      if (!s.transposed) {
        s.out[r] = slot<Ldmatrix>(w, r * 8 + l / 4).row[l % 4];
        continue;
      }
      u32 halves[2];
      for (unsigned h = 0; h < 2; ++h)
        halves[h] = slot<Ldmatrix>(w, r * 8 + l % 4 * 2 + h).row[l / 8] >> (l / 4 % 2) * 16 & 0xFFFF;
      s.out[r] = halves[0] | halves[1] << 16;
    }
  }
}

// Lane l brings the address of row l % 8 of matrix l / 8; those past `count` matrices bring none.
inline void ldmatrix(u32* out, unsigned count, bool transposed, const void* address) {
  u32 row[4] = {};
  if (unsigned(lane()) < count * 8) {
    check_aligned(address, 16, "ldmatrix");
    copy_16(row, address);
  }
  Quiet quiet;
  Ldmatrix s{row, out, count, transposed};
  meet(ldmatrix_of_warp, full_warp, &s, "ldmatrix");
}

}  // namespace emu

inline void mma_m16n8k16_bf16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  emu::Quiet quiet;
  emu::Mma s{d, a, b};
  emu::meet(emu::mma_of_warp, emu::full_warp, &s, "mma_m16n8k16_bf16");
}
inline void ldmatrix_x4(u32 (&r)[4], const void* row) { emu::ldmatrix(r, 4, false, row); }
inline void ldmatrix_x2(u32 (&r)[2], const void* row) { emu::ldmatrix(r, 2, false, row); }
inline void ldmatrix_x4_trans(u32 (&r)[4], const void* row) { emu::ldmatrix(r, 4, true, row); }
inline void ldmatrix_x2_trans(u32 (&r)[2], const void* row) { emu::ldmatrix(r, 2, true, row); }
