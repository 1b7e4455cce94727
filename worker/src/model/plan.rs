//! Plans a buffer before it exists: hands out spans, then tells the length.

use kernels::Span;

use super::resnet::Graph;

/// Numbers of fp32 elements, known before anything is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elements {
    pub parameters: usize,
    /// Of a slice's gradient vector.
    pub gradient: usize,
    /// Of all buffers of a `ResNet`.
    pub total: usize,
    /// Those among them that a device may keep in another precision.
    pub activations: usize,
    /// That the device takes besides for its largest op, about.
    pub working: usize,
}

impl Graph {
    pub(super) fn elements(&self) -> Elements {
        let parameters = self.layout.parameters_len();
        let activations = self.packed_len + self.activations_len;
        let total = parameters + self.layout.statistics_len() + activations + self.vectors_len;
        // Winograd sums up the gradient of a 3x3 kernel at 36 points.
        let lens = self.layout.parameters.iter().map(|tensor| tensor.span.len);
        let working = 4 * lens.max().unwrap_or(0);
        Elements { parameters, gradient: self.layout.gradient_len(), total, activations, working }
    }
}

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
