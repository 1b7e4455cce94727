//! BatchNorm's backward in two passes over `[rows, C]`: the sums that every row needs, then the rows.
//! Where `dy` comes from and where `dz` goes is not known here.

use super::CpuDevice;
use super::norm::{RowMap, chunk_rows, inverse_deviation, map_rows};
use super::simd::{Kernel, LANES, Simd, lanes, store_lanes};
use super::tasks::Cost;
use crate::shape::NormShape;

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
        if dy.is_empty() {
            d_gamma.fill(0.0);
            d_beta.fill(0.0);
            return;
        }
        let vectors = self.vectors();
        let channels = shape.channels;
        let (mean, variance) = stats.split_at(channels);
        let block_len = chunk_rows(shape) * channels;
        let mut scratch = self.op_scratch();
        let sums = scratch.sums.take(dy.len().div_ceil(block_len) * 2 * channels);
        let cost = Cost::elements(3 * dy.len());
        self.chunk_pairs(cost, (dy, block_len), (sums, 2 * channels), |index, dy, sums| {
            let part = index * block_len..index * block_len + dy.len();
            let y = y.map(|y| &y[part.clone()]);
            vectors.run(Reduce { dy, y, z: &z[part], mean, sums });
        });
        // Blocks are added in f64 and in their order.
        for channel in 0..channels {
            let (mut of_dy, mut of_products) = (0.0f64, 0.0f64);
            for block in sums.chunks_exact(2 * channels) {
                of_dy += f64::from(block[channel]);
                of_products += f64::from(block[channels + channel]);
            }
            let inverse = f64::from(inverse_deviation(variance[channel], epsilon));
            d_beta[channel] = of_dy as f32;
            d_gamma[channel] = (of_products * inverse) as f32;
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
        if dz.is_empty() {
            return;
        }
        let vectors = self.vectors();
        let channels = shape.channels;
        let rows = shape.rows as f32;
        let (mean, variance) = stats.split_at(channels);
        let mut scratch = self.op_scratch();
        let (scale, rest) = scratch.sums.take(3 * channels).split_at_mut(channels);
        let (dy_mean, slope) = rest.split_at_mut(channels);
        for channel in 0..channels {
            let inverse = inverse_deviation(variance[channel], epsilon);
            scale[channel] = gamma[channel] * inverse;
            dy_mean[channel] = d_beta[channel] / rows;
            slope[channel] = d_gamma[channel] / rows * inverse;
        }
        let per_channel = [&*scale, dy_mean, slope, mean];
        let chunk = chunk_rows(shape) * channels;
        self.chunks(Cost::elements(3 * dz.len()), dz, chunk, |index, dz| {
            let part = index * chunk..index * chunk + dz.len();
            vectors.run(Apply { dy: &dy[part.clone()], z: &z[part], per_channel, dz });
        });
    }
}

/// Masks a block of `dy` and sums it, alone and times `z - mean`: one chain per channel each.
struct Reduce<'a> {
    dy: &'a mut [f32],    // [rows, C]
    y: Option<&'a [f32]>, // [rows, C]
    z: &'a [f32],         // [rows, C]
    mean: &'a [f32],      // [C]
    sums: &'a mut [f32],  // [2, C]
}

impl Kernel for Reduce<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let channels = self.mean.len();
        let mut first = 0;
        while first < channels {
            let whole = (channels - first) / LANES;
            first += match whole {
                8.. => reduce::<S, 8>(simd, &mut self, first, LANES),
                4.. => reduce::<S, 4>(simd, &mut self, first, LANES),
                1.. => reduce::<S, 1>(simd, &mut self, first, LANES),
                0 => reduce::<S, 1>(simd, &mut self, first, channels - first),
            };
        }
    }
}

/// `N` vectors of `width` channels from `first` on, row by row; returns the channels.
#[inline(always)]
fn reduce<S: Simd, const N: usize>(
    simd: S,
    of: &mut Reduce<'_>,
    first: usize,
    width: usize,
) -> usize {
    let channels = of.mean.len();
    let mut means = [simd.splat(0.0); N];
    for (v, means) in means.iter_mut().enumerate() {
        *means = lanes(simd, &of.mean[first + v * LANES..], width);
    }
    let mut sums = [simd.splat(0.0); N];
    let mut products = [simd.splat(0.0); N];
    for (row, dy) in of.dy.chunks_exact_mut(channels).enumerate() {
        let dy = &mut dy[first..first + (N - 1) * LANES + width];
        let at = row * channels + first;
        let z = &of.z[at..at + dy.len()];
        let y = of.y.map(|y| &y[at..at + dy.len()]);
        for v in 0..N {
            let mut d = lanes(simd, &dy[v * LANES..], width);
            if let Some(y) = y {
                d = simd.gated(lanes(simd, &y[v * LANES..], width), d);
                store_lanes(simd, d, &mut dy[v * LANES..]);
            }
            let distance = simd.sub(lanes(simd, &z[v * LANES..], width), means[v]);
            sums[v] = simd.add(sums[v], d);
            products[v] = simd.mul_add(d, distance, products[v]);
        }
    }
    let (of_dy, of_products) = of.sums.split_at_mut(channels);
    for v in 0..N {
        let at = first + v * LANES;
        store_lanes(simd, sums[v], &mut of_dy[at..at + width]);
        store_lanes(simd, products[v], &mut of_products[at..at + width]);
    }
    (N - 1) * LANES + width
}

/// `dz = scale * (dy - dy_mean - slope * (z - mean))`.
struct Apply<'a> {
    dy: &'a [f32],               // [rows, C]
    z: &'a [f32],                // [rows, C]
    per_channel: [&'a [f32]; 4], // scale, mean of dy, slope, mean of z
    dz: &'a mut [f32],           // [rows, C]
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Apply { dy, z, per_channel, dz } = self;
        map_rows(simd, &Slope, [dy, z], per_channel, dz);
    }
}

struct Slope;

impl RowMap<2, 4> for Slope {
    #[inline(always)]
    fn lanes<S: Simd>(&self, simd: S, [dy, z]: [S::V; 2], per_channel: [S::V; 4]) -> S::V {
        let [scale, dy_mean, slope, mean] = per_channel;
        let centred = simd.mul_add(simd.sub(mean, z), slope, simd.sub(dy, dy_mean));
        simd.mul(scale, centred)
    }
}
