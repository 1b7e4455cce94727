//! A whole model on the GPU (the mock one, or real hardware as `KERNELS_TEST_GPU` says), against the same model on the CPU and
//! against itself with more slices at once.

use std::path::Path;

use cuda_mock::Schedule;
use kernels::{CudaOptions, Device, Family, Precision};
use proto::job::{Block, Model, Stem};
use worker::layout::Total;
use worker::model::Geometry;

use crate::training::{Images, Training, any_device, predict, values};

/// How far bf16 takes gradients from fp32 depends on the model: PyTorch, with activations, their gradients and packed weights
/// rounded at the same places, comes to distances of 0.05 to 0.15 (cosine 0.989) with a max pool, whose winners change, and of
/// 0.02 to 0.07 (cosine 0.998) without, over six seeds.
#[test]
fn gradients_are_those_of_the_cpu_within_the_precision() {
    let cases = [
        (Block::Basic, Stem::Imagenet, [0.985, 0.2]),
        (Block::Bottleneck, Stem::Cifar, [0.995, 0.1]),
    ];
    for (block, stem, of_bf16) in cases {
        let mut cpu = training(&any_device(), block, stem, [1, 2]);
        let images = Images::random(3, 2 * GEOMETRY.batch, GEOMETRY);
        let expected_loss = cpu.gradients(&images);
        let parameters = cpu.model.layout().parameters_len();
        let expected = values(&cpu.slots[0])[..parameters].to_vec();
        let of_fp32 = [1.0 - 1e-6, 1e-4];
        for (precision, [cosine_min, distance_max]) in
            [(Precision::Fp32, of_fp32), (Precision::Bf16, of_bf16)]
        {
            let Some(device) = gpu(precision) else { return };
            let mut gpu = training(&device, block, stem, [1, 2]);
            let loss = gpu.gradients(&images);
            let found = values(&gpu.slots[0])[..parameters].to_vec();
            let (cosine, distance) = compare(&found, &expected);
            let case = format!("{block:?}, {stem:?}, {precision:?}: {cosine}, {distance}, {loss}");
            assert!(cosine >= cosine_min && distance <= distance_max, "{case}");
            assert!((loss - expected_loss).abs() <= distance_max * expected_loss, "{case}");
        }
    }
}

#[test]
fn several_slices_at_once_have_the_bits_of_one_after_the_other() {
    for precision in [Precision::Fp32, Precision::Bf16] {
        let Some(device) = gpu(precision) else { return };
        let images = Images::random(4, 4 * GEOMETRY.batch, GEOMETRY);
        let states = [1, 2, 4].map(|at_once| {
            let passes = [at_once, 4 / at_once];
            let mut training = training(&device, Block::Basic, Stem::Cifar, passes);
            let losses = [(); 2].map(|()| training.step(&images));
            (training.state_bits(), losses, training.total(Total::Correct))
        });
        assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "{precision:?}");
    }
}

#[test]
fn predictions_of_a_model_with_a_bias_are_those_of_the_cpu() {
    let images = Images::random(6, GEOMETRY.batch, GEOMETRY);
    let logits = |device: &Device| {
        let mut training = biased(device);
        training.step(&Images::random(7, 2 * GEOMETRY.batch, GEOMETRY));
        training.model.resize(1, GEOMETRY.height, GEOMETRY.width);
        predict(&mut training.model, &images.pixels)
    };
    let expected = logits(&any_device());
    for (precision, distance_max) in [(Precision::Fp32, 1e-4), (Precision::Bf16, 0.1)] {
        let Some(device) = gpu(precision) else { return };
        let (_, distance) = compare(&logits(&device), &expected);
        assert!(distance <= distance_max, "{precision:?}: {distance}");
    }
}

#[test]
fn a_run_is_repeated_bit_for_bit_whatever_order_threads_take() {
    let images = Images::random(5, 2 * GEOMETRY.batch, GEOMETRY);
    let run = |schedule| {
        let device = gpu(Precision::Bf16)?;
        set_schedule(schedule);
        let mut training = training(&device, Block::Basic, Stem::Cifar, [2, 1]);
        for _ in 0..2 {
            training.step(&images);
        }
        let state = training.state_bits();
        set_schedule(Schedule::Lockstep);
        Some(state)
    };
    let Some(first) = run(Schedule::Lockstep) else { return };
    assert!(run(Schedule::Lockstep).unwrap() == first);
    assert!(run(Schedule::DepthFirst).unwrap() == first);
    assert!(run(Schedule::Random(7)).unwrap() == first);
}

/// A small model that computes so many slices at once, in so many passes.
fn training(device: &Device, block: Block, stem: Stem, passes: [usize; 2]) -> Training {
    of_model(device, model(block, stem), passes)
}

/// The same with a bias behind its first convolution, of two slices: at once where the device can.
fn biased(device: &Device) -> Training {
    let passes = if device.family() == Family::Cpu { [1, 2] } else { [2, 1] };
    of_model(device, Model { stem_bias: true, ..model(Block::Basic, Stem::Cifar) }, passes)
}

fn model(block: Block, stem: Stem) -> Model {
    let (blocks, widths) = (vec![1, 1], vec![8, 16]);
    Model { block, blocks, widths, stem, stem_bias: false, zero_init_residual: false }
}

fn of_model(device: &Device, model: Model, [at_once, passes]: [usize; 2]) -> Training {
    let geometry = Geometry { slices: at_once, ..GEOMETRY };
    let mut training = Training::new(device, &model, geometry, passes);
    training.model.initialise(9);
    training
}

/// Cosine, and L2 norm of the difference relative to that of the expected numbers.
fn compare(found: &[f32], expected: &[f32]) -> (f64, f64) {
    let pairs = || found.iter().zip(expected).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let dot: f64 = pairs().map(|(a, b)| a * b).sum();
    let [of_found, of_expected] = [found, expected]
        .map(|values| values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt());
    let apart: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    (dot / (of_found * of_expected), apart / of_expected)
}

/// Real hardware takes its own.
fn set_schedule(schedule: Schedule) {
    if hardware().is_none() {
        cuda_mock::set_schedule(schedule);
    }
}

/// The GPU to test on instead of the mock.
fn hardware() -> Option<usize> {
    let number = std::env::var("KERNELS_TEST_GPU").ok()?;
    Some(number.parse().expect("KERNELS_TEST_GPU is a GPU's number"))
}

fn gpu(precision: Precision) -> Option<Device> {
    let ordinal = match hardware() {
        Some(ordinal) => ordinal,
        None => match cuda_mock::install() {
            Ok(()) => 0,
            Err(missing) => {
                eprintln!("skipped: KERNELS_TEST_GPU names no GPU, and {missing}");
                return None;
            }
        },
    };
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-kernels");
    let options = CudaOptions { precision, cache: Some(cache), ..CudaOptions::default() };
    Some(Device::cuda(ordinal, options).unwrap())
}

const GEOMETRY: Geometry =
    Geometry { slices: 1, batch: 4, height: 17, width: 15, channels: 3, classes: 5 };
