//! Sums of squares, in fp64. A span is cut into blocks from its own start, a block is added up in
//! sixteen lanes, the lanes in their order, and then the blocks in theirs: where the span lies and
//! which thread adds what changes nothing. What the sums are for is not known here.

use super::CpuDevice;
use super::simd::{Kernel, LANES, Simd};
use super::tasks::Cost;
use crate::device::Span;

impl CpuDevice {
    pub(crate) fn sums_of_squares(&self, values: &[f32], spans: &[Span], sums: &mut [f64]) {
        for (span, sum) in spans.iter().zip(sums) {
            *sum = self.sum_of_squares(&values[span.start..span.end()]);
        }
    }

    fn sum_of_squares(&self, values: &[f32]) -> f64 {
        let vectors = self.vectors();
        values.chunks(BLOCK * GROUP).fold(0.0, |sum, group| {
            let mut sums = [0.0; GROUP];
            let blocks = &mut sums[..group.len().div_ceil(BLOCK)];
            let cost = Cost::elements(group.len());
            self.map(cost, (group, BLOCK), blocks, |values| vectors.run(BlockSum { values }));
            blocks.iter().fold(sum, |sum, block| sum + block)
        })
    }
}

struct BlockSum<'a> {
    values: &'a [f32],
}

impl Kernel for BlockSum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> f64 {
        let mut lanes = [0.0f64; LANES];
        let (whole, rest) = self.values.as_chunks::<LANES>();
        for values in whole {
            add_squares(&mut lanes, values);
        }
        add_squares(&mut lanes, rest);
        in_order(lanes.into_iter())
    }
}

/// A square is exact, so it makes no difference whether a set fuses it with the addition.
#[inline(always)]
fn add_squares(lanes: &mut [f64; LANES], values: &[f32]) {
    for (lane, &value) in lanes.iter_mut().zip(values) {
        let value = f64::from(value);
        *lane += value * value;
    }
}

#[inline(always)]
fn in_order(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}

/// Elements of a task: 64 KiB.
const BLOCK: usize = 16 * 1024;
/// Blocks whose sums are kept at once, without asking for memory: enough work for several threads.
const GROUP: usize = 64;
