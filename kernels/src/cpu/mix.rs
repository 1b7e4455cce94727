//! Images take from their neighbours, in place. How much is the caller's choice.

use super::CpuDevice;
use super::erase::rows;
use super::simd::{Kernel, Simd};
use super::tasks::Cost;
use crate::ops::Mix;
use crate::shape::ImagesShape;

impl CpuDevice {
    pub(crate) fn mix(&self, shape: &ImagesShape, mix: Mix, x: &mut [f32]) {
        let len = shape.image_len();
        let Some(last) = shape.batch.checked_sub(1) else { return };
        // From the last image to the first each finds its neighbour as it was; the first one's is kept.
        let mut scratch = self.scratch();
        let kept = scratch.source.take(len);
        kept.copy_from_slice(&x[last * len..]);
        for sample in (0..shape.batch).rev() {
            let (before, own) = x.split_at_mut(sample * len);
            let other = if sample == 0 { &*kept } else { &before[(sample - 1) * len..] };
            self.take_from(shape, mix, &mut own[..len], other);
        }
    }

    fn take_from(&self, shape: &ImagesShape, mix: Mix, own: &mut [f32], other: &[f32]) {
        match mix {
            Mix::Blend { lambda } => {
                let vectors = self.vectors();
                self.chunks(Cost::elements(2 * own.len()), own, CHUNK, |index, own| {
                    let other = &other[index * CHUNK..][..own.len()];
                    vectors.run(Blend { lambda, own, other });
                });
            }
            Mix::Paste { window } => {
                for row in rows(shape, window) {
                    own[row.clone()].copy_from_slice(&other[row]);
                }
            }
        }
    }
}

struct Blend<'a> {
    lambda: f32,
    own: &'a mut [f32],
    other: &'a [f32],
}

impl Kernel for Blend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let (lambda, rest) = (self.lambda, 1.0 - self.lambda);
        for (own, other) in self.own.iter_mut().zip(self.other) {
            *own = lambda.mul_add(*own, rest * other);
        }
    }
}

/// Elements of a task: 64 KiB per operand.
const CHUNK: usize = 16 * 1024;
