//! BatchNorm, with the residual and the ReLU that are fused into it.

use kernels::ops::{
    Activation, Residual, norm_affine, norm_apply, norm_backward_apply, norm_backward_reduce,
    norm_update_running,
};
use kernels::{Buffer, Device, NormShape, Precision, Span};

use crate::numbers::{Numbers, to_f64};
use crate::support::{
    PRECISIONS, activations, activations_result, assert_relative_l2, assert_rounded,
    assert_same_bits_each_time, bits, device, fp32, fp32_result, read, rounded,
};

#[path = "../reference/norm.rs"]
mod reference;

use reference::EPSILON;

#[test]
fn every_residual_and_activation_equals_the_f64_reference() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        for shape in SHAPES {
            let data = Data::new(&device, &shape);
            let results = run(&device, &shape, &data);
            let (z, other) = (to_f64(&data.z), to_f64(&data.other));
            let (gamma, beta) = (to_f64(&data.gamma), to_f64(&data.beta));
            let normalised = reference::normalise(&shape, &z, &gamma, &beta);
            let affine = to_f64(&results.affine);
            let at = |i: usize| i % shape.channels;
            let plain: Vec<f64> =
                normalised.iter().zip(&other).map(|(y, other)| y + other).collect();
            let twice: Vec<f64> = (0..z.len())
                .map(|i| normalised[i] + other[i] * affine[at(i)] + affine[shape.channels + at(i)])
                .collect();
            for (name, sums, got) in [
                ("none", &normalised, &results.applied[0]),
                ("plain", &plain, &results.applied[1]),
                ("normalised", &twice, &results.applied[2]),
            ] {
                let relu: Vec<f64> = sums.iter().map(|v| v.max(0.0)).collect();
                let what = format!("{name} of {shape:?} in {precision:?}");
                assert_rounded(&what, precision, &got[0], sums, SLACK);
                assert_rounded(&what, precision, &got[1], &relu, SLACK);
            }
        }
    }
}

#[test]
fn the_backward_equals_the_f64_reference() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        for shape in SHAPES {
            let data = Data::new(&device, &shape);
            let results = run(&device, &shape, &data);
            let what = |name: &str| format!("{name} of {shape:?} in {precision:?}");
            let masked: Vec<f32> = data
                .dy
                .iter()
                .zip(&results.applied[0][1])
                .map(|(&dy, &y)| if y <= 0.0 { 0.0 } else { dy })
                .collect();
            assert_eq!(results.dy, masked, "{}", what("masked dy"));
            let (z, gamma) = (to_f64(&data.z), to_f64(&data.gamma));
            let [dz, d_gamma, d_beta] = reference::backward(&shape, &z, &gamma, &to_f64(&masked));
            let (is_gamma, is_beta) = results.sums.split_at(shape.channels);
            assert_relative_l2(&what("d_gamma"), is_gamma, &d_gamma, 1e-4);
            assert_relative_l2(&what("d_beta"), is_beta, &d_beta, 1e-4);
            let bound = if precision == Precision::Fp32 { 1e-5 } else { 4e-3 };
            assert_relative_l2(&what("dz"), &results.dz, &dz, bound);
        }
    }
}

#[test]
fn without_a_mask_the_gradient_is_taken_as_it_is() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        let shape = SHAPES[2];
        let data = Data::new(&device, &shape);
        let mut dy = activations(&device, &data.dy);
        let z = activations(&device, &data.z);
        let stats = fp32(&device, &data.stats);
        let mut sums = fp32_result(&device, shape.pairs_len());
        let into_sums = sums.view_mut(sums.span());
        let into_dy = dy.view_mut(dy.span());
        let (z, stats) = (z.view(z.span()), stats.view(stats.span()));
        norm_backward_reduce(&device, &shape, into_dy, None, z, stats, EPSILON, into_sums);
        assert_eq!(read(&dy), data.dy);
        let (z, gamma, dy) = (to_f64(&data.z), to_f64(&data.gamma), to_f64(&data.dy));
        let [_, d_gamma, d_beta] = reference::backward(&shape, &z, &gamma, &dy);
        assert_relative_l2("sums", &read(&sums), &[d_gamma, d_beta].concat(), 1e-4);
    }
}

