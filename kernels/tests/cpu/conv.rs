//! Convolution: three passes and the statistics.

use kernels::ops::{Accumulate, conv_forward, conv_input_grad, conv_pack, conv_weight_grad};
use kernels::{ConvShape, Device, Family, View, ViewMut};

#[path = "../reference/conv.rs"]
pub(crate) mod reference;

pub(crate) use reference::conv;

use crate::support::{
    Numbers, assert_close, assert_is_gradient, assert_same_bits_everywhere, device, dot, to_f64,
};

#[test]
fn every_pass_equals_the_f64_reference() {
    let device = device(2);
    for shape in shapes() {
        let data = Data::new(&shape);
        let result = run(&device, &shape, &data);
        let (x, w, dy) = (to_f64(&data.x), to_f64(&data.w), to_f64(&data.dy));
        let y = reference::forward(&shape, &x, &w);
        assert_close(&format!("y of {shape:?}"), &result.y, &y);
        let (mean, variance) = reference::stats(&shape, &y);
        assert_close(&format!("mean of {shape:?}"), &result.stats[..mean.len()], &mean);
        assert_close(&format!("variance of {shape:?}"), &result.stats[mean.len()..], &variance);
        let dx = reference::input_grad(&shape, &dy, &w);
        assert_close(&format!("dx of {shape:?}"), &result.dx, &dx);
        let added: Vec<f64> = dx.iter().zip(&x).map(|(dx, x)| dx + x).collect();
        assert_close(&format!("added dx of {shape:?}"), &result.dx_added, &added);
        let dw = reference::weight_grad(&shape, &x, &dy);
        assert_close(&format!("dw of {shape:?}"), &result.dw, &dw);
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    for shape in shapes() {
        let data = Data::new(&shape);
        assert_same_bits_everywhere(&format!("{shape:?}"), |device| {
            let r = run(device, &shape, &data);
            vec![r.y, r.stats, r.dx, r.dx_added, r.dw]
        });
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let device = device(2);
    for shape in shapes() {
        let data = Data::new(&shape);
        let whole = run(&device, &shape, &data);
        let one = ConvShape { batch: 1, ..shape };
        for sample in 0..shape.batch {
            let part = |v: &[f32]| {
                let len = v.len() / shape.batch;
                v[sample * len..][..len].to_vec()
            };
            let data = Data { x: part(&data.x), w: data.w.clone(), dy: part(&data.dy) };
            let alone = run(&device, &one, &data);
            assert!(alone.y == part(&whole.y), "y of sample {sample} of {shape:?}");
            assert!(alone.dx == part(&whole.dx), "dx of sample {sample} of {shape:?}");
        }
    }
}

#[test]
fn one_device_serves_several_callers_at_once() {
    let device = device(2);
    let shape = conv(2, 31, 37, 16, 16, 3, 1, 1);
    let data = Data::new(&shape);
    let alone = run(&device, &shape, &data);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let result = run(&device, &shape, &data);
                assert!(result.y == alone.y && result.dx == alone.dx && result.dw == alone.dw);
            });
        }
    });
}

#[test]
fn statistics_survive_a_mean_far_from_zero() {
    let shape = conv(8, 9, 11, 1, 19, 1, 1, 0);
    let mut numbers = Numbers::new(5);
    let x: Vec<f32> = (0..shape.input_len()).map(|_| 1000.0 + numbers.next()).collect();
    let w = vec![1.0; shape.weight_len()];
    let data = Data { x, w, dy: vec![0.0; shape.output_len()] };
    let result = run(&device(2), &shape, &data);
    let y = to_f64(&result.y);
    let (mean, variance) = reference::stats(&shape, &y);
    assert_close("mean", &result.stats[..mean.len()], &mean);
    assert_close("variance", &result.stats[mean.len()..], &variance);
}

#[test]
fn pixels_that_no_window_covers_keep_their_residual() {
    let shape = conv(1, 5, 5, 2, 3, 1, 3, 0);
    let data = Data::new(&shape);
    let result = run(&device(1), &shape, &data);
    for (index, (&dx, &added)) in result.dx.iter().zip(&result.dx_added).enumerate() {
        let (row, column) = (index / 10, index / 2 % 5);
        if row % 3 != 0 || column % 3 != 0 {
            assert_eq!(dx, 0.0);
            assert_eq!(added, data.x[index]);
        }
    }
}

#[test]
fn reference_gradients_agree_with_finite_differences() {
    for shape in [
        conv(2, 4, 5, 2, 3, 3, 1, 1),
        conv(1, 5, 5, 1, 2, 3, 2, 1),
        conv(2, 3, 4, 3, 2, 1, 2, 0),
        conv(1, 7, 6, 1, 2, 5, 3, 2),
    ] {
        let data = Data::new(&shape);
        let (x, w, dy) = (to_f64(&data.x), to_f64(&data.w), to_f64(&data.dy));
        let dx = reference::input_grad(&shape, &dy, &w);
        assert_is_gradient(&format!("dx of {shape:?}"), &x, &dx, |x| {
            dot(&reference::forward(&shape, x, &w), &dy)
        });
        let dw = reference::weight_grad(&shape, &x, &dy);
        assert_is_gradient(&format!("dw of {shape:?}"), &w, &dw, |w| {
            dot(&reference::forward(&shape, &x, w), &dy)
        });
    }
}

