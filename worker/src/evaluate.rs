//! Exact evaluation: every test image once, integer results, the same for any number of workers.

pub mod command;

use std::ops::Range;
use std::path::PathBuf;

use dataset::IGNORED;
use kernels::DeviceError;

use crate::collective::Abort;
use crate::data::{Batch, Quarantined, Source};
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

/// Why an evaluation came to no end.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    #[error("evaluate: the generation was abandoned")]
    Abandoned,
    #[error("evaluate: {0}")]
    Device(#[from] DeviceError),
    #[error("evaluate: {}, which the dataset lists, {cause}", .path.display())]
    Unreadable { path: PathBuf, cause: String },
}

/// Evaluates the test images of `samples` with the running statistics. Those that can't be decoded are counted, as answered
/// wrong, and returned.
pub fn evaluate(
    model: &mut ResNet,
    source: &Source,
    samples: Range<usize>,
    abort: &Abort,
) -> Result<(Counts, Vec<Quarantined>), EvaluationError> {
    let mut counts = Counts::default();
    let bad = visit(model, source, samples, abort, &mut |logits, label| counts.add(logits, label))?;
    bad.iter().for_each(|_| counts.add_unusable(model.geometry().classes));
    Ok((counts, bad))
}

/// Shows the logits and the label of each test image of `samples`, in order, and returns those that can't be decoded, which
/// have none.
pub fn visit(
    model: &mut ResNet,
    source: &Source,
    samples: Range<usize>,
    abort: &Abort,
    each: &mut dyn FnMut(&[f32], u32),
) -> Result<Vec<Quarantined>, EvaluationError> {
    let shape = source.dataset().shape;
    model.resize(model.geometry().slices, shape.height, shape.width);
    let geometry = model.geometry();
    let mut quarantined = Vec::new();
    let mut images = source.test_lanes(samples).expect("the system grants a few more threads");
    let mut batch = Batch::default();
    while images.next_batch(geometry.samples(), &mut batch) {
        if abort.is_aborted() {
            return Err(EvaluationError::Abandoned);
        }
        if let Some(Quarantined { path, cause, .. }) = batch.unreadable.take() {
            return Err(EvaluationError::Unreadable { path, cause });
        }
        batch.fill_up(geometry.samples(), shape.len());
        let pixels = batch.pixels.chunks_exact(geometry.batch * shape.len());
        for (slice, (pixels, crops)) in pixels.zip(batch.crops.chunks(geometry.batch)).enumerate() {
            model.load(slice, pixels, crops, source.mean(), source.std());
        }
        let logits = model.predict()?;
        for (logits, &label) in logits.chunks_exact(geometry.classes).zip(&batch.labels) {
            if label != IGNORED {
                each(logits, label);
            }
        }
        quarantined.append(&mut batch.quarantined);
    }
    Ok(quarantined)
}

/// The class that a model answers: the largest logit, the smaller index of a tie; `None` when a logit is not finite.
pub fn answer(logits: &[f32]) -> Option<usize> {
    let finite = logits.iter().all(|logit| logit.is_finite());
    let larger =
        |best: usize, class: usize| if logits[class] > logits[best] { class } else { best };
    finite.then(|| (0..logits.len()).fold(0, larger))
}

impl Counts {
    /// Of all samples.
    pub fn mean_loss(&self) -> f64 {
        self.loss_fixed as f64 / f64::from(LOSS_UNIT) / self.samples.max(1) as f64
    }

    /// Whether this is `mean_loss`. A decimal number in a file may have lost its last bit; the sum in fixed point has not.
    pub fn has_mean_loss(&self, loss: f64) -> bool {
        let difference = (loss - self.mean_loss()) * self.samples as f64;
        difference.abs() * f64::from(LOSS_UNIT) < 0.5
    }

    /// Takes one more image in that can't be decoded: it is answered wrong, with the loss of not knowing. Leaving it out
    /// would make results of different machines hard to compare.
    pub fn add_unusable(&mut self, classes: usize) {
        self.samples += 1;
        self.loss_fixed += fixed(libm::log(classes as f64));
    }

    /// Takes one more image in.
    pub fn add(&mut self, logits: &[f32], label: u32) {
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
    fn an_image_that_cannot_be_decoded_counts_as_wrong() {
        let (mut unusable, mut undecided) = (Counts::default(), Counts::default());
        unusable.add_unusable(4);
        undecided.add(&[0.0; 4], 3);
        assert_eq!(unusable.loss_fixed, undecided.loss_fixed);
        assert_eq!((unusable.samples, unusable.correct, unusable.correct_top5), (1, 0, 0));
    }

    #[test]
    fn counts_are_those_of_the_definition() {
        let mut counts = Counts::default();
        counts.add(&[0.0, 3.0, 1.0, 2.0, -1.0, -2.0, -3.0], 1);
        counts.add(&[0.0, 3.0, 1.0, 2.0, -1.0, -2.0, -3.0], 4);
        counts.add(&[0.0, 3.0, 1.0, 2.0, -1.0, -2.0, -3.0], 5);
        counts.add(&[1.0, 1.0], 1);
        counts.add(&[f32::NAN, 1.0], 1);
        assert_eq!(answer(&[0.0, 3.0, 1.0]), Some(1));
        assert_eq!((answer(&[1.0, 1.0]), answer(&[f32::NAN, 1.0])), (Some(0), None));
        assert_eq!((counts.samples, counts.correct, counts.correct_top5), (5, 1, 3));
        let loss = counts.mean_loss();
        assert!(counts.has_mean_loss(loss.next_up()) && !counts.has_mean_loss(loss + 2e-7));
        let mut even = Counts::default();
        even.add(&[0.5, 0.5], 0);
        assert_eq!(even.loss_fixed, (std::f64::consts::LN_2 * 1_048_576.0).round() as i64);
    }
}
