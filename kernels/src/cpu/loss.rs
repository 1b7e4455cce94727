//! Softmax cross-entropy: loss, gradient and hits in one pass per sample. Exponentials and
//! logarithms come from `libm`, whose bits are the same on every machine. What a class means is not
//! known here.

use super::CpuDevice;
use crate::ops::{IGNORED_LABEL, Labels, LossRule};

impl CpuDevice {
    pub(crate) fn softmax_cross_entropy(
        &self,
        rule: &LossRule,
        logits: &[f32],
        labels: Labels<'_>,
        d_logits: &mut [f32],
        sums: &mut [f32],
    ) {
        let mut loss = 0.0;
        let mut correct = 0u32;
        let rows = logits.chunks_exact(rule.classes).zip(d_logits.chunks_exact_mut(rule.classes));
        let lambda = f64::from(labels.lambda[0]);
        let classes = labels.own.iter().zip(labels.other);
        for ((&own, &other), (logits, d_logits)) in classes.zip(rows) {
            if own == IGNORED_LABEL {
                d_logits.fill(0.0);
                continue;
            }
            let (own, other) = (own as usize, other as usize);
            let weights = [(own, lambda), (other, 1.0 - lambda)];
            loss += sample_loss(rule, logits, weights, d_logits);
            let larger = if lambda >= 0.5 { own } else { other };
            correct += u32::from(first_largest(logits) == Some(larger));
        }
        sums[0] = loss as f32;
        sums[1] = correct as f32;
    }
}

/// Writes the gradient of one sample and returns its loss. Sums are in f64, in class order. `weights`:
/// the sample's two classes, which may be the same, and how much each counts.
fn sample_loss(
    rule: &LossRule,
    logits: &[f32],
    weights: [(usize, f64); 2],
    d_logits: &mut [f32],
) -> f64 {
    let classes = rule.classes as f64;
    let smoothing = f64::from(rule.label_smoothing);
    // Shifting by the largest logit keeps every exponential in (0, 1].
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut exponentials = 0.0;
    let mut shifted_sum = 0.0;
    for (d, &logit) in d_logits.iter_mut().zip(logits) {
        let shifted = logit - largest;
        *d = libm::expf(shifted);
        exponentials += f64::from(*d);
        shifted_sum += f64::from(shifted);
    }
    let log_sum = libm::log(exponentials);
    let background = smoothing / classes;
    let scale = f64::from(rule.grad_scale);
    for (class, d) in d_logits.iter_mut().enumerate() {
        let weight_here = |(label, weight)| if class == label { weight } else { 0.0 };
        let hit = (1.0 - smoothing) * weights.map(weight_here).iter().sum::<f64>();
        *d = (scale * (f64::from(*d) / exponentials - (hit + background))) as f32;
    }
    let [own, other] = weights.map(|(label, weight)| weight * f64::from(logits[label] - largest));
    log_sum - (1.0 - smoothing) * (own + other) - background * shifted_sum
}

/// `None` when a logit is not a number: a diverged sample is right about nothing.
fn first_largest(logits: &[f32]) -> Option<usize> {
    let mut best = 0;
    for (class, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if logit > logits[best] {
            best = class;
        }
    }
    Some(best)
}
