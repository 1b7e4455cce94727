//! Sums over slices, sums of squares, averages and fills.

use kernels::ops::{self, add, fill, first_non_finite, lerp};
use kernels::{Device, Span, View, ViewMut};

use crate::support::{Numbers, assert_close, assert_same_bits_everywhere, device, to_f64};

#[test]
fn a_sum_equals_the_f64_reference() {
    let mut numbers = Numbers::new(7);
    for len in [0, 1, 17, 150_001] {
        let (mut into, from) = (numbers.vec(len), numbers.vec(len));
        let expected: Vec<f64> =
            to_f64(&into).iter().zip(to_f64(&from)).map(|(into, from)| into + from).collect();
        add(&device(2), ViewMut::Cpu(&mut into), View::Cpu(&from));
        assert_close("sum", &into, &expected);
    }
}

#[test]
fn a_fill_reaches_every_element() {
    let mut into = vec![f32::NAN; 150_001];
    fill(&device(2), ViewMut::Cpu(&mut into), 2.5);
    assert!(into.iter().all(|&v| v == 2.5));
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    let from = Numbers::new(8).vec(150_001);
    assert_same_bits_everywhere("sum", |device| {
        let mut into = Numbers::new(9).vec(150_001);
        add(device, ViewMut::Cpu(&mut into), View::Cpu(&from));
        vec![into]
    });
    assert_same_bits_everywhere("average", |device| {
        let mut into = Numbers::new(9).vec(150_001);
        lerp(device, ViewMut::Cpu(&mut into), View::Cpu(&from), 1e-3);
        vec![into]
    });
    let halves = |sum: f64| [(sum.to_bits() >> 32) as u32, sum.to_bits() as u32];
    assert_same_bits_everywhere("sums of squares", |device| {
        let sums = sums_of_squares(device, &from, &spans());
        vec![sums.into_iter().flat_map(halves).map(f32::from_bits).collect()]
    });
}

fn sums_of_squares(device: &Device, values: &[f32], spans: &[Span]) -> Vec<f64> {
    let mut sums = vec![f64::NAN; spans.len()];
    ops::sums_of_squares(device, View::Cpu(values), spans, &mut sums).unwrap();
    sums
}

/// Short ones, whole blocks, a border inside a block, and none at all.
fn spans() -> [Span; 6] {
    let span = Span::new;
    [
        span(70_000, 80_001),
        span(0, 5),
        span(5, 0),
        span(5, 16),
        span(21, 32_768),
        span(33_000, 16_385),
    ]
}

#[test]
fn sums_of_squares_equal_the_f64_reference_to_its_last_digits() {
    let values = Numbers::new(11).vec(150_001);
    let sums = sums_of_squares(&device(2), &values, &spans());
    for (span, sum) in spans().iter().zip(sums) {
        let squares = to_f64(&values[span.start..span.end()]).into_iter().map(|v| v * v);
        let expected: f64 = squares.fold(0.0, |sum, square| sum + square);
        assert!((sum - expected).abs() <= 1e-12 * expected, "{span:?}: {sum} for {expected}");
    }
}

#[test]
fn squares_that_fp32_can_not_hold_are_added_up() {
    let sum = |value: f32| sums_of_squares(&device(1), &[value; 40], &[Span::new(3, 20)]);
    for value in [1e-30f32, 1e30] {
        let exact = 20.0 * f64::from(value) * f64::from(value);
        assert!((sum(value)[0] / exact - 1.0).abs() < 1e-12);
    }
    assert!(sum(f32::NAN)[0].is_nan());
}

#[test]
fn a_sum_of_squares_depends_on_nothing_but_the_spans_elements() {
    let device = device(3);
    let values = Numbers::new(12).vec(50_000);
    let mut elsewhere = vec![9.0; 3];
    elsewhere.extend(&values);
    let sum = |values: &[f32], span| sums_of_squares(&device, values, &[span])[0];
    let there = sum(&elsewhere, Span::new(3, values.len()));
    assert_eq!(sum(&values, Span::new(0, values.len())).to_bits(), there.to_bits());
}

#[test]
fn an_average_equals_the_f64_reference_and_leaves_what_is_equal() {
    let mut numbers = Numbers::new(13);
    let (start, toward) = (numbers.vec(40_007), numbers.vec(40_007));
    for weight in [0.0f32, 1e-4, 0.1, 0.9, 1.0] {
        let mut into = start.clone();
        lerp(&device(2), ViewMut::Cpu(&mut into), View::Cpu(&toward), weight);
        let weight = f64::from(weight);
        let pairs = to_f64(&start).into_iter().zip(to_f64(&toward));
        let expected: Vec<f64> = pairs.map(|(a, b)| (1.0 - weight) * a + weight * b).collect();
        assert_close("average", &into, &expected);
    }
    let mut same = toward.clone();
    lerp(&device(1), ViewMut::Cpu(&mut same), View::Cpu(&toward), 1e-4);
    assert!(same == toward);
}

#[test]
fn the_first_value_that_is_no_number_is_found_wherever_it_stands() {
    let device = device(1);
    let mut values = vec![f32::MAX; 40_000];
    assert_eq!(first_non_finite(&device, View::Cpu(&values)).unwrap(), None);
    for (index, bad) in [(39_999, f32::NAN), (16_384, f32::NEG_INFINITY), (3, -f32::NAN)] {
        values[index] = bad;
        assert_eq!(first_non_finite(&device, View::Cpu(&values)).unwrap(), Some(index));
    }
}

#[test]
fn a_digest_tells_a_flipped_bit_wherever_it_is_on_any_number_of_threads() {
    // Several groups of blocks, and a last block that is short.
    let len = 4_300_001;
    let digest_of = |device: &Device, values: &[f32]| {
        let mut buffer = device.alloc(values.len());
        buffer.write(buffer.span(), values);
        ops::digest(device, [&buffer, &device.alloc(3)].into_iter()).unwrap()
    };
    let mut values = Numbers::new(11).vec(len);
    let whole = digest_of(&device(1), &values);
    for (name, device) in crate::support::all_devices() {
        assert_eq!(digest_of(&device, &values), whole, "{name}");
    }
    for index in [0, 16_383, 16_384, 4_194_304, len - 1] {
        let kept = values[index];
        values[index] = f32::from_bits(kept.to_bits() ^ 1);
        assert_ne!(digest_of(&device(2), &values), whole, "{index}");
        values[index] = kept;
    }
    assert_eq!(digest_of(&device(2), &values), whole);
}
