//! The weight gradient: for each tap, the sum over pixels of the outer products `x * dy`. Pixels are
//! cut into fixed groups and blocks; a block is one chain of multiply-adds, blocks are added in
//! order, then groups are. Forward pass and input gradient are not known here.

use std::ops::Range;

use super::geometry::Windows;
use super::outer::{BLOCK_PIXELS, COPY_LEN, OuterSum, rows_len};
use crate::cpu::CpuDevice;
use crate::cpu::tasks::Cost;
use crate::shape::ConvShape;

impl CpuDevice {
    pub(crate) fn conv_weight_grad(
        &self,
        shape: &ConvShape,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
    ) {
        if dw.is_empty() {
            return;
        }
        if shape.is_winograd() {
            self.winograd_weight_grad(shape, x, dy, dw);
            return;
        }
        let mut scratch = self.op_scratch();
        let scratch = &mut *scratch;
        let windows = Windows::new(shape);
        let source = windows.source(self, shape, x, &mut scratch.source);
        assert!(source.x.len().max(dy.len()) < u32::MAX as usize, "a tensor of 2^32 elements");
        let cuts = Cuts::new(shape, windows.phase.taps(), source.run);
        let tap_len = cuts.rows * shape.out_channels;
        let task_len = cuts.taps * tap_len;
        let task = |index: usize, sums: &mut [f32]| {
            let (group, part) = (index / cuts.per_group, index % cuts.per_group);
            let (part, first_row) = (part / cuts.row_parts, part % cuts.row_parts * cuts.rows);
            let mut scratch = self.scratch();
            let scratch = &mut *scratch;
            sums.fill(0.0);
            // All taps of a block in turn: they read nearly the same pixels.
            for pixels in cuts.blocks(group) {
                for (tap, sums) in sums.chunks_exact_mut(tap_len).enumerate() {
                    let tap = part * cuts.taps + tap;
                    scratch.pairs.fill(&windows, &source, shape, tap, pixels.clone());
                    self.vectors().run(OuterSum {
                        x: source.x,
                        dy,
                        pairs: &scratch.pairs,
                        first_row,
                        channels: shape.out_channels,
                        copy: scratch.columns.take(COPY_LEN),
                        rows: scratch.rows.take(rows_len(cuts.rows)),
                        sums,
                    });
                }
            }
        };
        let cost = Cost::flops(shape.flops());
        if cuts.groups == 1 {
            self.chunks(cost, dw, task_len, task);
        } else {
            let partial = scratch.sums.take(cuts.groups * dw.len());
            self.chunks(cost, partial, task_len, task);
            self.add_groups(partial, dw);
        }
    }

    /// `dw` = the groups' sums, added in the groups' order.
    fn add_groups(&self, partial: &[f32], dw: &mut [f32]) {
        let len = dw.len();
        self.chunks(Cost::elements(partial.len()), dw, SUM_CHUNK, |index, dw| {
            let part = index * SUM_CHUNK..index * SUM_CHUNK + dw.len();
            let mut groups = partial.chunks_exact(len).map(|group| &group[part.clone()]);
            dw.copy_from_slice(groups.next().unwrap_or(&[]));
            for group in groups {
                for (dw, partial) in dw.iter_mut().zip(group) {
                    *dw += partial;
                }
            }
        });
    }
}

/// How the work is cut, from the shape alone: by pixels first, which reads each operand once, then
/// by taps, then by rows of `dw`.
#[derive(Debug)]
struct Cuts {
    pixels: usize,
    group_pixels: usize, // of every group but the last
    groups: usize,
    per_group: usize, // tasks
    row_parts: usize, // of a tap; above 1 only where a task has one tap
    taps: usize,      // of a task
    rows: usize,      // of each of its taps
}

impl Cuts {
    fn new(shape: &ConvShape, taps: usize, rows: usize) -> Cuts {
        let pixels = shape.out_pixels();
        let groups =
            TASKS.min(pixels / GROUP_PIXELS).min(PARTIAL_ELEMENTS / shape.weight_len()).max(1);
        let group_pixels = pixels.div_ceil(groups).next_multiple_of(BLOCK_PIXELS).max(1);
        let groups = pixels.div_ceil(group_pixels).max(1);

        let enough = |parts: &usize| taps.is_multiple_of(*parts) && groups * parts >= TASKS;
        let tap_parts = (1..=taps).find(enough).unwrap_or(taps);
        let fits = |parts: &usize| {
            rows.is_multiple_of(*parts)
                && rows / parts >= TASK_ROWS
                && groups * tap_parts * parts < 2 * TASKS
        };
        let one_tap = tap_parts == taps;
        let row_parts = (1..=TASKS).rev().find(|parts| one_tap && fits(parts)).unwrap_or(1);
        Cuts {
            pixels,
            group_pixels,
            groups,
            per_group: tap_parts * row_parts,
            row_parts,
            taps: taps / tap_parts,
            rows: rows / row_parts,
        }
    }

    fn blocks(&self, group: usize) -> impl Iterator<Item = Range<usize>> {
        let end = ((group + 1) * self.group_pixels).min(self.pixels);
        let starts = (group * self.group_pixels..end).step_by(BLOCK_PIXELS);
        starts.map(move |start| start..(start + BLOCK_PIXELS).min(end))
    }
}

/// Tasks to aim at: enough to keep many threads evenly busy.
const TASKS: usize = 16;

/// Fewest rows of `dw` in a task that shares a tap: each task gathers the tap's pixels again.
const TASK_ROWS: usize = 64;

/// Fewest pixels of a group: each costs a pass over `dw` at the end.
const GROUP_PIXELS: usize = 1024;

/// Most elements of all groups' sums, 8 MiB.
const PARTIAL_ELEMENTS: usize = 2 * 1024 * 1024;

/// Elements of a task that adds groups.
const SUM_CHUNK: usize = 16 * 1024;
