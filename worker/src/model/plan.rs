//! Plans a buffer before it exists: hands out spans, then tells the length.

use kernels::Span;

#[derive(Debug, Default)]
pub(super) struct Planner {
    len: usize,
}

impl Planner {
    pub(super) fn span(&mut self, len: usize) -> Span {
        // Spans start on cache lines: 16 elements of 4 bytes.
        let start = self.len.next_multiple_of(16);
        self.len = start + len;
        Span { start, len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}
