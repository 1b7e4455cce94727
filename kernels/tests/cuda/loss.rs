//! Softmax cross-entropy against its fp64 definition, and who counts as correct.

use kernels::ops::{IGNORED_LABEL, Labels, softmax_cross_entropy};
use kernels::{Device, Precision, Span};

use crate::numbers::{Numbers, to_f64};
use crate::support::{
    assert_relative_l2, assert_same_bits_each_time, bits, device, fp32, fp32_result, read, tree_sum,
};

#[path = "../reference/loss.rs"]
mod reference;

use reference::{SCALE, gradient, loss};

#[test]
fn loss_gradient_and_hits_equal_the_f64_reference() {
    let Some(device) = device(Precision::Bf16) else { return };
    for (samples, classes, smoothing) in CASES {
        let (logits, labels) = example(samples, classes);
        let [d_logits, sums] = run(&device, &logits, Labels::of(&labels), classes, smoothing);
        let wide = to_f64(&logits);
        let what = format!("{samples} samples of {classes} classes");
        let must_be = loss(&wide, &labels, classes, smoothing);
        assert_relative_l2(&what, &sums[..1], &[must_be], 1e-6);
        let must_be = gradient(&wide, &labels, classes, smoothing);
        assert_relative_l2(&what, &d_logits, &must_be, 1e-6);
        let hits = logits.chunks(classes).zip(&labels).filter(|(row, label)| {
            let at_label = row[**label as usize];
            row.iter().all(|&logit| logit <= at_label)
        });
        assert_eq!(sums[1], hits.count() as f32, "{what}");
    }
}

#[test]
fn two_classes_give_the_weighted_mean_of_the_losses_and_gradients_of_each() {
    let Some(device) = device(Precision::Bf16) else { return };
    for lambda in [0.0, 0.3, 0.5, 1.0f32] {
        let (samples, classes, smoothing) = CASES[1];
        let (logits, own) = example(samples, classes);
        // Every third sample was not mixed.
        let next = |(i, &label): (usize, &u32)| (label + u32::from(i % 3 > 0)) % classes as u32;
        let other: Vec<u32> = own.iter().enumerate().map(next).collect();
        let labels = Labels { own: &own, other: &other, lambda: &[lambda] };
        let wide = to_f64(&logits);
        let mean = |a: f64, b: f64| f64::from(lambda) * a + (1.0 - f64::from(lambda)) * b;
        let [loss_a, loss_b] = [&own, &other].map(|of| loss(&wide, of, classes, smoothing));
        let [a, b] = [&own, &other].map(|of| gradient(&wide, of, classes, smoothing));
        let must_be: Vec<f64> = a.iter().zip(&b).map(|(&a, &b)| mean(a, b)).collect();
        let [d_logits, sums] = run(&device, &logits, labels, classes, smoothing);
        let what = format!("lambda {lambda}");
        assert_relative_l2(&what, &sums[..1], &[mean(loss_a, loss_b)], 1e-6);
        assert_relative_l2(&what, &d_logits, &must_be, 1e-6);
        // Who is right is asked of the class of the larger weight.
        let larger = Labels::of(if lambda >= 0.5 { &own } else { &other });
        let [_, alone] = run(&device, &logits, larger, classes, smoothing);
        assert_eq!(sums[1], alone[1], "{what}");
    }
}

#[test]
fn a_small_probability_is_as_exact_as_a_large_one() {
    let Some(device) = device(Precision::Bf16) else { return };
    let logits: Vec<f32> = (0..256).map(|i| -0.4 * i as f32).collect();
    let [d_logits, _] = run(&device, &logits, Labels::of(&[0]), 256, 0.0);
    let must_be = gradient(&to_f64(&logits), &[0], 256, 0.0);
    // The label's own is a difference; below the normal numbers fewer digits are kept.
    for (class, (&is, must_be)) in d_logits.iter().zip(must_be).enumerate().skip(1) {
        let bound = 3e-7 * must_be.abs() + 1.5e-45;
        let difference = (f64::from(is) - must_be).abs();
        assert!(difference <= bound, "class {class} is {is:e}, must be {must_be:e}");
    }
}

#[test]
fn large_logits_do_not_overflow() {
    let Some(device) = device(Precision::Bf16) else { return };
    let [d_logits, sums] = run(&device, &[1000.0, -1000.0], Labels::of(&[1]), 2, 0.0);
    assert_eq!(sums, [2000.0, 0.0]);
    assert_eq!(to_f64(&d_logits), [SCALE, -SCALE]);
}

