//! Softmax cross-entropy against its fp64 definition, and who counts as correct.

use kernels::ops::{IGNORED_LABEL, Labels, softmax_cross_entropy};
use kernels::{Device, View, ViewMut};

use crate::support::{
    Numbers, assert_close, assert_is_gradient, assert_same_bits_everywhere, device, to_f64,
};

#[path = "../reference/loss.rs"]
mod reference;

use reference::{SCALE, gradient, loss};

#[test]
fn loss_gradient_and_hits_equal_the_f64_reference() {
    let device = device(2);
    for (samples, classes, smoothing) in CASES {
        let (logits, labels) = example(samples, classes);
        let (d_logits, sums) = run(&device, &logits, &labels, classes, smoothing);
        let wide = to_f64(&logits);
        let what = format!("{samples} samples of {classes} classes");
        assert_close(&what, &sums[..1], &[loss(&wide, &labels, classes, smoothing)]);
        assert_close(&what, &d_logits, &gradient(&wide, &labels, classes, smoothing));
        let hits = logits.chunks(classes).zip(&labels).filter(|(row, label)| {
            let at_label = row[**label as usize];
            row.iter().all(|&logit| logit <= at_label)
        });
        assert_eq!(sums[1], hits.count() as f32);
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    for (samples, classes, smoothing) in CASES {
        let (logits, labels) = example(samples, classes);
        assert_same_bits_everywhere("loss", |device| {
            let (d_logits, sums) = run(device, &logits, &labels, classes, smoothing);
            vec![d_logits, sums]
        });
    }
}

#[test]
fn large_logits_do_not_overflow() {
    let (d_logits, sums) = run(&device(1), &[1000.0, -1000.0], &[1], 2, 0.0);
    assert_close("loss", &sums, &[2000.0, 0.0]);
    assert_close("gradient", &d_logits, &[SCALE, -SCALE]);
}

#[test]
fn an_ignored_sample_has_no_gradient_no_loss_and_is_not_counted() {
    let (logits, mut labels) = example(5, 3);
    let kept = [0, 1, 3, 4];
    labels[2] = IGNORED_LABEL;
    let (d_logits, sums) = run(&device(1), &logits, &labels, 3, 0.1);
    let of_kept = |values: &[f32]| -> Vec<f32> {
        kept.iter().flat_map(|&sample| values[3 * sample..][..3].to_vec()).collect()
    };
    let kept_labels: Vec<u32> = kept.iter().map(|&sample| labels[sample]).collect();
    let (expected, expected_sums) = run(&device(1), &of_kept(&logits), &kept_labels, 3, 0.1);
    assert_eq!((of_kept(&d_logits), &sums), (expected, &expected_sums));
    assert_eq!(d_logits[6..9], [0.0; 3]);
    // Not even what can't be computed with reaches the sums.
    let (d_logits, sums) = run(&device(1), &[f32::NAN, 1.0], &[IGNORED_LABEL], 2, 0.0);
    assert_eq!((d_logits, sums), (vec![0.0; 2], vec![0.0; 2]));
}

#[test]
fn a_tie_goes_to_the_first_class_and_nan_is_never_right() {
    let (_, sums) = run(&device(1), &[2.0, 2.0, 2.0, 2.0, f32::NAN, 1.0], &[0, 1, 0], 2, 0.0);
    assert_eq!(sums[1], 1.0);
    assert!(sums[0].is_nan());
}

#[test]
fn reference_gradient_agrees_with_finite_differences() {
    let (logits, labels) = example(3, 5);
    let logits = to_f64(&logits);
    let gradient = gradient(&logits, &labels, 5, 0.1);
    assert_is_gradient("d_logits", &logits, &gradient, |logits| {
        SCALE * loss(logits, &labels, 5, 0.1)
    });
}

#[test]
fn two_classes_give_the_weighted_mean_of_the_losses_and_gradients_of_each() {
    for lambda in [0.0, 0.3, 0.5, 0.875, 1.0f32] {
        for (samples, classes, smoothing) in CASES {
            let (logits, own) = example(samples, classes);
            // Every third sample was not mixed.
            let next = |(i, &label): (usize, &u32)| (label + u32::from(i % 3 > 0)) % classes as u32;
            let other: Vec<u32> = own.iter().enumerate().map(next).collect();
            let labels = Labels { own: &own, other: &other, lambda: &[lambda] };
            let wide = to_f64(&logits);
            let mean = |a: f64, b: f64| f64::from(lambda) * a + (1.0 - f64::from(lambda)) * b;
            let of = |labels| {
                (
                    loss(&wide, labels, classes, smoothing),
                    gradient(&wide, labels, classes, smoothing),
                )
            };
            let ((loss_a, gradient_a), (loss_b, gradient_b)) = (of(&own), of(&other));
            let gradient: Vec<f64> =
                gradient_a.iter().zip(&gradient_b).map(|(&a, &b)| mean(a, b)).collect();
            let (d_logits, sums) = run_mixed(&device(2), &logits, labels, classes, smoothing);
            let what = format!("lambda {lambda}, {samples} samples of {classes} classes");
            assert_close(&what, &sums[..1], &[mean(loss_a, loss_b)]);
            assert_close(&what, &d_logits, &gradient);
            // Who is right is asked of the class of the larger weight.
            let larger = if lambda >= 0.5 { &own } else { &other };
            assert_eq!(
                sums[1],
                run(&device(1), &logits, larger, classes, smoothing).1[1],
                "{what}"
            );
            assert_same_bits_everywhere(&what, |device| {
                let (d_logits, sums) = run_mixed(device, &logits, labels, classes, smoothing);
                vec![d_logits, sums]
            });
        }
    }
}

#[test]
fn an_ignored_sample_may_have_any_other_class() {
    let labels = Labels { own: &[IGNORED_LABEL], other: &[IGNORED_LABEL], lambda: &[0.5] };
    let (d_logits, sums) = run_mixed(&device(1), &[3.0, 1.0], labels, 2, 0.1);
    assert_eq!((d_logits, sums), (vec![0.0; 2], vec![0.0; 2]));
}

const CASES: [(usize, usize, f32); 4] = [(1, 2, 0.0), (8, 10, 0.1), (13, 17, 0.0), (16, 1000, 0.1)];

fn example(samples: usize, classes: usize) -> (Vec<f32>, Vec<u32>) {
    let mut numbers = Numbers::new(classes as u64);
    let logits = (0..samples * classes).map(|_| 5.0 * numbers.next()).collect();
    let labels = (0..samples).map(|_| (numbers.next_u64() % classes as u64) as u32).collect();
    (logits, labels)
}

fn run(
    device: &Device,
    logits: &[f32],
    labels: &[u32],
    classes: usize,
    smoothing: f32,
) -> (Vec<f32>, Vec<f32>) {
    run_mixed(device, logits, Labels::of(labels), classes, smoothing)
}

fn run_mixed(
    device: &Device,
    logits: &[f32],
    labels: Labels<'_>,
    classes: usize,
    smoothing: f32,
) -> (Vec<f32>, Vec<f32>) {
    let mut d_logits = vec![f32::NAN; logits.len()];
    let mut sums = vec![f32::NAN; 2];
    let (into, into_sums) = (ViewMut::Cpu(&mut d_logits), ViewMut::Cpu(&mut sums));
    let logits = View::Cpu(logits);
    softmax_cross_entropy(
        device,
        logits,
        labels,
        classes,
        smoothing,
        SCALE as f32,
        into,
        into_sums,
    );
    (d_logits, sums)
}
