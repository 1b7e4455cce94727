//! The engine of the forward pass and of the input gradient: tiles of a few pixels by up to 64
//! channels that stay in registers while all taps are summed. Each result is one chain of
//! multiply-adds, tap by tap and element by element, so neither the tile's size nor its neighbours
//! can be seen in its bits. Strides, phases and padding are known to `geometry` alone.

use std::ops::Range;

use super::geometry::{Grid, OUTSIDE, Phase, Source};
use crate::cpu::simd::{Kernel, LANES, Simd, add_lanes, store_lanes};
use crate::ops::Accumulate;

/// Where the taps of a task's pixels lie in the source and where their sums go.
#[derive(Debug, Default)]
pub(in crate::cpu) struct Table {
    offsets: Vec<u32>, // [taps, slots] of the source, or OUTSIDE
    outputs: Vec<u32>, // [pixels] of the task's part of the result
    slots: usize,      // pixels rounded up to whole tiles of any height
}

impl Table {
    /// The part of `phase` that lies in the result pixels `pixels`, each of `channels` elements.
    pub(super) fn fill(
        &mut self,
        source: &Source<'_>,
        phase: &Phase,
        (grid, channels): (Grid, usize),
        pixels: Range<usize>,
    ) {
        assert!(source.x.len() < OUTSIDE as usize, "a tensor of 2^32 elements or more");
        self.outputs.clear();
        for segment in phase.segments(grid, pixels.clone()) {
            let first = segment.pixel - pixels.start;
            let every = phase.columns.every;
            let columns = 0..segment.columns.len();
            self.outputs.extend(columns.map(|i| ((first + i * every) * channels) as u32));
        }
        self.slots = self.outputs.len().next_multiple_of(SLOTS);
        self.offsets.clear();
        self.offsets.resize(phase.taps() * self.slots, OUTSIDE);
        let mut slot = 0;
        for segment in phase.segments(grid, pixels) {
            for (tap, (row, column)) in phase.tap_pairs().enumerate() {
                let columns = column.clip(&segment.columns);
                if !row.inside.contains(&segment.row) || columns.is_empty() {
                    continue;
                }
                let source_row = phase.rows.source(segment.row, &row);
                let source_column = phase.columns.source(columns.start, &column);
                let first = source.offset(segment.image, source_row, source_column);
                let step = phase.columns.step * source.channels;
                let start = tap * self.slots + slot + columns.start - segment.columns.start;
                let offsets = &mut self.offsets[start..start + columns.len()];
                for (i, offset) in offsets.iter_mut().enumerate() {
                    *offset = (first + i * step) as u32;
                }
            }
            slot += segment.columns.len();
        }
    }
}

/// One task: all result channels of the pixels of a table.
pub(super) struct Block<'a> {
    pub(super) source: Source<'a>,
    pub(super) zeros: &'a [f32], // [run], what padding holds
    pub(super) table: &'a Table,
    pub(super) taps: usize,
    pub(super) weights: &'a [[f32; LANES]], // [panels, panel_rows], from the phase's first tap on
    pub(super) panel_rows: usize,
    pub(super) channels: usize, // of the result
    pub(super) accumulate: Accumulate,
    pub(super) out: &'a mut [f32], // the task's part of the result
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        self.check();
        let panels = self.channels.div_ceil(LANES);
        let mut panel = 0;
        while panel < panels {
            let group = match panels - panel {
                // 3 + 2 fill the registers better than 4 + 1.
                5 => 3,
                left => left,
            };
            panel += match (S::PANELS, group) {
                (4, 4..) => self.column::<S, 6, 4>(simd, panel),
                (4, 3) => self.column::<S, 8, 3>(simd, panel),
                (4, 2) => self.column::<S, 8, 2>(simd, panel),
                (4, _) => self.column::<S, 8, 1>(simd, panel),
                _ => self.column::<S, 6, 1>(simd, panel),
            };
        }
    }
}

