//! Devices to compare, and what "equal" means. No op is known here.

use std::num::NonZeroUsize;

use kernels::{Device, Isa};

pub(crate) use crate::numbers::{Numbers, dot, to_f64};

/// Largest difference over largest value.
pub(crate) const TOLERANCE: f64 = 1e-4;

/// A device with `threads` threads and the best instruction set.
pub(crate) fn device(threads: usize) -> Device {
    Device::cpu(NonZeroUsize::new(threads).unwrap()).unwrap()
}

/// Every instruction set with 1, 2 and 3 threads; sets that the processor lacks are named.
pub(crate) fn all_devices() -> Vec<(String, Device)> {
    let mut devices = Vec::new();
    for isa in Isa::ALL {
        if !isa.is_available() {
            println!("skipped: this processor lacks {isa}");
            continue;
        }
        for threads in 1..=3 {
            let threads = NonZeroUsize::new(threads).unwrap();
            let name = format!("{isa} with {threads} threads");
            devices.push((name, Device::cpu_with_isa(threads, isa).unwrap()));
        }
    }
    devices
}

/// Runs `op` on every device and asserts that the bits of its results are equal.
pub(crate) fn assert_same_bits_everywhere(what: &str, op: impl Fn(&Device) -> Vec<Vec<f32>>) {
    let mut first: Option<(String, Vec<Vec<u32>>)> = None;
    for (name, device) in all_devices() {
        let bits: Vec<Vec<u32>> =
            op(&device).iter().map(|v| v.iter().map(|x| x.to_bits()).collect()).collect();
        match &first {
            None => first = Some((name, bits)),
            Some((of, expected)) => {
                assert!(bits == *expected, "{what}: {name} differs from {of}");
            }
        }
    }
}

pub(crate) fn assert_close(what: &str, is: &[f32], must_be: &[f64]) {
    assert_eq!(is.len(), must_be.len(), "{what}");
    let largest = must_be.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    for (index, (&is, &must_be)) in is.iter().zip(must_be).enumerate() {
        let difference = (f64::from(is) - must_be).abs();
        assert!(
            difference <= TOLERANCE * largest || difference == 0.0,
            "{what}: element {index} is {is}, must be {must_be} (largest {largest})"
        );
    }
}

/// Asserts that `gradient` is the derivative of `loss` at `at`, by central differences in f64.
pub(crate) fn assert_is_gradient(
    what: &str,
    at: &[f64],
    gradient: &[f64],
    loss: impl Fn(&[f64]) -> f64,
) {
    let step = 1e-5;
    let largest = gradient.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    let mut point = at.to_vec();
    for index in 0..at.len() {
        point[index] = at[index] + step;
        let above = loss(&point);
        point[index] = at[index] - step;
        let below = loss(&point);
        point[index] = at[index];
        let difference = (above - below) / (2.0 * step);
        assert!(
            (difference - gradient[index]).abs() <= 1e-6 * largest,
            "{what}: gradient {index} is {}, differences say {difference}",
            gradient[index]
        );
    }
}
