//! Exact evaluation: every test image once, integer results, the same for any number of workers.

use std::ops::Range;

use crate::collective::Abort;
use crate::data::Source;
use crate::model::ResNet;

/// What a share of the test set gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub samples: u64,
    pub correct: u64,
    pub correct_top5: u64,
    /// Sum of the losses, each in units of 2^-20 and rounded: integers add up the same in any order.
    pub loss_fixed: i64,
}

/// The test images that rank `rank` of `world` looks at.
pub fn share(len: usize, rank: usize, world: usize) -> Range<usize> {
    len * rank / world..len * (rank + 1) / world
}

/// Evaluates the test images of `samples` with the running statistics; `None` when aborted.
pub fn evaluate(
    model: &mut ResNet,
    source: &Source,
    samples: Range<usize>,
    abort: &Abort,
) -> Option<Counts> {
    let geometry = model.geometry();
    let mut counts = Counts::default();
    for first in samples.clone().step_by(geometry.batch) {
        if abort.is_aborted() {
            return None;
        }
        let batch = source.test(first, geometry.batch);
        model.load(&batch.pixels, &batch.crops, source.mean(), source.std());
        let logits = model.predict();
        let valid = geometry.batch.min(samples.end - first);
        for (logits, &label) in logits.chunks_exact(geometry.classes).zip(&batch.labels[..valid]) {
            counts.add(logits, label);
        }
    }
    Some(counts)
}

impl Counts {
    fn add(&mut self, logits: &[f32], label: u32) {
        let own = logits[label as usize];
        // A tie counts for the smaller index, as argmax does. NaN is never larger, so it is counted against.
        let ahead = |(class, &logit): (usize, &f32)| {
            logit > own || (logit == own && class < label as usize)
        };
        let rank = logits.iter().enumerate().filter(|&item| ahead(item)).count();
        let usable = logits.iter().all(|logit| logit.is_finite());
        self.samples += 1;
        self.correct += u64::from(usable && rank == 0);
        self.correct_top5 += u64::from(usable && rank < 5);
        self.loss_fixed += fixed(cross_entropy(logits, own));
    }
}

/// `log(sum(exp(logits))) - own`, in fp64 with libm's functions, so that all machines agree.
fn cross_entropy(logits: &[f32], own: f32) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| libm::exp(f64::from(logit) - largest)).sum();
    largest + libm::log(sum) - f64::from(own)
}

fn fixed(loss: f64) -> i64 {
    let loss = if loss.is_finite() { loss.min(LOSS_MAX) } else { LOSS_MAX };
    libm::round(loss * f64::from(LOSS_UNIT)) as i64
}

/// Units of `loss_fixed` in a loss of 1.
const LOSS_UNIT: u32 = 1 << 20;
/// A loss beyond this (or none) counts as this: a billion images still add up without overflow.
const LOSS_MAX: f64 = 1000.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_the_test_set_once() {
        for (len, world) in [(360, 1), (360, 7), (3, 5), (10_000, 16)] {
            let all: Vec<usize> = (0..world).flat_map(|rank| share(len, rank, world)).collect();
            assert_eq!(all, (0..len).collect::<Vec<usize>>());
        }
    }

    #[test]
    fn counts_are_those_of_the_definition() {
        let mut counts = Counts::default();
        counts.add(&[0.0, 3.0, 1.0, 2.0, -1.0, -2.0, -3.0], 1);
        counts.add(&[0.0, 3.0, 1.0, 2.0, -1.0, -2.0, -3.0], 4);
        counts.add(&[0.0, 3.0, 1.0, 2.0, -1.0, -2.0, -3.0], 5);
        counts.add(&[1.0, 1.0], 1);
        counts.add(&[f32::NAN, 1.0], 1);
        assert_eq!((counts.samples, counts.correct, counts.correct_top5), (5, 1, 3));
        let mut even = Counts::default();
        even.add(&[0.5, 0.5], 0);
        assert_eq!(even.loss_fixed, (std::f64::consts::LN_2 * 1_048_576.0).round() as i64);
    }
}
