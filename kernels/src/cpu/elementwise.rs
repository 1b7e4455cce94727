//! Sums over slices, averages and fills: plain passes over memory. Whose numbers they are is not known here.

use super::CpuDevice;
use super::simd::{Kernel, Simd};
use super::tasks::Cost;

impl CpuDevice {
    pub(crate) fn add(&self, into: &mut [f32], from: &[f32]) {
        let vectors = self.vectors();
        self.chunks(Cost::elements(into.len()), into, CHUNK, |index, into| {
            let from = &from[index * CHUNK..][..into.len()];
            vectors.run(Add { into, from });
        });
    }

    pub(crate) fn lerp(&self, into: &mut [f32], toward: &[f32], weight: f32) {
        let vectors = self.vectors();
        self.chunks(Cost::elements(into.len()), into, CHUNK, |index, into| {
            let toward = &toward[index * CHUNK..][..into.len()];
            vectors.run(Lerp { into, toward, weight });
        });
    }

    pub(crate) fn fill(&self, into: &mut [f32], value: f32) {
        self.chunks(Cost::elements(into.len()), into, CHUNK, |_, into| into.fill(value));
    }

    pub(crate) fn first_non_finite(&self, values: &[f32]) -> Option<usize> {
        let vectors = self.vectors();
        // Nearly always there is none: a pass without branches finds the block, only then is it searched.
        let infected = |block: &[f32]| vectors.run(LargestMagnitude { values: block }) >= INFINITY;
        let block = values.chunks(CHUNK).position(infected)?;
        let start = block * CHUNK;
        values[start..].iter().position(|value| !value.is_finite()).map(|index| start + index)
    }
}

/// Bits of the largest magnitude; those of infinity and NaN are the largest of all.
struct LargestMagnitude<'a> {
    values: &'a [f32],
}

impl Kernel for LargestMagnitude<'_> {
    type Output = u32;

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> u32 {
        self.values.iter().fold(0, |largest, value| largest.max(value.to_bits() & MAGNITUDE))
    }
}

struct Add<'a> {
    into: &'a mut [f32],
    from: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        for (into, from) in self.into.iter_mut().zip(self.from) {
            *into += from;
        }
    }
}

struct Lerp<'a> {
    into: &'a mut [f32],
    toward: &'a [f32],
    weight: f32,
}

impl Kernel for Lerp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        for (into, toward) in self.into.iter_mut().zip(self.toward) {
            *into = self.weight.mul_add(toward - *into, *into);
        }
    }
}

/// All bits of a number but its sign.
const MAGNITUDE: u32 = 0x7fff_ffff;
/// Bits of infinity.
const INFINITY: u32 = 0x7f80_0000;
/// Elements of a task: 64 KiB per operand.
const CHUNK: usize = 16 * 1024;
