//! Where the gradient vectors of one worker lie in its memory: behind a line that identifies it the sum, then those that its
//! slices are computed in. Pure arithmetic, which peers that read the memory do alike.

use std::ops::Range;

use kernels::Span;

use super::tree::SlicePlan;

#[derive(Clone, Copy, Debug)]
pub(super) struct Vectors {
    slots: usize,
    /// Values of each.
    len: usize,
}

impl Vectors {
    /// Of the worker that computes these slices.
    pub(super) fn new(run: Range<u32>, len: usize) -> Vectors {
        Vectors { slots: SlicePlan::new(run).slots(), len }
    }

    /// Values in the memory.
    pub(super) fn memory_len(&self) -> usize {
        self.at(1 + self.slots)
    }

    pub(super) fn sum(&self) -> Span {
        Span::new(self.at(0), self.len)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Span> + use<> {
        let vectors = *self;
        (0..self.slots).map(move |slot| vectors.slot(slot))
    }

    /// The partials of all slices end up in the first ones, in order.
    pub(super) fn slot(&self, slot: usize) -> Span {
        Span::new(self.at(1 + slot), self.len)
    }

    /// Vectors start on cache lines.
    fn at(&self, vector: usize) -> usize {
        LINE_VALUES + vector * self.len.next_multiple_of(LINE_VALUES)
    }
}

/// Values in 64 bytes.
const LINE_VALUES: usize = 16;
