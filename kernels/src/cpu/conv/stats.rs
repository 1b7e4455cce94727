//! Per-channel mean and variance of a convolution's result: each task measures its pixels while they
//! are in cache, then the tasks are merged in their order. The order is the shape's, not the
//! threads'. What the statistics are for is not known here.

use crate::cpu::simd::{Kernel, LANES, Simd, lanes, store_lanes};

/// Mean and sum of squared distances from it, per channel, of one task's rows.
pub(super) struct BlockStats<'a> {
    pub(super) rows: &'a [f32],        // [pixels, C]
    pub(super) channels: usize,        // C
    pub(super) moments: &'a mut [f32], // [2, C]
}

impl Kernel for BlockStats<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let BlockStats { rows, channels, moments } = self;
        let pixels = (rows.len() / channels) as f32;
        let (means, squares) = moments.split_at_mut(channels);
        for first in (0..channels).step_by(LANES) {
            let width = LANES.min(channels - first);
            let mut sum = simd.splat(0.0);
            for row in rows.chunks_exact(channels) {
                sum = simd.add(sum, lanes(simd, &row[first..], width));
            }
            let mean = simd.mul(sum, simd.splat(1.0 / pixels));
            store_lanes(simd, mean, &mut means[first..]);

            let mut sum = simd.splat(0.0);
            for row in rows.chunks_exact(channels) {
                let distance = simd.sub(lanes(simd, &row[first..], width), mean);
                sum = simd.mul_add(distance, distance, sum);
            }
            store_lanes(simd, sum, &mut squares[first..]);
        }
    }
}

/// Chan's merge of the blocks' moments, in f64 and in block order, into mean and biased variance.
pub(super) struct Merge<'a> {
    pub(super) moments: &'a [f32],   // [blocks, 2, C]
    pub(super) block_pixels: usize,  // of every block but the last
    pub(super) pixels: usize,        // of all blocks
    pub(super) stats: &'a mut [f32], // [2, C]
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let channels = self.stats.len() / 2;
        let (means, variances) = self.stats.split_at_mut(channels);
        let groups = means.chunks_mut(GROUP).zip(variances.chunks_mut(GROUP));
        for (group, (means, variances)) in groups.enumerate() {
            let lanes = group * GROUP..group * GROUP + means.len();
            let mut mean = [0.0f64; GROUP];
            let mut squares = [0.0f64; GROUP];
            let mut seen = 0.0f64;
            for (block, moments) in self.moments.chunks_exact(2 * channels).enumerate() {
                let left = self.pixels - block * self.block_pixels;
                let count = self.block_pixels.min(left) as f64;
                let weight = count / (seen + count);
                let (block_means, block_squares) = moments.split_at(channels);
                let block = block_means[lanes.clone()].iter().zip(&block_squares[lanes.clone()]);
                for ((mean, squares), (&m, &s)) in mean.iter_mut().zip(&mut squares).zip(block) {
                    let delta = f64::from(m) - *mean;
                    *squares += f64::from(s) + delta * delta * (seen * weight);
                    *mean += delta * weight;
                }
                seen += count;
            }
            for ((to, variance), (mean, squares)) in
                means.iter_mut().zip(variances).zip(mean.iter().zip(squares))
            {
                *to = *mean as f32;
                *variance = (squares / seen) as f32;
            }
        }
    }
}

/// Channels merged side by side.
const GROUP: usize = 16;