/// Odd on purpose: sizes, tails, strides, pads, and enough pixels for several tasks and groups.
fn shapes() -> Vec<ConvShape> {
    vec![
        conv(1, 1, 1, 1, 1, 1, 1, 0),
        conv(2, 5, 7, 1, 16, 3, 1, 1),
        conv(3, 8, 8, 16, 16, 3, 1, 1),
        conv(2, 8, 8, 16, 32, 3, 2, 1),
        conv(2, 8, 8, 16, 32, 1, 2, 0),
        conv(2, 7, 5, 17, 10, 3, 1, 1),
        conv(2, 9, 9, 3, 17, 3, 1, 0),
        conv(1, 9, 11, 17, 33, 3, 3, 2),
        conv(2, 13, 15, 3, 64, 7, 2, 3),
        conv(1, 11, 9, 1, 5, 5, 2, 2),
        conv(1, 10, 9, 20, 49, 5, 1, 1),
        conv(1, 7, 7, 3, 3, 7, 1, 6),
        conv(2, 6, 6, 32, 48, 3, 1, 2),
        conv(1, 4, 4, 65, 130, 3, 1, 1),
        conv(2, 7, 7, 130, 20, 1, 1, 0),
        conv(1, 6, 5, 24, 80, 3, 2, 0),
        conv(2, 31, 37, 16, 16, 3, 1, 1),
        conv(5, 23, 21, 2, 9, 3, 2, 1),
        conv(4, 33, 31, 16, 40, 3, 2, 1),
        conv(3, 29, 27, 33, 66, 1, 2, 0),
        // By Winograd's algorithm: whole tiles, ragged ones, one a sample, each pad, wide layers.
        conv(3, 8, 8, 64, 64, 3, 1, 1),
        conv(2, 7, 7, 72, 80, 3, 1, 1),
        conv(5, 4, 4, 64, 64, 3, 1, 1),
        conv(2, 19, 14, 65, 70, 3, 1, 1),
        conv(1, 10, 9, 64, 66, 3, 1, 0),
        conv(2, 6, 12, 68, 64, 3, 1, 2),
        conv(26, 12, 8, 64, 65, 3, 1, 1),
        conv(3, 8, 6, 208, 193, 3, 1, 1),
        conv(70, 4, 4, 200, 216, 3, 1, 1),
    ]
}

pub(crate) struct Data {
    pub(crate) x: Vec<f32>,
    pub(crate) w: Vec<f32>,
    pub(crate) dy: Vec<f32>,
}

pub(crate) struct Results {
    pub(crate) y: Vec<f32>,
    stats: Vec<f32>,
    pub(crate) dx: Vec<f32>,
    dx_added: Vec<f32>, // to x
    pub(crate) dw: Vec<f32>,
}

impl Data {
    pub(crate) fn new(shape: &ConvShape) -> Data {
        let mut numbers = Numbers::new(shape.input_len() as u64);
        let x = numbers.vec(shape.input_len());
        let w = numbers.vec(shape.weight_len());
        Data { x, w, dy: numbers.vec(shape.output_len()) }
    }

    /// Results start as NaN, so that an element nobody writes is found.
    pub(crate) fn memory(&self, shape: &ConvShape) -> Memory {
        let nan = |len| vec![f32::NAN; len];
        let packed_len = shape.packed_len(Family::Cpu);
        let results = Results {
            y: nan(shape.output_len()),
            stats: nan(2 * shape.out_channels),
            dx: nan(shape.input_len()),
            dx_added: self.x.clone(),
            dw: nan(shape.weight_len()),
        };
        Memory {
            forward: nan(packed_len.forward),
            back: nan(packed_len.input_grad),
            without_stats: nan(shape.output_len()),
            results,
        }
    }
}

/// What a convolution is given to write to.
pub(crate) struct Memory {
    forward: Vec<f32>,
    back: Vec<f32>,
    without_stats: Vec<f32>,
    results: Results,
}

pub(crate) fn run(device: &Device, shape: &ConvShape, data: &Data) -> Results {
    let mut memory = data.memory(shape);
    run_into(device, shape, data, &mut memory);
    assert!(memory.without_stats == memory.results.y, "statistics change the result of {shape:?}");
    memory.results
}

/// Every pass once.
pub(crate) fn run_into(device: &Device, shape: &ConvShape, data: &Data, memory: &mut Memory) {
    let Memory { forward, back, without_stats, results: r } = memory;
    let (x, w, dy) = (View::Cpu(&data.x), View::Cpu(&data.w), View::Cpu(&data.dy));
    conv_pack(device, shape, w, ViewMut::Cpu(forward), ViewMut::Cpu(back));
    let (forward, back) = (View::Cpu(forward), View::Cpu(back));
    let stats = ViewMut::Cpu(&mut r.stats);
    conv_forward(device, shape, x, forward, ViewMut::Cpu(&mut r.y), Some(stats));
    conv_forward(device, shape, x, forward, ViewMut::Cpu(without_stats), None);
    let (overwrite, add) = (Accumulate::Overwrite, Accumulate::Add);
    conv_input_grad(device, shape, dy, back, ViewMut::Cpu(&mut r.dx), overwrite);
    conv_input_grad(device, shape, dy, back, ViewMut::Cpu(&mut r.dx_added), add);
    conv_weight_grad(device, shape, x, dy, ViewMut::Cpu(&mut r.dw));
}
