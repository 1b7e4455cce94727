//! Sums of squares in fp64, in an order that depends on the span's length alone.

use kernels::ops::sums_of_squares;
use kernels::{Device, Precision, Span};

use crate::numbers::{Numbers, to_f64};
use crate::support::{assert_same_bits_each_time, device, fp32, runs_large_grids};

#[test]
fn sums_equal_the_f64_reference_to_its_last_digits() {
    let Some(gpu) = device(Precision::Fp32) else { return };
    let values = Numbers::new(11).vec(40_001);
    let found = sums(&gpu, &values, &SPANS);
    for (span, sum) in SPANS.iter().zip(found) {
        let squares = to_f64(&values[span.start..span.end()]).into_iter().map(|v| v * v);
        let expected: f64 = squares.fold(0.0, |sum, square| sum + square);
        assert!((sum - expected).abs() <= 1e-12 * expected, "{span:?}: {sum} for {expected}");
    }
    assert!(sums(&gpu, &values, &[]).is_empty());
}

#[test]
fn a_span_of_more_blocks_than_the_last_sum_has_threads_is_added_up() {
    if !runs_large_grids() {
        return;
    }
    let Some(gpu) = device(Precision::Fp32) else { return };
    let len = 258 * 8192 + 3;
    let found = sums(&gpu, &vec![0.5; len], &[Span::new(0, len)]);
    assert_eq!(found, [len as f64 / 4.0]);
}

#[test]
fn bits_depend_on_nothing_but_the_spans_elements() {
    let Some(gpu) = device(Precision::Fp32) else { return };
    let values = Numbers::new(12).vec(20_000);
    let there = [vec![9.0; 3], values.clone()].concat();
    let moved = SPANS.map(|span| Span::new(span.start.min(5) + 3, span.len.min(19_000)));
    let alone = SPANS.map(|span| Span::new(span.start.min(5), span.len.min(19_000)));
    assert_same_bits_each_time("sums of squares", || {
        let one_by_one: Vec<f64> =
            alone.iter().flat_map(|&span| sums(&gpu, &values, &[span])).collect();
        let halves = |sum: &f64| [(sum.to_bits() >> 32) as u32, sum.to_bits() as u32];
        let together = sums(&gpu, &there, &moved);
        assert_eq!(together, one_by_one);
        vec![together.iter().flat_map(halves).map(f32::from_bits).collect()]
    });
}

#[test]
fn squares_that_fp32_can_not_hold_are_added_up() {
    let Some(gpu) = device(Precision::Fp32) else { return };
    let sum = |value: f32| sums(&gpu, &[value; 40], &[Span::new(3, 20)])[0];
    for value in [1e-30f32, 1e30] {
        let exact = 20.0 * f64::from(value) * f64::from(value);
        assert!((sum(value) / exact - 1.0).abs() < 1e-12);
    }
    assert!(sum(f32::NAN).is_nan());
    assert_eq!(sum(f32::INFINITY), f64::INFINITY);
}

/// Short ones, whole blocks, several blocks with a rest, and none at all at both ends of the table.
const SPANS: [Span; 7] = [
    Span { start: 5, len: 0 },
    Span { start: 20_000, len: 20_001 },
    Span { start: 0, len: 5 },
    Span { start: 5, len: 0 },
    Span { start: 5, len: 16 },
    Span { start: 21, len: 8192 },
    Span { start: 40_001, len: 0 },
];

fn sums(device: &Device, values: &[f32], spans: &[Span]) -> Vec<f64> {
    let values = fp32(device, values);
    let mut sums = vec![f64::NAN; spans.len()];
    sums_of_squares(device, values.view(values.span()), spans, &mut sums).unwrap();
    sums
}
