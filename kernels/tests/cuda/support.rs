//! A device to test on, numbers on their way there and back, and what "equal" means. No op is known here.

use std::env;
use std::num::NonZeroUsize;
use std::path::Path;

use cuda_mock::Schedule;
use kernels::{Buffer, CudaOptions, Device, Precision};

use crate::numbers::to_f64;

/// Both of them.
pub(crate) const PRECISIONS: [Precision; 2] = [Precision::Fp32, Precision::Bf16];

/// One for each test: ops of several threads may not meet on one device. `None`, with the reason printed, where there is
/// none.
pub(crate) fn device(precision: Precision) -> Option<Device> {
    let ordinal = match hardware() {
        Some(ordinal) => ordinal,
        None => match cuda_mock::install() {
            Ok(()) => 0,
            Err(missing) => {
                println!("skipped: KERNELS_TEST_GPU names no GPU, and {missing}");
                return None;
            }
        },
    };
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-kernels");
    let options = CudaOptions { precision, cache: Some(cache), ..CudaOptions::default() };
    Some(Device::cuda(ordinal, options).unwrap())
}

/// What the CUDA device is compared with where it gives the same bits.
pub(crate) fn cpu() -> Device {
    Device::cpu(NonZeroUsize::MIN).unwrap()
}

/// Whether a grid of a hundred thousand threads takes seconds, not minutes.
pub(crate) fn runs_large_grids() -> bool {
    let slow = hardware().is_none() && cuda_mock::sanitizer() == Some("thread");
    if slow {
        println!("skipped: under ThreadSanitizer each thread of the mock GPU costs a millisecond");
    }
    !slow
}

/// The GPU to test on instead of the mock.
fn hardware() -> Option<usize> {
    let number = env::var("KERNELS_TEST_GPU").ok()?;
    Some(number.parse().expect("KERNELS_TEST_GPU is a GPU's number"))
}

/// fp32 numbers on the device.
pub(crate) fn fp32(device: &Device, values: &[f32]) -> Buffer {
    written(device.alloc(values.len()), values)
}

/// Numbers on the device as it keeps activations.
pub(crate) fn activations(device: &Device, values: &[f32]) -> Buffer {
    written(device.alloc_activations(values.len()), values)
}

/// What an op is to overwrite, in fp32: NaN shows what it leaves out.
pub(crate) fn fp32_result(device: &Device, len: usize) -> Buffer {
    fp32(device, &vec![f32::NAN; len])
}

/// What an op is to overwrite, as the device keeps activations.
pub(crate) fn activations_result(device: &Device, len: usize) -> Buffer {
    activations(device, &vec![f32::NAN; len])
}

pub(crate) fn read(buffer: &Buffer) -> Vec<f32> {
    let mut values = vec![0.0; buffer.len()];
    buffer.read(buffer.span(), &mut values).unwrap();
    values
}

/// `values` as the device keeps activations.
pub(crate) fn rounded(device: &Device, values: &[f32]) -> Vec<f32> {
    read(&activations(device, values))
}

fn written(mut buffer: Buffer, values: &[f32]) -> Buffer {
    buffer.write(buffer.span(), values);
    buffer
}

/// The sum, in fp32, of a power of two of results, over their binary tree.
pub(crate) fn tree_sum(mut parts: Vec<Vec<f32>>) -> Vec<f32> {
    while parts.len() > 1 {
        let sum = |pair: &[Vec<f32>]| pair[0].iter().zip(&pair[1]).map(|(a, b)| a + b).collect();
        parts = parts.chunks(2).map(sum).collect();
    }
    parts.remove(0)
}

/// Asserts that the bits of an op's results are the same when it runs again, and in whatever order threads run.
pub(crate) fn assert_same_bits_each_time(what: &str, op: impl Fn() -> Vec<Vec<f32>>) {
    let expected = bits(&op());
    let schedules = [Schedule::DepthFirst, Schedule::Random(7), Schedule::Lockstep];
    for schedule in schedules {
        if hardware().is_none() {
            cuda_mock::set_schedule(schedule);
        }
        assert!(bits(&op()) == expected, "{what} differs in a run with {schedule:?}");
    }
}

pub(crate) fn bits(results: &[Vec<f32>]) -> Vec<Vec<u32>> {
    results.iter().map(|values| values.iter().map(|value| value.to_bits()).collect()).collect()
}

/// Asserts a bound on the length of the difference over the length of the reference.
pub(crate) fn assert_relative_l2(what: &str, is: &[f32], must_be: &[f64], bound: f64) {
    assert_eq!(is.len(), must_be.len(), "{what}");
    let square = |sum: f64, value: f64| sum + value * value;
    let of_all = must_be.iter().copied().fold(0.0, square).sqrt();
    let differences = to_f64(is).into_iter().zip(must_be).map(|(is, must_be)| is - must_be);
    let difference = differences.fold(0.0, square).sqrt();
    assert!(difference <= bound * of_all, "{what}: off by {difference} of {of_all}");
}

/// Asserts that each number is as close as rounding once to what the device keeps activations in allows, and
/// `slack` times the reference's root mean square besides.
pub(crate) fn assert_rounded(
    what: &str,
    precision: Precision,
    is: &[f32],
    must_be: &[f64],
    slack: f64,
) {
    assert_eq!(is.len(), must_be.len(), "{what}");
    let squares: f64 = must_be.iter().map(|value| value * value).sum();
    let mean_square = squares / must_be.len().max(1) as f64;
    let rounding = match precision {
        Precision::Fp32 => f64::from(f32::EPSILON),
        Precision::Bf16 => 1.0 / 256.0,
    };
    for (index, (&is, &must_be)) in is.iter().zip(must_be).enumerate() {
        let difference = (f64::from(is) - must_be).abs();
        let bound = rounding * must_be.abs() + slack * mean_square.sqrt();
        assert!(difference <= bound, "{what}: element {index} is {is}, must be {must_be}");
    }
}
