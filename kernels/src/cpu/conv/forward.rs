//! The forward pass: tasks of neighbouring output pixels, all channels each, with the statistics
//! that BatchNorm needs in the epilogue. What happens to the statistics is not known here.

use super::geometry::{Grid, Windows};
use super::stats::{BlockStats, Merge};
use super::tile::Block;
use super::winograd::Pass;
use crate::cpu::CpuDevice;
use crate::cpu::tasks::Cost;
use crate::ops::Accumulate;
use crate::shape::ConvShape;

impl CpuDevice {
    pub(crate) fn conv_forward(
        &self,
        shape: &ConvShape,
        x: &[f32],
        packed: &[f32],
        y: &mut [f32],
        stats: Option<&mut [f32]>,
    ) {
        if y.is_empty() {
            return;
        }
        if shape.is_winograd() {
            self.winograd_forward(shape, &Pass::forward(shape, x, packed), y, stats);
            return;
        }
        let mut scratch = self.op_scratch();
        let scratch = &mut *scratch;
        let windows = Windows::new(shape);
        let source = windows.source(self, shape, x, &mut scratch.source);
        let channels = shape.out_channels;
        let grid = Grid { height: shape.out_height(), width: shape.out_width() };
        let block_pixels = block_pixels(shape.out_pixels());
        let zeros = scratch.zeros.zeros(source.run);
        let compute = |index: usize, y: &mut [f32]| {
            let first = index * block_pixels;
            let pixels = first..first + y.len() / channels;
            let mut scratch = self.scratch();
            scratch.table.fill(&source, &windows.phase, (grid, channels), pixels);
            self.vectors().run(Block {
                source,
                zeros,
                table: &scratch.table,
                taps: windows.phase.taps(),
                weights: packed.as_chunks().0,
                panel_rows: shape.kernel * shape.kernel * shape.in_channels,
                channels,
                accumulate: Accumulate::Overwrite,
                out: y,
            });
        };
        let cost = Cost::flops(shape.flops());
        let block_len = block_pixels * channels;
        match stats {
            None => self.chunks(cost, y, block_len, compute),
            Some(stats) => {
                let blocks = shape.out_pixels().div_ceil(block_pixels);
                let moments = scratch.sums.take(blocks * 2 * channels);
                self.chunk_pairs(
                    cost,
                    (y, block_len),
                    (moments, 2 * channels),
                    |index, y, moments| {
                        compute(index, y);
                        self.vectors().run(BlockStats { rows: y, channels, moments });
                    },
                );
                let pixels = shape.out_pixels();
                self.vectors().run(Merge { moments, block_pixels, pixels, stats });
            }
        }
    }

    /// Forward by Winograd's algorithm, with statistics.
    fn winograd_forward(
        &self,
        shape: &ConvShape,
        pass: &Pass<'_>,
        y: &mut [f32],
        stats: Option<&mut [f32]>,
    ) {
        let cost = Cost::flops(shape.flops());
        let overwrite = Accumulate::Overwrite;
        let Some(stats) = stats else {
            self.winograd(pass, y, overwrite, cost);
            return;
        };
        let (channels, pixels) = (shape.out_channels, shape.out_pixels());
        let block_pixels = if pass.is_wide() { STATS_PIXELS } else { pass.block_pixels() };
        let blocks = pixels.div_ceil(block_pixels);
        let mut scratch = self.op_scratch();
        let moments = scratch.sums.take(blocks * 2 * channels);
        let block_len = block_pixels * channels;
        if pass.is_wide() {
            self.winograd(pass, y, overwrite, cost);
            let cost = Cost::elements(y.len());
            self.chunks(cost, moments, 2 * channels, |index, moments| {
                let rows = &y[index * block_len..(index * block_len + block_len).min(y.len())];
                self.vectors().run(BlockStats { rows, channels, moments });
            });
        } else {
            let pairs = ((y, block_len), (moments, 2 * channels));
            self.chunk_pairs(cost, pairs.0, pairs.1, |index, y, moments| {
                self.winograd_block(pass, index, y, overwrite);
                self.vectors().run(BlockStats { rows: y, channels, moments });
            });
        }
        self.vectors().run(Merge {
            moments: scratch.sums.take(blocks * 2 * channels),
            block_pixels,
            pixels,
            stats,
        });
    }
}

/// Pixels of a block of statistics where no task owns one.
const STATS_PIXELS: usize = 128;

/// Pixels of a task: enough to use the weights often while they are in cache, few enough that a
/// small image still makes tasks for several threads. All are multiples of the tiles' heights.
pub(super) fn block_pixels(pixels: usize) -> usize {
    match pixels {
        1536.. => 96,
        192.. => 48,
        _ => 24,
    }
}
