//! BatchNorm in passes over `[rows, C]`: apply (with residual and ReLU), and the per-channel
//! arithmetic around it. Batch statistics come from the convolution that made the activation;
//! nothing here computes them.

use super::CpuDevice;
use super::simd::{Kernel, LANES, Simd, lanes, store_lanes};
use super::tasks::Cost;

use crate::ops::{Activation, Residual};
use crate::shape::NormShape;

impl CpuDevice {
    pub(crate) fn norm_affine(
        &self,
        stats: &[f32],
        gamma: &[f32],
        beta: &[f32],
        epsilon: f32,
        affine: &mut [f32],
    ) {
        let (mean, variance) = stats.split_at(gamma.len());
        let (scale, shift) = affine.split_at_mut(gamma.len());
        for channel in 0..gamma.len() {
            scale[channel] = gamma[channel] * inverse_deviation(variance[channel], epsilon);
            shift[channel] = (-mean[channel]).mul_add(scale[channel], beta[channel]);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn norm_apply(
        &self,
        shape: &NormShape,
        z: &[f32],
        affine: &[f32],
        residual: Residual<'_>,
        activation: Activation,
        y: &mut [f32],
    ) {
        if y.is_empty() {
            return;
        }
        let vectors = self.vectors();
        let chunk = chunk_rows(shape) * shape.channels;
        let relu = activation == Activation::Relu;
        self.chunks(Cost::elements(2 * y.len()), y, chunk, |index, y| {
            let part = index * chunk..index * chunk + y.len();
            let z = &z[part.clone()];
            let added = match residual {
                Residual::None => Added::Nothing,
                Residual::Plain(other) => Added::Plain(&other.cpu()[part]),
                Residual::Normalised { z: other, affine } => {
                    Added::Normalised(&other.cpu()[part], affine.cpu())
                }
            };
            vectors.run(Apply { z, affine, added, relu, y });
        });
    }

    pub(crate) fn norm_update_running(
        &self,
        running: &mut [f32],
        slice_sums: &[f32],
        slices: usize,
        rows: usize,
        momentum: f32,
    ) {
        let (mean_sums, variance_sums) = slice_sums.split_at(running.len() / 2);
        let (means, variances) = running.split_at_mut(running.len() / 2);
        let unbiased = if rows > 1 { rows as f32 / (rows - 1) as f32 } else { 1.0 };
        let update = |running: &mut [f32], sums: &[f32], factor: f32| {
            for (running, sum) in running.iter_mut().zip(sums) {
                let batch = sum / slices as f32 * factor;
                *running = momentum.mul_add(batch - *running, *running);
            }
        };
        update(means, mean_sums, 1.0);
        update(variances, variance_sums, unbiased);
    }
}

/// `1 / sqrt(variance + epsilon)`; both roundings are exact IEEE operations on every machine.
pub(super) fn inverse_deviation(variance: f32, epsilon: f32) -> f32 {
    1.0 / (variance + epsilon).sqrt()
}

/// Rows of a task: 64 KiB per operand.
pub(super) fn chunk_rows(shape: &NormShape) -> usize {
    (CHUNK / shape.channels).max(1)
}

/// What is computed from `R` operands `[rows, C]` and `K` vectors `[C]`, element by element.
pub(super) trait RowMap<const R: usize, const K: usize> {
    /// Sixteen channels of a row. Must be `#[inline(always)]`, as all that computes with `S`.
    fn lanes<S: Simd>(&self, simd: S, operands: [S::V; R], per_channel: [S::V; K]) -> S::V;
}

/// Writes `y[row, c] = map(operands[row, c], per_channel[c])`.
#[inline(always)]
pub(super) fn map_rows<S: Simd, const R: usize, const K: usize>(
    simd: S,
    map: &impl RowMap<R, K>,
    operands: [&[f32]; R],
    per_channel: [&[f32]; K],
    y: &mut [f32],
) {
    let channels = per_channel[0].len();
    for (row, y) in y.chunks_exact_mut(channels).enumerate() {
        for first in (0..channels).step_by(LANES) {
            let width = LANES.min(channels - first);
            let mut rows = [simd.splat(0.0); R];
            for (lanes_of, operand) in rows.iter_mut().zip(operands) {
                *lanes_of = lanes(simd, &operand[row * channels + first..], width);
            }
            let mut vectors = [simd.splat(0.0); K];
            for (lanes_of, vector) in vectors.iter_mut().zip(per_channel) {
                *lanes_of = lanes(simd, &vector[first..], width);
            }
            let value = map.lanes(simd, rows, vectors);
            store_lanes(simd, value, &mut y[first..]);
        }
    }
}

struct Apply<'a> {
    z: &'a [f32],      // [rows, C]
    affine: &'a [f32], // [2, C]
    added: Added<'a>,
    relu: bool,
    y: &'a mut [f32], // [rows, C]
}

#[derive(Clone, Copy)]
enum Added<'a> {
    Nothing,
    Plain(&'a [f32]),                 // [rows, C]
    Normalised(&'a [f32], &'a [f32]), // [rows, C], [2, C]
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Apply { z, affine, added, relu, y } = self;
        let (scale, shift) = affine.split_at(affine.len() / 2);
        let act = Activated { floor: if relu { 0.0 } else { f32::NEG_INFINITY } };
        match added {
            Added::Nothing => map_rows(simd, &act, [z], [scale, shift], y),
            Added::Plain(other) => map_rows(simd, &act, [z, other], [scale, shift], y),
            Added::Normalised(other, affine) => {
                let (other_scale, other_shift) = affine.split_at(affine.len() / 2);
                let vectors = [scale, shift, other_scale, other_shift];
                map_rows(simd, &act, [z, other], vectors, y);
            }
        }
    }
}

/// The normalised sum, cut off below `floor`.
struct Activated {
    floor: f32,
}

impl RowMap<1, 2> for Activated {
    #[inline(always)]
    fn lanes<S: Simd>(&self, simd: S, [z]: [S::V; 1], [scale, shift]: [S::V; 2]) -> S::V {
        simd.at_least(simd.mul_add(z, scale, shift), simd.splat(self.floor))
    }
}

impl RowMap<2, 2> for Activated {
    #[inline(always)]
    fn lanes<S: Simd>(&self, simd: S, [z, other]: [S::V; 2], [scale, shift]: [S::V; 2]) -> S::V {
        let sum = simd.add(simd.mul_add(z, scale, shift), other);
        simd.at_least(sum, simd.splat(self.floor))
    }
}

impl RowMap<2, 4> for Activated {
    #[inline(always)]
    fn lanes<S: Simd>(&self, simd: S, [z, other]: [S::V; 2], [a, b, c, d]: [S::V; 4]) -> S::V {
        let sum = simd.add(simd.mul_add(z, a, b), simd.mul_add(other, c, d));
        simd.at_least(sum, simd.splat(self.floor))
    }
}

/// Elements of a task, per operand.
const CHUNK: usize = 16 * 1024;
