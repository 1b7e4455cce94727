//! Convolution: packing, three passes and the statistics, by every engine.

use kernels::ops::{Accumulate, conv_forward, conv_input_grad, conv_pack, conv_weight_grad};
use kernels::{Buffer, ConvShape, Device, Family, Precision};

#[path = "../reference/conv.rs"]
mod reference;

use reference::conv;

use crate::numbers::{Numbers, to_f64};
use crate::support::{
    PRECISIONS, activations, activations_result, assert_relative_l2, assert_rounded,
    assert_same_bits_each_time, bits, device, fp32, fp32_result, read, rounded,
};

#[test]
fn every_pass_equals_the_f64_reference() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        for shape in shapes() {
            check(&device, precision, &shape);
        }
    }
}

#[test]
fn weights_are_packed_along_the_channels_that_are_summed() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        let shape = conv(1, 5, 5, 35, 3, 3, 1, 1);
        let w = rounded(&device, &Numbers::new(3).vec(shape.weight_len()));
        let (forward, input_grad) = packed(&device, &shape, &w);
        let (forward, input_grad) = (read(&forward), read(&input_grad));
        for (at, &value) in forward.iter().enumerate() {
            let (co, tap, ci) = (at / 40 / 9, at / 40 % 9, at % 40);
            assert_eq!(value, if ci < 35 { w[(tap * 35 + ci) * 3 + co] } else { 0.0 });
        }
        for (at, &value) in input_grad.iter().enumerate() {
            let (ci, tap, co) = (at / 8 / 9, at / 8 % 9, at % 8);
            assert_eq!(value, if co < 3 { w[(tap * 35 + ci) * 3 + co] } else { 0.0 });
        }
    }
}

#[test]
fn bits_are_the_same_each_time() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        for shape in [conv(1, 13, 13, 40, 24, 3, 1, 1), conv(1, 9, 7, 3, 8, 7, 2, 3)] {
            let data = Data::new(&device, &shape);
            assert_same_bits_each_time(&format!("{shape:?}"), || {
                run(&device, &shape, &data).everything()
            });
        }
    }
}

#[test]
fn slices_at_once_equal_one_at_a_time() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        for one in [
            conv(2, 5, 7, 8, 16, 3, 1, 1),
            conv(3, 11, 10, 24, 8, 3, 2, 1),
            conv(1, 8, 9, 3, 8, 7, 2, 3),
        ] {
            let shape = ConvShape { slices: 4, batch: 4 * one.batch, ..one };
            let data = Data::new(&device, &shape);
            let together = run(&device, &shape, &data);
            let alone: Vec<Results> =
                (0..4).map(|slice| run(&device, &one, &data.slice(slice))).collect();
            let all = |of: fn(&Results) -> &Vec<f32>| -> Vec<f32> {
                alone.iter().flat_map(|result| of(result).clone()).collect()
            };
            let dw = add(&add(&alone[0].dw, &alone[1].dw), &add(&alone[2].dw, &alone[3].dw));
            let expected = Results {
                y: all(|result| &result.y),
                stats: all(|result| &result.stats),
                dx: all(|result| &result.dx),
                dx_added: all(|result| &result.dx_added),
                dw,
            };
            assert!(
                bits(&together.everything()) == bits(&expected.everything()),
                "{precision:?}, {shape:?}"
            );
        }
    }
}

#[test]
fn statistics_survive_a_mean_far_from_zero() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        // Mean over standard deviation is 30; in bf16 the rounding of the results is a part of what is measured.
        let many_tiles = conv(2, 150, 150, 1, 3, 1, 1, 0);
        for shape in [conv(3, 15, 13, 8, 24, 1, 1, 0), conv(3, 15, 13, 1, 5, 1, 1, 0), many_tiles] {
            let mut numbers = Numbers::new(5);
            let x = (0..shape.input_len()).map(|_| 17.0 + numbers.next());
            let data = Data {
                x: rounded(&device, &x.collect::<Vec<f32>>()),
                w: vec![1.0 / shape.in_channels as f32; shape.weight_len()],
                dy: vec![0.0; shape.output_len()],
            };
            check_stats(&shape, &run(&device, &shape, &data));
        }
    }
}