#[test]
fn bits_are_the_same_each_time_and_wherever_operands_lie() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        for (shape, shift) in [(SHAPES[1], 0), (SHAPES[2], 0), (SHAPES[1], 3)] {
            let data = Data::new(&device, &shape);
            let expected = bits(&run(&device, &shape, &data).all());
            let what = format!("{shape:?} in {precision:?}");
            assert_same_bits_each_time(&what, || {
                let results = run_at(&device, &shape, &data, shift).all();
                assert!(bits(&results) == expected, "{what}, {shift} elements further");
                results
            });
        }
    }
}

#[test]
fn slices_at_once_equal_slices_one_by_one() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        let one = SHAPES[3];
        let four = NormShape { slices: 4, rows: 4 * one.rows, ..one };
        let data = Data::new(&device, &four);
        let at_once = run(&device, &four, &data).all();
        let mut one_by_one = vec![Vec::new(); at_once.len()];
        for slice in 0..4 {
            let part = |v: &[f32]| v[slice * v.len() / 4..][..v.len() / 4].to_vec();
            let data = Data {
                z: part(&data.z),
                other: part(&data.other),
                dy: part(&data.dy),
                stats: part(&data.stats),
                ..data.clone()
            };
            let results = run(&device, &one, &data).all();
            one_by_one.iter_mut().zip(results).for_each(|(all, part)| all.extend(part));
        }
        assert!(bits(&at_once) == bits(&one_by_one), "{four:?} in {precision:?}");
    }
}

#[test]
fn nan_passes_the_relu() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        let shape = NormShape { slices: 1, rows: 1, channels: 2 };
        let z = activations(&device, &[f32::NAN, -1.0]);
        let affine = fp32(&device, &[1.0, 1.0, 0.0, 0.0]);
        let mut y = activations_result(&device, 2);
        let into = y.view_mut(y.span());
        let (z, affine) = (z.view(z.span()), affine.view(affine.span()));
        norm_apply(&device, &shape, z, affine, Residual::None, Activation::Relu, into);
        let y = read(&y);
        assert!(y[0].is_nan());
        assert_eq!(y[1], 0.0);
    }
}

#[test]
fn running_statistics_follow_the_mean_over_slices() {
    let Some(device) = device(Precision::Bf16) else { return };
    let mut running = fp32(&device, &[1.0, 2.0, 3.0, 4.0]);
    let sums = fp32(&device, &[4.0, 8.0, 12.0, 16.0]);
    let into = running.view_mut(running.span());
    norm_update_running(&device, into, sums.view(sums.span()), 4, 9, 0.25);
    let unbiased = 9.0 / 8.0;
    let variances = [0.75 * 3.0 + 0.25 * 3.0 * unbiased, 0.75 * 4.0 + 0.25 * 4.0 * unbiased];
    let expected = [1.0, 2.0, variances[0], variances[1]];
    assert_relative_l2("running", &read(&running), &expected, 1e-6);
}

/// Of the reference's root mean square, besides one rounding of the result.
const SLACK: f64 = 1e-5;

/// One channel, whole vectors, a ragged one, several blocks of rows, several groups of channels.
const SHAPES: [NormShape; 5] = [
    NormShape { slices: 1, rows: 3, channels: 1 },
    NormShape { slices: 1, rows: 37, channels: 16 },
    NormShape { slices: 1, rows: 65, channels: 19 },
    NormShape { slices: 1, rows: 700, channels: 24 },
    NormShape { slices: 1, rows: 21, channels: 264 },
];

