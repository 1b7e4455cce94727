//! BatchNorm, with the residual and the ReLU that are fused into it.

use kernels::ops::{
    Activation, Residual, norm_affine, norm_apply, norm_backward_apply, norm_backward_reduce,
    norm_update_running,
};
use kernels::{Device, NormShape, View, ViewMut};

use crate::support::{
    Numbers, assert_close, assert_is_gradient, assert_same_bits_everywhere, device, dot, to_f64,
};

#[path = "../reference/norm.rs"]
mod reference;

use reference::EPSILON;

#[test]
fn every_residual_and_activation_equals_the_f64_reference() {
    let device = device(2);
    for shape in SHAPES {
        let data = Data::new(&shape);
        let results = run(&device, &shape, &data);
        let z = to_f64(&data.z);
        let normalised =
            reference::normalise(&shape, &z, &to_f64(&data.gamma), &to_f64(&data.beta));
        let other = to_f64(&data.other);
        let affine = to_f64(&results.affine);
        let at = |i: usize| i % shape.channels;
        let plain: Vec<f64> = normalised.iter().zip(&other).map(|(y, other)| y + other).collect();
        let twice: Vec<f64> = (0..z.len())
            .map(|i| normalised[i] + other[i] * affine[at(i)] + affine[shape.channels + at(i)])
            .collect();
        for (name, sums, got) in [
            ("none", &normalised, &results.applied[0]),
            ("plain", &plain, &results.applied[1]),
            ("normalised", &twice, &results.applied[2]),
        ] {
            let relu: Vec<f64> = sums.iter().map(|v| v.max(0.0)).collect();
            assert_close(&format!("{name} of {shape:?}"), &got[0], sums);
            assert_close(&format!("{name} with ReLU of {shape:?}"), &got[1], &relu);
        }
    }
}

