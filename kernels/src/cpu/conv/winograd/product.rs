//! The engine of forward pass and input gradient: for one point, a group's tiles times the weights of
//! up to 64 result channels. Each product is one chain of multiply-adds over the source's channels.

use super::{GROUP, WIDTH};
use crate::cpu::simd::{Kernel, LANES, Simd};

/// `out[tile, 64] = values[tile, channels] * weights[channels, 64]`.
pub(super) struct Product<'a> {
    pub(super) values: &'a [f32], // [panels, GROUP, 16], one point of a group
    pub(super) weights: &'a [[f32; LANES]], // one point of `columns` panels, `panel_rows` apart
    pub(super) panel_rows: usize,
    pub(super) panels: usize,      // of the source's channels
    pub(super) columns: usize,     // panels of the result, at most 4
    pub(super) ahead: usize,       // rows to the weights of the next product, 0 for none
    pub(super) out: &'a mut [f32], // [tiles of the group, 64]
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let rows = self.panels * LANES;
        assert!(self.values.len() >= self.panels * GROUP * LANES);
        assert!((self.columns - 1) * self.panel_rows + rows <= self.weights.len());
        assert!(self.columns * LANES <= WIDTH && self.out.len().is_multiple_of(WIDTH));
        assert!(self.out.len() <= GROUP * WIDTH);
        let last = (self.columns - 1) * self.panel_rows + rows;
        if last + self.ahead > self.weights.len() {
            self.ahead = 0;
        }
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

impl Product<'_> {
    /// `NV` panels from `column` on for all tiles; returns `NV`.
    #[inline(always)]
    fn column<S: Simd, const NV: usize>(&mut self, simd: S, column: usize) -> usize {
        let tiles = self.out.len() / WIDTH;
        for first in (0..tiles).step_by(ROWS) {
            // The first rows of a group fetch for the next product, the others have what they need.
            let sums = match first {
                0 if self.ahead > 0 => self.sums::<S, NV, true>(simd, first, column),
                _ => self.sums::<S, NV, false>(simd, first, column),
            };
            for (i, sums) in sums.iter().enumerate() {
                if first + i < tiles {
                    let row = &mut self.out[(first + i) * WIDTH..][..WIDTH];
                    for (v, &sum) in sums.iter().enumerate() {
                        simd.store(sum, &mut row.as_chunks_mut().0[column + v]);
                    }
                }
            }
        }
        NV
    }

    #[inline(always)]
    fn sums<S: Simd, const NV: usize, const FETCH: bool>(
        &self,
        simd: S,
        first: usize,
        column: usize,
    ) -> [[S::V; NV]; ROWS] {
        let mut sums = [[simd.splat(0.0); NV]; ROWS];
        let values = self.values.as_ptr();
        let weights = self.weights.as_ptr();
        for panel in 0..self.panels {
            for lane in 0..LANES {
                let mut w = [simd.splat(0.0); NV];
                for v in 0..NV {
                    let row = (column + v) * self.panel_rows + panel * LANES + lane;
                    // SAFETY: `run` saw `panels * 16` rows behind each of the `columns` panels.
                    w[v] = simd.load(unsafe { &*weights.add(row) });
                    if FETCH {
                        // SAFETY: `run` saw `ahead` rows more behind the last.
                        simd.prefetch(unsafe { &*weights.add(row + self.ahead) });
                    }
                }
                for i in 0..ROWS {
                    let at = (panel * GROUP + first + i) * LANES + lane;
                    // SAFETY: `run` saw `panels * GROUP * 16` values, and `first + i < GROUP`, since
                    // both GROUP and `first` are multiples of ROWS.
                    let x = simd.splat(unsafe { *values.add(at) });
                    for v in 0..NV {
                        sums[i][v] = simd.mul_add(x, w[v], sums[i][v]);
                    }
                }
            }
        }
        sums
    }
}

/// Tiles in registers at once.
const ROWS: usize = 6;
const _: () = assert!(GROUP.is_multiple_of(ROWS));