#[derive(Clone)]
struct Data {
    z: Vec<f32>,
    other: Vec<f32>,
    dy: Vec<f32>,
    stats: Vec<f32>, // [slices, 2, C]
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

struct Results {
    affine: Vec<f32>,
    applied: [[Vec<f32>; 2]; 3], // by residual, then without and with ReLU
    dy: Vec<f32>,                // masked by the ReLU of the first residual
    sums: Vec<f32>,
    dz: Vec<f32>,
}

impl Data {
    /// Activations as the device can hold them, and the statistics of these.
    fn new(device: &Device, shape: &NormShape) -> Data {
        let mut numbers = Numbers::new(shape.len() as u64);
        let z: Vec<f32> = (0..shape.len()).map(|i| 2.0 * numbers.next() + (i % 3) as f32).collect();
        let z = rounded(device, &z);
        let one = NormShape { slices: 1, rows: shape.rows / shape.slices, ..*shape };
        let statistics = z.chunks(one.len()).flat_map(|z| {
            let (mean, variance) = reference::stats(&one, &to_f64(z));
            [mean, variance].concat()
        });
        Data {
            stats: statistics.map(|value| value as f32).collect(),
            other: rounded(device, &numbers.vec(shape.len())),
            dy: rounded(device, &numbers.vec(shape.len())),
            gamma: numbers.vec(shape.channels),
            beta: numbers.vec(shape.channels),
            z,
        }
    }
}

impl Results {
    fn all(self) -> Vec<Vec<f32>> {
        let [[a, b], [c, d], [e, f]] = self.applied;
        vec![self.affine, a, b, c, d, e, f, self.dy, self.sums, self.dz]
    }
}

fn run(device: &Device, shape: &NormShape, data: &Data) -> Results {
    run_at(device, shape, data, 0)
}

/// With activations that start `shift` elements behind a boundary of memory.
fn run_at(device: &Device, shape: &NormShape, data: &Data, shift: usize) -> Results {
    let place = Span::new(shift, shape.len());
    let placed = |values: &[f32]| {
        let mut buffer = device.alloc_activations(shift + values.len());
        buffer.write(place, values);
        buffer
    };
    let result = || placed(&vec![f32::NAN; shape.len()]);
    let read_result = |buffer: &Buffer| read(buffer)[shift..].to_vec();

    let [z, other] = [&data.z, &data.other].map(|values| placed(values));
    let [stats, gamma, beta] =
        [&data.stats, &data.gamma, &data.beta].map(|values| fp32(device, values));
    let [z, other] = [&z, &other].map(|buffer| buffer.view(place));
    let [stats, gamma, beta] = [&stats, &gamma, &beta].map(|buffer| buffer.view(buffer.span()));
    let mut affine = fp32_result(device, shape.pairs_len());
    let into = affine.view_mut(Span::new(0, shape.pairs_len()));
    norm_affine(device, stats, gamma, beta, EPSILON, into);
    let affine_view = affine.view(affine.span());

    let residuals = [
        Residual::None,
        Residual::Plain(other),
        Residual::Normalised { z: other, affine: affine_view },
    ];
    let applied = residuals.map(|residual| {
        [Activation::None, Activation::Relu].map(|activation| {
            let mut y = result();
            let into = y.view_mut(place);
            norm_apply(device, shape, z, affine_view, residual, activation, into);
            y
        })
    });

    let mut dy = placed(&data.dy);
    let mut sums = fp32_result(device, shape.pairs_len());
    let mut dz = result();
    let y = Some(applied[0][1].view(place));
    let into_sums = sums.view_mut(Span::new(0, shape.pairs_len()));
    norm_backward_reduce(device, shape, dy.view_mut(place), y, z, stats, EPSILON, into_sums);
    let (masked, sums_view) = (dy.view(place), sums.view(sums.span()));
    let into = dz.view_mut(place);
    norm_backward_apply(device, shape, masked, z, stats, gamma, sums_view, EPSILON, into);
    Results {
        affine: read(&affine),
        applied: applied.map(|pair| pair.map(|y| read_result(&y))),
        dy: read_result(&dy),
        sums: read(&sums),
        dz: read_result(&dz),
    }
}
