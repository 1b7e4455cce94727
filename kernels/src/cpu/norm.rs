//! BatchNorm in passes over `[rows, C]`: apply (with residual and ReLU), the two halves of the
//! backward, and the per-channel arithmetic around them. Batch statistics come from the convolution
//! that made the activation; nothing here computes them.

use super::CpuDevice;
use super::simd::{Kernel, Simd};
use super::tasks::Cost;
use crate::device::View;
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

    pub(crate) fn norm_apply(
        &self,
        shape: &NormShape,
        z: &[f32],
        affine: &[f32],
        residual: Residual<'_>,
        activation: Activation,
        y: &mut [f32],
    ) {
        let vectors = self.vectors();
        let chunk = chunk_rows(shape) * shape.channels;
        let relu = activation == Activation::Relu;
        self.chunks(Cost::elements(2 * y.len()), y, chunk, |index, y| {
            let part = index * chunk..index * chunk + y.len();
            let z = &z[part.clone()];
            match residual {
                Residual::None => vectors.run(Apply { affine, relu, z, added: [], y }),
                Residual::Plain(View::Cpu(other)) => {
                    vectors.run(Apply { affine, relu, z, added: [(&other[part], None)], y });
                }
                Residual::Normalised { z: View::Cpu(other), affine: View::Cpu(other_affine) } => {
                    let added = [(&other[part], Some(other_affine))];
                    vectors.run(Apply { affine, relu, z, added, y });
                }
            }
        });
    }
}

impl CpuDevice {
    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn norm_backward_reduce(
        &self,
        shape: &NormShape,
        dy: &mut [f32],
        y: Option<&[f32]>,
        z: &[f32],
        stats: &[f32],
        epsilon: f32,
        d_gamma: &mut [f32],
        d_beta: &mut [f32],
    ) {
        let c = shape.channels;
        if let Some(y) = y {
            for (dy, y) in dy.iter_mut().zip(y) {
                if *y <= 0.0 {
                    *dy = 0.0;
                }
            }
        }
        for ch in 0..c {
            let (mut b, mut g) = (0.0f64, 0.0f64);
            for r in 0..shape.rows {
                let d = f64::from(dy[r * c + ch]);
                b += d;
                g += d * f64::from(z[r * c + ch] - stats[ch]);
            }
            d_beta[ch] = b as f32;
            d_gamma[ch] = (g * f64::from(inverse_deviation(stats[c + ch], epsilon))) as f32;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
    pub(crate) fn norm_backward_apply(
        &self,
        shape: &NormShape,
        dy: &[f32],
        z: &[f32],
        stats: &[f32],
        gamma: &[f32],
        d_gamma: &[f32],
        d_beta: &[f32],
        epsilon: f32,
        dz: &mut [f32],
    ) {
        let c = shape.channels;
        let rows = shape.rows as f32;
        for i in 0..dz.len() {
            let ch = i % c;
            let inv = inverse_deviation(stats[c + ch], epsilon);
            let zh = (z[i] - stats[ch]) * inv;
            dz[i] = gamma[ch] * inv * (dy[i] - d_beta[ch] / rows - zh * d_gamma[ch] / rows);
        }
    }

    pub(crate) fn norm_update_running(
        &self,
        running: &mut [f32],
        slice_sums: &[f32],
        slices: usize,
        rows: usize,
        momentum: f32,
    ) {
        let channels = running.len() / 2;
        let unbias = if rows > 1 { rows as f32 / (rows - 1) as f32 } else { 1.0 };
        for (index, (running, sum)) in running.iter_mut().zip(slice_sums).enumerate() {
            let mean = sum / slices as f32;
            let batch = if index < channels { mean } else { mean * unbias };
            *running = (1.0 - momentum) * *running + momentum * batch;
        }
    }
}

fn chunk_rows(shape: &NormShape) -> usize {
    (16 * 1024 / shape.channels.max(1)).max(1)
}

fn inverse_deviation(variance: f32, epsilon: f32) -> f32 {
    1.0 / (variance + epsilon).sqrt()
}

struct Apply<'a, const N: usize> {
    affine: &'a [f32],
    relu: bool,
    z: &'a [f32],
    added: [(&'a [f32], Option<&'a [f32]>); N],
    y: &'a mut [f32],
}

impl<const N: usize> Kernel for Apply<'_, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let c = self.affine.len() / 2;
        for i in 0..self.y.len() {
            let ch = i % c;
            let mut v = self.z[i].mul_add(self.affine[ch], self.affine[c + ch]);
            for (o, a) in self.added {
                v += a.map_or(o[i], |a| o[i].mul_add(a[ch], a[c + ch]));
            }
            self.y[i] = if self.relu && v < 0.0 { 0.0 } else { v };
        }
    }
}