#[test]
fn the_backward_equals_the_f64_reference() {
    let device = device(2);
    for shape in SHAPES {
        let data = Data::new(&shape);
        let results = run(&device, &shape, &data);
        let (z, gamma) = (to_f64(&data.z), to_f64(&data.gamma));
        // The mask comes from the fp32 output, which is where the model takes it from.
        let masked: Vec<f64> = to_f64(&data.dy)
            .iter()
            .zip(&results.applied[0][1])
            .map(|(&dy, &y)| if y <= 0.0 { 0.0 } else { dy })
            .collect();
        assert_close(&format!("masked dy of {shape:?}"), &results.dy, &masked);
        let [dz, d_gamma, d_beta] = reference::backward(&shape, &z, &gamma, &masked);
        assert_close(&format!("d_gamma of {shape:?}"), &results.d_gamma, &d_gamma);
        assert_close(&format!("d_beta of {shape:?}"), &results.d_beta, &d_beta);
        assert_close(&format!("dz of {shape:?}"), &results.dz, &dz);
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    for shape in SHAPES {
        let data = Data::new(&shape);
        assert_same_bits_everywhere(&format!("{shape:?}"), |device| {
            let r = run(device, &shape, &data);
            let [[a, b], [c, d], [e, f]] = r.applied;
            vec![r.affine, a, b, c, d, e, f, r.dy, r.d_gamma, r.d_beta, r.dz]
        });
    }
}

#[test]
fn nan_passes_the_relu() {
    let shape = NormShape { slices: 1, rows: 1, channels: 2 };
    let mut y = [0.0; 2];
    let z = View::Cpu(&[f32::NAN, -1.0]);
    let affine = View::Cpu(&[1.0, 1.0, 0.0, 0.0]);
    let into = ViewMut::Cpu(&mut y);
    norm_apply(&device(1), &shape, z, affine, Residual::None, Activation::Relu, into);
    assert!(y[0].is_nan());
    assert_eq!(y[1], 0.0);
}

#[test]
fn running_statistics_follow_the_mean_over_slices() {
    let mut running = [1.0, 2.0, 3.0, 4.0];
    let sums = View::Cpu(&[4.0, 8.0, 12.0, 16.0]);
    norm_update_running(&device(1), ViewMut::Cpu(&mut running), sums, 4, 9, 0.25);
    let unbiased = 9.0 / 8.0;
    let variances = [0.75 * 3.0 + 0.25 * 3.0 * unbiased, 0.75 * 4.0 + 0.25 * 4.0 * unbiased];
    assert_close("running", &running, &[1.0, 2.0, variances[0], variances[1]]);
}

#[test]
fn reference_gradients_agree_with_finite_differences() {
    let shape = NormShape { slices: 1, rows: 5, channels: 3 };
    let data = Data::new(&shape);
    let (z, gamma, beta) = (to_f64(&data.z), to_f64(&data.gamma), to_f64(&data.beta));
    let dy = to_f64(&data.dy);
    let [dz, d_gamma, d_beta] = reference::backward(&shape, &z, &gamma, &dy);
    assert_is_gradient("dz", &z, &dz, |z| {
        dot(&reference::normalise(&shape, z, &gamma, &beta), &dy)
    });
    assert_is_gradient("d_gamma", &gamma, &d_gamma, |gamma| {
        dot(&reference::normalise(&shape, &z, gamma, &beta), &dy)
    });
    assert_is_gradient("d_beta", &beta, &d_beta, |beta| {
        dot(&reference::normalise(&shape, &z, &gamma, beta), &dy)
    });
}

/// The last two make several tasks.
const SHAPES: [NormShape; 5] = [
    NormShape { slices: 1, rows: 3, channels: 1 },
    NormShape { slices: 1, rows: 37, channels: 16 },
    NormShape { slices: 1, rows: 65, channels: 19 },
    NormShape { slices: 1, rows: 2111, channels: 64 },
    NormShape { slices: 1, rows: 9001, channels: 17 },
];

struct Data {
    z: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    other: Vec<f32>,
    dy: Vec<f32>,
}

struct Results {
    affine: Vec<f32>,
    applied: [[Vec<f32>; 2]; 3], // by residual, then without and with ReLU
    dy: Vec<f32>,                // masked by the ReLU of the first residual
    d_gamma: Vec<f32>,
    d_beta: Vec<f32>,
    dz: Vec<f32>,
}

impl Data {
    fn new(shape: &NormShape) -> Data {
        let mut numbers = Numbers::new(shape.len() as u64);
        let z = (0..shape.len()).map(|i| 2.0 * numbers.next() + (i % 3) as f32).collect();
        let gamma = numbers.vec(shape.channels);
        let beta = numbers.vec(shape.channels);
        Data { z, gamma, beta, other: numbers.vec(shape.len()), dy: numbers.vec(shape.len()) }
    }
}

fn run(device: &Device, shape: &NormShape, data: &Data) -> Results {
    let (mean, variance) = reference::stats(shape, &to_f64(&data.z));
    let stats: Vec<f32> = mean.iter().chain(&variance).map(|&v| v as f32).collect();
    let (z, stats, gamma) = (View::Cpu(&data.z), View::Cpu(&stats), View::Cpu(&data.gamma));
    let mut affine = vec![f32::NAN; 2 * shape.channels];
    norm_affine(device, stats, gamma, View::Cpu(&data.beta), EPSILON, ViewMut::Cpu(&mut affine));

    let other = View::Cpu(&data.other);
    let other_affine = View::Cpu(&affine);
    let applied = [
        Residual::None,
        Residual::Plain(other),
        Residual::Normalised { z: other, affine: other_affine },
    ]
    .map(|residual| {
        [Activation::None, Activation::Relu].map(|activation| {
            let mut y = vec![f32::NAN; shape.len()];
            let into = ViewMut::Cpu(&mut y);
            norm_apply(device, shape, z, View::Cpu(&affine), residual, activation, into);
            y
        })
    });

    let mut dy = data.dy.clone();
    let mut sums = vec![f32::NAN; shape.pairs_len()];
    let mut dz = vec![f32::NAN; shape.len()];
    let y = Some(View::Cpu(&applied[0][1]));
    let (into_dy, into_sums) = (ViewMut::Cpu(&mut dy), ViewMut::Cpu(&mut sums));
    norm_backward_reduce(device, shape, into_dy, y, z, stats, EPSILON, into_sums);
    let (masked, into) = (View::Cpu(&dy), ViewMut::Cpu(&mut dz));
    norm_backward_apply(device, shape, masked, z, stats, gamma, View::Cpu(&sums), EPSILON, into);
    let d_beta = sums.split_off(shape.channels);
    let d_gamma = sums;
    Results { affine, applied, dy, d_gamma, d_beta, dz }
}
