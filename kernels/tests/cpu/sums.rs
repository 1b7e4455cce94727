//! Sums over slices and fills.

use kernels::ops::{add, fill, first_non_finite};
use kernels::{View, ViewMut};

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
}

#[test]
fn the_first_value_that_is_no_number_is_found_wherever_it_stands() {
    let device = device(1);
    let mut values = vec![f32::MAX; 40_000];
    assert_eq!(first_non_finite(&device, View::Cpu(&values)), None);
    for (index, bad) in [(39_999, f32::NAN), (16_384, f32::NEG_INFINITY), (3, -f32::NAN)] {
        values[index] = bad;
        assert_eq!(first_non_finite(&device, View::Cpu(&values)), Some(index));
    }
}
