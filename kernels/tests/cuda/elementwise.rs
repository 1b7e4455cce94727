//! Passes over memory give the CPU's bits, at every alignment and length.

use kernels::ops::{add, fill, first_non_finite, lerp, sum_slices};
use kernels::{Buffer, Device, Precision, Span};

use crate::numbers::Numbers;
use crate::support::{
    PRECISIONS, activations, assert_same_bits_each_time, bits, cpu, device, fp32, fp32_result,
    read, rounded, runs_large_grids,
};

const LENGTHS: [usize; 6] = [0, 1, 3, 8, 1021, 2048];

#[test]
fn sums_and_averages_have_the_bits_of_the_cpu() {
    let Some(gpu) = device(Precision::Fp32) else { return };
    let passes: [fn(&Device, &mut Buffer, &Buffer, Span); 2] = [
        |device, into, from, span| add(device, into.view_mut(span), from.view(span)),
        |device, into, from, span| lerp(device, into.view_mut(span), from.view(span), 0.003),
    ];
    for span in spans() {
        for pass in passes {
            let run = |device: &Device| {
                let mut numbers = Numbers::new(1);
                let mut into = fp32(device, &numbers.vec(span.end() + 5));
                let from = fp32(device, &numbers.vec(span.end() + 5));
                pass(device, &mut into, &from, span);
                vec![read(&into)]
            };
            assert_eq!(bits(&run(&gpu)), bits(&run(&cpu())), "{span:?}");
        }
    }
}

#[test]
fn activations_are_added_in_fp32_and_rounded_once() {
    let Some(gpu) = device(Precision::Bf16) else { return };
    for span in spans() {
        let mut numbers = Numbers::new(2);
        let start = rounded(&gpu, &numbers.vec(span.end() + 9));
        let from = rounded(&gpu, &numbers.vec(span.end() + 9));
        let mut expected = start.clone();
        for index in span.start..span.end() {
            expected[index] += from[index];
        }
        let (mut into, from) = (activations(&gpu, &start), activations(&gpu, &from));
        add(&gpu, into.view_mut(span), from.view(span));
        assert_eq!(read(&into), rounded(&gpu, &expected), "{span:?}");
    }
}

#[test]
fn a_fill_reaches_every_element_and_no_other() {
    for precision in PRECISIONS {
        let Some(gpu) = device(precision) else { return };
        for span in spans() {
            let mut expected = vec![1.0; span.end() + 9];
            let mut into = activations(&gpu, &expected);
            fill(&gpu, into.view_mut(span), -2.5);
            expected[span.start..span.end()].fill(-2.5);
            assert_eq!(read(&into), expected, "{span:?}");
        }
    }
}

#[test]
fn slices_are_added_over_the_binary_tree() {
    let Some(gpu) = device(Precision::Fp32) else { return };
    for slices in [1, 2, 4, 8, 16, 32] {
        for len in [1, 37, 64] {
            let from = Numbers::new(3).vec(slices * len);
            let mut expected: Vec<Vec<f32>> = from.chunks(len).map(<[f32]>::to_vec).collect();
            while expected.len() > 1 {
                expected = expected.chunks(2).map(|pair| sum(&pair[0], &pair[1])).collect();
            }
            assert_same_bits_each_time("a sum of slices", || {
                let mut into = fp32_result(&gpu, len);
                let from = fp32(&gpu, &from);
                sum_slices(&gpu, from.view(from.span()), into.view_mut(Span::new(0, len)));
                let found = vec![read(&into)];
                assert_eq!(bits(&found), bits(&expected), "{slices} slices of {len}");
                found
            });
        }
    }
}

#[test]
fn the_first_value_that_is_no_number_is_found_wherever_it_stands() {
    let Some(gpu) = device(Precision::Fp32) else { return };
    let first = |values: &[f32], start| {
        let buffer = fp32(&gpu, values);
        let span = Span::new(start, values.len() - start);
        first_non_finite(&gpu, buffer.view(span)).unwrap()
    };
    let mut values = vec![f32::MAX; 40_001];
    assert_eq!([first(&values, 0), first(&values, 40_001)], [None, None]);
    for (index, bad) in [(40_000, f32::NAN), (16_384, f32::NEG_INFINITY), (3, -f32::NAN)] {
        values[index] = bad;
        assert_eq!([first(&values, 0), first(&values, 1)], [Some(index), Some(index - 1)]);
    }
}

#[test]
fn threads_that_take_several_turns_find_the_first_value_that_is_no_number() {
    if !runs_large_grids() {
        return;
    }
    let Some(gpu) = device(Precision::Fp32) else { return };
    let mut values = vec![1.0; 2_300_003];
    for index in [2_300_002, 2_298_000, 1_100_000, 300_001] {
        values[index] = f32::NAN;
        let buffer = fp32(&gpu, &values);
        assert_eq!(first_non_finite(&gpu, buffer.view(buffer.span())).unwrap(), Some(index));
    }
}

/// At several distances from a boundary of sixteen bytes.
fn spans() -> impl Iterator<Item = Span> {
    LENGTHS.into_iter().flat_map(|len| [0, 1, 4].map(|start| Span::new(start, len)))
}

fn sum(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
