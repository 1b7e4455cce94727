//! Sums over slices and fills: plain passes over memory. Whose numbers they are is not known here.

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

    pub(crate) fn fill(&self, into: &mut [f32], value: f32) {
        self.chunks(Cost::elements(into.len()), into, CHUNK, |_, into| into.fill(value));
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

/// Elements of a task: 64 KiB per operand.
const CHUNK: usize = 16 * 1024;