impl Block<'_> {
    /// `NV` panels from `panel` on for all pixels, `MR` at a time; returns `NV`.
    #[inline(always)]
    fn column<S: Simd, const MR: usize, const NV: usize>(
        &mut self,
        simd: S,
        panel: usize,
    ) -> usize {
        const { assert!(SLOTS.is_multiple_of(MR)) };
        for first in (0..self.table.outputs.len()).step_by(MR) {
            let sums = self.sums::<S, MR, NV>(simd, first, panel);
            self.store(simd, first, panel, &sums);
        }
        NV
    }

    /// Panics unless every operand of every tile lies inside its slice. Checked here, once for all
    /// tiles: a branch to a panic in a tile's loops would cost it its registers.
    #[inline(always)]
    fn check(&self) {
        let (table, run) = (self.table, self.source.run);
        let inside = |&offset: &u32| if offset == OUTSIDE { 0 } else { offset };
        let largest = table.offsets.iter().map(inside).max();
        assert!(largest.is_none_or(|offset| offset as usize + run <= self.source.x.len()));
        assert!(run > 0 && self.zeros.len() == run);
        assert_eq!(table.offsets.len(), self.taps * table.slots);
        assert!(table.slots.is_multiple_of(SLOTS) && table.slots >= table.outputs.len());
        let panels = self.channels.div_ceil(LANES);
        assert!((panels - 1) * self.panel_rows + self.taps * run <= self.weights.len());
    }

    #[inline(always)]
    fn sums<S: Simd, const MR: usize, const NV: usize>(
        &self,
        simd: S,
        first: usize,
        panel: usize,
    ) -> [[S::V; NV]; MR] {
        let (table, run) = (self.table, self.source.run);
        let mut sums = [[simd.splat(0.0); NV]; MR];
        for tap in 0..self.taps {
            let mut rows = [self.zeros; MR];
            let mut weights = [self.weights; NV];
            // SAFETY: `check` saw `taps * slots` offsets with `run` elements of `x` behind each that
            // is not OUTSIDE, and `first + MR <= slots`, since both `slots` and `first` are
            // multiples of `MR` and `first` is below the number of outputs. It also saw the
            // `taps * run` rows of every panel, and `panel + NV` is at most the number of panels.
            unsafe {
                for (i, row) in rows.iter_mut().enumerate() {
                    let offset = *table.offsets.get_unchecked(tap * table.slots + first + i);
                    if offset != OUTSIDE {
                        let offset = offset as usize;
                        *row = self.source.x.get_unchecked(offset..offset + run);
                    }
                }
                for (v, weights) in weights.iter_mut().enumerate() {
                    let row = (panel + v) * self.panel_rows + tap * run;
                    *weights = self.weights.get_unchecked(row..row + run);
                }
            }
            let mut k = 0;
            loop {
                let mut w = [simd.splat(0.0); NV];
                for v in 0..NV {
                    // SAFETY: each slice of weights has `run` rows.
                    w[v] = simd.load(unsafe { weights[v].get_unchecked(k) });
                }
                for i in 0..MR {
                    // SAFETY: each row has `run` elements; `check` saw that the zeros have, too.
                    let x = simd.splat(unsafe { *rows[i].get_unchecked(k) });
                    for v in 0..NV {
                        sums[i][v] = simd.mul_add(x, w[v], sums[i][v]);
                    }
                }
                k += 1;
                if k == run {
                    break;
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn store<S: Simd, const MR: usize, const NV: usize>(
        &mut self,
        simd: S,
        first: usize,
        panel: usize,
        sums: &[[S::V; NV]; MR],
    ) {
        let outputs = &self.table.outputs[first..];
        for i in 0..MR {
            // The last tile may be taller than what is left.
            if i < outputs.len() {
                let pixel = &mut self.out[outputs[i] as usize..][..self.channels];
                for v in 0..NV {
                    let to = &mut pixel[(panel + v) * LANES..];
                    match self.accumulate {
                        Accumulate::Overwrite => store_lanes(simd, sums[i][v], to),
                        Accumulate::Add => add_lanes(simd, sums[i][v], to),
                    }
                }
            }
        }
    }
}

/// A multiple of every tile's height, so that a table serves them all.
const SLOTS: usize = 24;