#[test]
fn pixels_that_no_window_covers_keep_their_residual() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        for (stride, channels) in [(3, 2), (2, 8)] {
            let shape = conv(1, 5, 5, channels, 8, 1, stride, 0);
            let data = Data::new(&device, &shape);
            let result = run(&device, &shape, &data);
            for (index, (&dx, &added)) in result.dx.iter().zip(&result.dx_added).enumerate() {
                let (row, column) = (index / channels / 5, index / channels % 5);
                if row % stride != 0 || column % stride != 0 {
                    assert_eq!(dx.to_bits(), 0);
                    assert_eq!(added, data.x[index]);
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_comes_through_where_it_belongs() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        for shape in [conv(1, 9, 9, 8, 8, 3, 1, 1), conv(1, 9, 9, 3, 8, 7, 2, 3)] {
            let mut data = Data::new(&device, &shape);
            data.x[(4 * 9 + 4) * shape.in_channels] = f32::NAN;
            let result = run(&device, &shape, &data);
            for (pixel, y) in result.y.chunks(8).enumerate() {
                let (i, j) = (pixel / shape.out_width(), pixel % shape.out_width());
                let covers = |at: usize| {
                    let first = at * shape.stride;
                    (first..first + shape.kernel).contains(&(4 + shape.pad))
                };
                let is_reached = covers(i) && covers(j);
                assert!(
                    y.iter().all(|v| v.is_nan() == is_reached),
                    "{precision:?} {shape:?} {i} {j}"
                );
            }
            assert!(result.stats.iter().all(|v| v.is_nan()));
        }
    }
}

/// Odd on purpose: sizes, tails, strides, pads, one image and several, several tiles and pieces.
fn shapes() -> Vec<ConvShape> {
    vec![
        conv(1, 1, 1, 1, 1, 1, 1, 0),
        conv(2, 5, 7, 8, 24, 1, 1, 0),
        conv(2, 7, 5, 24, 72, 1, 2, 0),
        conv(1, 7, 6, 72, 8, 3, 1, 1),
        conv(2, 9, 7, 24, 40, 3, 2, 1),
        conv(1, 8, 8, 16, 16, 3, 2, 1),
        conv(2, 13, 15, 3, 8, 7, 2, 3),
        conv(1, 14, 12, 1, 64, 7, 2, 3),
        conv(2, 9, 8, 3, 24, 3, 1, 1),
        conv(1, 9, 10, 5, 3, 3, 2, 1),
        conv(2, 6, 5, 8, 5, 3, 1, 1),
        conv(1, 7, 7, 3, 3, 7, 1, 6),
        conv(1, 9, 11, 16, 8, 3, 3, 2),
        conv(3, 19, 17, 8, 8, 3, 1, 1),
        // The larger tiles of the tensor cores, with tails, and the stem's with several in each direction.
        conv(1, 65, 64, 8, 24, 3, 1, 1),
        conv(1, 33, 33, 72, 968, 1, 1, 0),
        conv(2, 35, 45, 3, 72, 7, 2, 3),
        conv(1, 33, 65, 3, 16, 3, 1, 1),
    ]
}

/// As the device holds them.
struct Data {
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
}

struct Results {
    y: Vec<f32>,
    stats: Vec<f32>,
    dx: Vec<f32>,
    dx_added: Vec<f32>, // to x
    dw: Vec<f32>,
}

impl Data {
    fn new(device: &Device, shape: &ConvShape) -> Data {
        let mut numbers = Numbers::new(shape.input_len() as u64);
        let mut vec = |len| rounded(device, &numbers.vec(len));
        Data { x: vec(shape.input_len()), w: vec(shape.weight_len()), dy: vec(shape.output_len()) }
    }

    /// One of four.
    fn slice(&self, slice: usize) -> Data {
        let part = |values: &[f32]| {
            let len = values.len() / 4;
            values[slice * len..][..len].to_vec()
        };
        Data { x: part(&self.x), w: self.w.clone(), dy: part(&self.dy) }
    }
}

impl Results {
    fn everything(self) -> Vec<Vec<f32>> {
        vec![self.y, self.stats, self.dx, self.dx_added, self.dw]
    }
}

/// Every pass once, each into NaN.
fn run(device: &Device, shape: &ConvShape, data: &Data) -> Results {
    let (x, dy) = (activations(device, &data.x), activations(device, &data.dy));
    let (forward, back) = packed(device, shape, &data.w);
    let mut y = activations_result(device, shape.output_len());
    let mut without_stats = activations_result(device, shape.output_len());
    let mut stats = fp32_result(device, shape.slices * 2 * shape.out_channels);
    let mut dx = activations_result(device, shape.input_len());
    let mut dx_added = activations(device, &data.x);
    let mut dw = fp32_result(device, shape.weight_len());
    let (x, dy, forward, back) = (whole(&x), whole(&dy), whole(&forward), whole(&back));
    let stats_view = Some(whole_mut(&mut stats));
    conv_forward(device, shape, x, forward, whole_mut(&mut y), stats_view);
    conv_forward(device, shape, x, forward, whole_mut(&mut without_stats), None);
    let (overwrite, add) = (Accumulate::Overwrite, Accumulate::Add);
    conv_input_grad(device, shape, dy, back, whole_mut(&mut dx), overwrite);
    conv_input_grad(device, shape, dy, back, whole_mut(&mut dx_added), add);
    conv_weight_grad(device, shape, x, dy, whole_mut(&mut dw));
    let [y, without_stats] = [read(&y), read(&without_stats)];
    assert!(
        bits(&[without_stats]) == bits(std::slice::from_ref(&y)),
        "statistics change {shape:?}"
    );
    Results { y, stats: read(&stats), dx: read(&dx), dx_added: read(&dx_added), dw: read(&dw) }
}

/// The operands of the forward pass and of the input gradient.
fn packed(device: &Device, shape: &ConvShape, w: &[f32]) -> (Buffer, Buffer) {
    let len = shape.packed_len(Family::Cuda);
    let w = fp32(device, w);
    let mut forward = activations_result(device, len.forward);
    let mut back = activations_result(device, len.input_grad);
    conv_pack(device, shape, whole(&w), whole_mut(&mut forward), whole_mut(&mut back));
    (forward, back)
}

fn check(device: &Device, precision: Precision, shape: &ConvShape) {
    let data = Data::new(device, shape);
    let result = run(device, shape, &data);
    let (x, w, dy) = (to_f64(&data.x), to_f64(&data.w), to_f64(&data.dy));
    let dx = reference::input_grad(shape, &dy, &w);
    let added: Vec<f64> = dx.iter().zip(&x).map(|(dx, x)| dx + x).collect();
    // Rounding errors of many results even out; that of one result need not.
    let bound = |count: usize| match precision {
        Precision::Fp32 => 1e-5,
        Precision::Bf16 if count < 100 => 1.0 / 256.0,
        Precision::Bf16 => 2.5e-3,
    };
    for (name, is, must_be) in [
        ("y", &result.y, &reference::forward(shape, &x, &w)),
        ("dx", &result.dx, &dx),
        ("dx added to x", &result.dx_added, &added),
    ] {
        let what = format!("{name} of {shape:?} in {precision:?}");
        assert_relative_l2(&what, is, must_be, bound(is.len()));
        assert_rounded(&what, precision, is, must_be, 1e-3);
    }
    let dw = reference::weight_grad(shape, &x, &dy);
    assert_relative_l2(&format!("dw of {shape:?} in {precision:?}"), &result.dw, &dw, 5e-5);
    check_stats(shape, &result);
}

/// Statistics are those of the results as they are stored.
fn check_stats(shape: &ConvShape, result: &Results) {
    let (means, variances) = reference::stats(shape, &to_f64(&result.y));
    let (is_means, is_variances) = result.stats.split_at(shape.out_channels);
    for c in 0..shape.out_channels {
        let (mean, variance) = (f64::from(is_means[c]), f64::from(is_variances[c]));
        let deviation = variances[c].sqrt();
        // A mean that is many deviations away can't be told more exactly than fp32 holds it.
        let bound = 1e-5 * deviation + 1e-7 * means[c].abs();
        assert!(
            (mean - means[c]).abs() <= bound,
            "mean {c} of {shape:?}: {mean}, not {}",
            means[c]
        );
        let off = (variance - variances[c]).abs();
        assert!(
            off <= 1e-4 * variances[c],
            "variance {c} of {shape:?}: {variance}, not {}",
            variances[c]
        );
    }
}

fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn whole(buffer: &Buffer) -> kernels::View<'_> {
    buffer.view(buffer.span())
}

fn whole_mut(buffer: &mut Buffer) -> kernels::ViewMut<'_> {
    let span = buffer.span();
    buffer.view_mut(span)
}
