//! The classes of all slices of a pass, side by side. Their memory stays from step to step.

use kernels::ops::Labels;

#[derive(Debug, Default)]
pub(super) struct Classes {
    own: Vec<u32>,
    other: Vec<u32>,
    lambda: Vec<f32>,
}

impl Classes {
    pub(super) fn clear(&mut self) {
        let Classes { own, other, lambda } = self;
        own.clear();
        other.clear();
        lambda.clear();
    }

    /// Those of one more slice.
    pub(super) fn push(&mut self, slice: &Labels<'_>) {
        self.own.extend_from_slice(slice.own);
        self.other.extend_from_slice(slice.other);
        self.lambda.extend_from_slice(slice.lambda);
    }

    pub(super) fn labels(&self) -> Labels<'_> {
        Labels { own: &self.own, other: &self.other, lambda: &self.lambda }
    }
}
