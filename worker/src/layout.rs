//! The flat layout of everything a model learns: which tensor lies where in the parameter buffer.
//!
//! Parameters lie in the order in which backward finishes their gradients, so that a bucket of the exchange is one
//! contiguous run. The gradient vector of a slice has the parameters' layout, followed by the slice's BatchNorm
//! statistics (layout of the running statistics) and its totals: what workers must agree on travels in one exchange.
//! Names are torchvision's. This file knows no arithmetic, no file format and no network.

use std::ops::Range;

use kernels::Span;

/// What a tensor is, which decides its initial value, its weight decay and its form in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `[kernel, kernel, inputs, outputs]` here, `[outputs, inputs, kernel, kernel]` in a checkpoint.
    ConvWeight { kernel: usize, inputs: usize, outputs: usize },
    /// `[outputs]` of a convolution that adds this many products for each output.
    ConvBias { inputs: usize },
    /// `[inputs, outputs]` here, `[outputs, inputs]` in a checkpoint.
    LinearWeight { inputs: usize, outputs: usize },
    /// `[outputs]` of a linear layer with this many inputs.
    LinearBias { inputs: usize },
    /// gamma, `[channels]`
    NormScale,
    /// beta, `[channels]`
    NormShift,
    /// `[channels]`
    RunningMean,
    /// `[channels]`
    RunningVariance,
}

impl Role {
    /// Convolution and linear weights decay; BatchNorm parameters and biases do not (Goyal et al., "Accurate, Large
    /// Minibatch SGD", 2017, section 5.1, and He et al., "Bag of Tricks", 2018, section 3.1).
    pub fn decays(self) -> bool {
        matches!(self, Role::ConvWeight { .. } | Role::LinearWeight { .. })
    }
}

/// One named tensor of a flat buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    pub role: Role,
    pub span: Span,
}

/// Where every parameter and every running statistic lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// In the order in which backward finishes them; spans count from the start of the parameter buffer.
    pub parameters: Vec<Tensor>,
    /// Spans count from the start of the buffer of running statistics.
    pub statistics: Vec<Tensor>,
}

impl Layout {
    /// Appends a parameter.
    pub fn parameter(&mut self, name: String, role: Role, len: usize) -> Span {
        append(&mut self.parameters, name, role, len)
    }

    /// Appends a BatchNorm layer's running mean and variance; the span covers both, `[2, channels]`.
    pub fn running(&mut self, norm: &str, channels: usize) -> Span {
        let mean = append(
            &mut self.statistics,
            format!("{norm}.running_mean"),
            Role::RunningMean,
            channels,
        );
        append(
            &mut self.statistics,
            format!("{norm}.running_var"),
            Role::RunningVariance,
            channels,
        );
        Span { start: mean.start, len: 2 * channels }
    }

    pub fn parameters_len(&self) -> usize {
        end(&self.parameters)
    }

    pub fn statistics_len(&self) -> usize {
        end(&self.statistics)
    }

    /// Length of a slice's gradient vector.
    pub fn gradient_len(&self) -> usize {
        self.totals().start + self.totals().len
    }

    /// Where the gradient vector holds a layer's slice statistics, given the span of its running ones.
    pub fn slice_statistics(&self, running: Span) -> Span {
        Span { start: self.parameters_len() + running.start, len: running.len }
    }

    /// Where the gradient vector holds the totals: see `Total`.
    pub fn totals(&self) -> Span {
        Span { start: self.parameters_len() + self.statistics_len(), len: TOTALS }
    }

    /// What an element of the gradient vector belongs to, for people.
    pub fn name_of_gradient(&self, index: usize) -> String {
        let find = |tensors: &[Tensor], index: usize| {
            let found = tensors.iter().find(|tensor| index < tensor.span.end());
            found.map(|tensor| tensor.name.clone())
        };
        if let Some(name) = find(&self.parameters, index) {
            return format!("the gradient of {name}");
        }
        match find(&self.statistics, index - self.parameters_len()) {
            Some(name) => format!("a slice's contribution to {name}"),
            None => "the loss".to_owned(),
        }
    }

