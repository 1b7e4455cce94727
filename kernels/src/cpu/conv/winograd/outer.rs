//! The engine of the weight gradient: for one point, the sum over tiles of the outer products of
//! source values and output gradients. Each sum of a block is one chain of multiply-adds.

use super::{GROUP, WIDTH};
use crate::cpu::simd::{Kernel, LANES, Simd};

/// `sums[channel, 64] (+)= sum over tiles of values[tile, channel] * grads[tile, 64]`.
pub(super) struct Outer<'a> {
    pub(super) values: &'a [f32], // all groups' transforms, from the point's part of the first on
    pub(super) values_step: usize, // elements between groups
    pub(super) grads: &'a [f32],  // likewise, from the point's part and first panel on
    pub(super) grads_step: usize,
    pub(super) groups: usize,
    pub(super) panels: usize,       // of the source's channels
    pub(super) columns: usize,      // panels of output gradients, at most 4
    pub(super) first: bool,         // block: what `sums` holds is lost
    pub(super) sums: &'a mut [f32], // [panels * 16, 64]
}

impl Kernel for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let last = self.groups - 1;
        assert!(last * self.values_step + self.panels * GROUP * LANES <= self.values.len());
        assert!(last * self.grads_step + self.columns * GROUP * LANES <= self.grads.len());
        assert!(self.columns * LANES <= WIDTH);
        assert!(self.panels * LANES * WIDTH <= self.sums.len());
        let mut column = 0;
        while column < self.columns {
            column += match (S::PANELS, self.columns - column) {
                (4, 4..) => self.column::<S, 4>(simd, column),
                (4, 3) => self.column::<S, 3>(simd, column),
                (4, 2) => self.column::<S, 2>(simd, column),
                _ => self.column::<S, 1>(simd, column),
            };
        }
    }
}

impl Outer<'_> {
    /// `NV` panels from `column` on for all source channels; returns `NV`.
    #[inline(always)]
    fn column<S: Simd, const NV: usize>(&mut self, simd: S, column: usize) -> usize {
        for panel in 0..self.panels {
            self.tile::<S, 6, NV>(simd, (panel, 0), column);
            self.tile::<S, 6, NV>(simd, (panel, 6), column);
            self.tile::<S, 4, NV>(simd, (panel, 12), column);
        }
        NV
    }

    #[inline(always)]
    fn tile<S: Simd, const MR: usize, const NV: usize>(
        &mut self,
        simd: S,
        (panel, lane): (usize, usize),
        column: usize,
    ) {
        let rows = self.sums.as_chunks_mut::<LANES>().0;
        let rows = &mut rows[(panel * LANES + lane) * (WIDTH / LANES)..][..MR * (WIDTH / LANES)];
        let mut sums = [[simd.splat(0.0); NV]; MR];
        if !self.first {
            for i in 0..MR {
                for v in 0..NV {
                    sums[i][v] = simd.load(&rows[i * (WIDTH / LANES) + column + v]);
                }
            }
        }
        for group in 0..self.groups {
            let x = group * self.values_step + panel * GROUP * LANES + lane;
            let dy = group * self.grads_step + column * GROUP * LANES;
            for tile in 0..GROUP {
                // SAFETY: `run` saw the panels of the last group's transforms, and `panel` and
                // `column + v` are below their numbers.
                let (x, dy) = unsafe {
                    (
                        self.values.as_ptr().add(x + tile * LANES),
                        self.grads.as_ptr().add(dy + tile * LANES),
                    )
                };
                let mut columns = [simd.splat(0.0); NV];
                for v in 0..NV {
                    // SAFETY: as above; the 16 elements of a tile end inside its panel.
                    columns[v] = simd.load(unsafe { &*dy.add(v * GROUP * LANES).cast() });
                }
                for i in 0..MR {
                    // SAFETY: as above; `lane + i` is below 16.
                    let x = simd.splat(unsafe { *x.add(i) });
                    for v in 0..NV {
                        sums[i][v] = simd.mul_add(x, columns[v], sums[i][v]);
                    }
                }
            }
        }
        for i in 0..MR {
            for v in 0..NV {
                simd.store(sums[i][v], &mut rows[i * (WIDTH / LANES) + column + v]);
            }
        }
    }
}
