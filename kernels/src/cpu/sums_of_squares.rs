//! Sums of squares, in fp64. A span is cut into blocks from its own start, a block is added up in
//! sixteen lanes, the lanes in their order, and then the blocks in theirs: where the span lies and
//! which thread adds what changes nothing. What the sums are for is not known here.

use super::CpuDevice;
use super::simd::{Kernel, LANES, Simd};
use super::tasks::Cost;
use crate::device::Span;

impl CpuDevice {
    pub(crate) fn sums_of_squares(&self, values: &[f32], spans: &[Span]) -> Vec<f64> {
        let vectors = self.vectors();
        let of = |span: &Span| values[span.start..span.end()].chunks(BLOCK);
        let blocks: Vec<&[f32]> = spans.iter().flat_map(of).collect();
        let cost = Cost::elements(spans.iter().map(|span| span.len).sum());
        let sums = self.map(cost, &blocks, |values| vectors.run(BlockSum { values }));
        let mut sums = sums.into_iter();
        let total = |span: &Span| in_order(sums.by_ref().take(span.len.div_ceil(BLOCK)));
        spans.iter().map(total).collect()
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