    /// Cuts the gradient vector into buckets: whole tensors, gathered until a bucket would exceed `len_max` elements
    /// (a larger tensor is a bucket of its own); statistics and totals come last.
    pub fn buckets(&self, len_max: usize) -> Vec<Range<usize>> {
        let mut buckets: Vec<Range<usize>> = Vec::new();
        let tail = Span { start: self.parameters_len(), len: self.statistics_len() + TOTALS };
        for span in self.parameters.iter().map(|tensor| tensor.span).chain([tail]) {
            let end = span.start + span.len;
            match buckets.last_mut() {
                Some(bucket) if end - bucket.start <= len_max => bucket.end = end,
                _ => buckets.push(span.start..end),
            }
        }
        buckets
    }
}

/// Sums over a slice that travel behind its gradients, by index into `Layout::totals`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Total {
    /// Loss, summed over samples.
    Loss = 0,
    /// Samples whose largest logit is the label; of a mixed sample, the label of the larger weight.
    Correct = 1,
    /// Slices whose worker was asked to stop: above 0 all members stop after this very step.
    StopVotes = 2,
    /// Slices whose worker was asked to pause: above 0 all members wait behind this very step.
    PauseVotes = 3,
    /// First of `STATE_WORDS` numbers that tell from which state the slice was computed; see `guard`.
    State = 4,
}

/// Numbers of the totals that tell of a state.
pub const STATE_WORDS: usize = 8;
/// How many.
pub const TOTALS: usize = Total::State as usize + STATE_WORDS;

fn append(tensors: &mut Vec<Tensor>, name: String, role: Role, len: usize) -> Span {
    let span = Span { start: end(tensors), len };
    tensors.push(Tensor { name, role, span });
    span
}

fn end(tensors: &[Tensor]) -> usize {
    tensors.last().map_or(0, |tensor| tensor.span.start + tensor.span.len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(lens: &[usize]) -> Layout {
        let mut layout = Layout::default();
        for (i, &len) in lens.iter().enumerate() {
            layout.parameter(format!("p{i}"), Role::NormScale, len);
        }
        layout.running("bn1", 2);
        layout
    }

    #[test]
    fn buckets_cover_the_gradient_vector_once_and_in_order() {
        for len_max in [1, 5, 8, 100] {
            let layout = layout(&[3, 4, 9, 1, 1]);
            let buckets = layout.buckets(len_max);
            assert_eq!(buckets.first().unwrap().start, 0);
            assert_eq!(buckets.last().unwrap().end, layout.gradient_len());
            assert!(buckets.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
        assert_eq!(layout(&[3, 4, 9, 1, 1]).buckets(9), [0..7, 7..16, 16..18, 18..34]);
        assert_eq!(layout(&[3, 4, 9, 1, 1]).buckets(17), [0..17, 17..34]);
    }

    #[test]
    fn each_element_of_the_gradient_vector_has_a_name() {
        let layout = layout(&[3, 4]);
        let names: Vec<String> = (0..14).map(|index| layout.name_of_gradient(index)).collect();
        assert_eq!(names[2], "the gradient of p0");
        assert_eq!(names[6], "the gradient of p1");
        assert_eq!(names[9], "a slice's contribution to bn1.running_var");
        assert_eq!(names[13], "the loss");
    }

    #[test]
    fn statistics_and_totals_follow_the_parameters() {
        let layout = layout(&[10]);
        assert_eq!(layout.slice_statistics(Span { start: 0, len: 4 }), Span { start: 10, len: 4 });
        assert_eq!(layout.totals(), Span { start: 14, len: 12 });
        assert_eq!(layout.gradient_len(), 26);
    }
}