#[test]
fn an_ignored_sample_has_no_gradient_no_loss_and_is_not_counted() {
    let Some(device) = device(Precision::Bf16) else { return };
    let (logits, mut labels) = example(5, 3);
    let kept = [0, 1, 3, 4];
    labels[2] = IGNORED_LABEL;
    let [d_logits, sums] = run(&device, &logits, Labels::of(&labels), 3, 0.1);
    let of_kept = |values: &[f32]| -> Vec<f64> {
        kept.iter().flat_map(|&sample| to_f64(&values[3 * sample..][..3])).collect()
    };
    let kept_labels: Vec<u32> = kept.iter().map(|&sample| labels[sample]).collect();
    let (logits, gradients) = (of_kept(&logits), of_kept(&d_logits));
    let gradients: Vec<f32> = gradients.iter().map(|&value| value as f32).collect();
    assert_relative_l2("gradient", &gradients, &gradient(&logits, &kept_labels, 3, 0.1), 1e-6);
    assert_relative_l2("loss", &sums[..1], &[loss(&logits, &kept_labels, 3, 0.1)], 1e-6);
    assert_eq!(d_logits[6..9], [0.0; 3]);
    // Not even what can't be computed with reaches the sums, nor does its other class.
    let labels = Labels { own: &[IGNORED_LABEL], other: &[IGNORED_LABEL], lambda: &[0.5] };
    let [d_logits, sums] = run(&device, &[f32::NAN, 1.0], labels, 2, 0.0);
    assert_eq!([d_logits, sums], [vec![0.0; 2], vec![0.0; 2]]);
}

#[test]
fn a_tie_goes_to_the_first_class_and_nan_is_never_right() {
    let Some(device) = device(Precision::Bf16) else { return };
    let labels = Labels::of(&[0, 1, 0]);
    let logits = [2.0, 2.0, 2.0, 2.0, f32::NAN, 1.0];
    let [d_logits, sums] = run(&device, &logits, labels, 2, 0.0);
    assert_eq!(sums[1], 1.0);
    assert!(sums[0].is_nan() && d_logits[4..].iter().all(|value| value.is_nan()));
}

#[test]
fn bits_are_the_same_each_time_and_slices_at_once_equal_slices_one_by_one() {
    let Some(device) = device(Precision::Bf16) else { return };
    let (samples, classes) = (5, 11);
    let (logits, own) = example(4 * samples, classes);
    let other: Vec<u32> = own.iter().map(|&label| (label + 1) % classes as u32).collect();
    let lambda = [0.25, 1.0, 0.5, 0.75];
    let labels = Labels { own: &own, other: &other, lambda: &lambda };
    let at_once = || run(&device, &logits, labels, classes, 0.1).to_vec();
    assert_same_bits_each_time("loss", at_once);
    let one_by_one: Vec<_> = (0..4)
        .map(|slice| {
            let part = slice * samples..(slice + 1) * samples;
            let (own, other) = (&own[part.clone()], &other[part]);
            let labels = Labels { own, other, lambda: &lambda[slice..][..1] };
            let logits = &logits[slice * samples * classes..][..samples * classes];
            run(&device, logits, labels, classes, 0.1)
        })
        .collect();
    let gradients: Vec<Vec<f32>> = one_by_one.iter().map(|[d, _]| d.clone()).collect();
    let sums = one_by_one.into_iter().map(|[_, sums]| sums).collect();
    assert!(bits(&at_once()) == bits(&[gradients.concat(), tree_sum(sums)]));
}

const CASES: [(usize, usize, f32); 4] = [(1, 2, 0.0), (8, 10, 0.1), (37, 17, 0.0), (3, 1000, 0.1)];

fn example(samples: usize, classes: usize) -> (Vec<f32>, Vec<u32>) {
    let mut numbers = Numbers::new(classes as u64);
    let logits = (0..samples * classes).map(|_| 5.0 * numbers.next()).collect();
    let labels = (0..samples).map(|_| (numbers.next_u64() % classes as u64) as u32).collect();
    (logits, labels)
}

/// `d_logits`, `sums`.
fn run(
    device: &Device,
    logits: &[f32],
    labels: Labels<'_>,
    classes: usize,
    smoothing: f32,
) -> [Vec<f32>; 2] {
    let logits = fp32(device, logits);
    let (len, scale) = (logits.len(), SCALE as f32);
    let mut d_logits = fp32_result(device, len);
    let mut sums = fp32_result(device, 2);
    let (into, into_sums) = (d_logits.view_mut(Span::new(0, len)), sums.view_mut(Span::new(0, 2)));
    let logits = logits.view(logits.span());
    softmax_cross_entropy(device, logits, labels, classes, smoothing, scale, into, into_sums);
    [d_logits, sums].map(|buffer| read(&buffer))
}
