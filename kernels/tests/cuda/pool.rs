//! Max pooling and global average pooling.

use kernels::ops::{
    average_pool_backward, average_pool_forward, max_pool_backward, max_pool_forward,
};
use kernels::{Device, MaxPoolShape, PoolShape, Span};

use crate::numbers::{Numbers, to_f64};
use crate::support::{
    PRECISIONS, activations, activations_result, assert_relative_l2, assert_rounded,
    assert_same_bits_each_time, bits, device, fp32, fp32_result, read, rounded,
};

#[path = "../reference/pool.rs"]
mod reference;

use reference::{average_backward, average_forward, max_backward, max_forward};

#[test]
fn max_pooling_equals_the_f64_reference() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        for shape in max_shapes() {
            let data = max_data(&device, &shape);
            let [y, dx] = run_max(&device, &shape, &data, 0);
            let [x, dy] = data.map(|values| to_f64(&values));
            let what = format!("{shape:?} in {precision:?}");
            assert_eq!(to_f64(&y), max_forward(&shape, &x), "{what}");
            assert_rounded(&what, precision, &dx, &max_backward(&shape, &x, &dy), 1e-6);
        }
    }
}

#[test]
fn average_pooling_equals_the_f64_reference() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        for shape in AVERAGE_SHAPES {
            let data = average_data(&device, &shape);
            let [y, dx] = run_average(&device, &shape, &data);
            let [x, dy] = data.map(|values| to_f64(&values));
            let what = format!("{shape:?} in {precision:?}");
            assert_relative_l2(&what, &y, &average_forward(&shape, &x), 1e-5);
            assert_rounded(&what, precision, &dx, &average_backward(&shape, &dy), 0.0);
        }
    }
}

#[test]
fn bits_are_the_same_each_time_and_wherever_operands_lie() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        let shape = max_shapes()[1];
        let data = max_data(&device, &shape);
        let expected = bits(&run_max(&device, &shape, &data, 0));
        assert_same_bits_each_time("max pooling", || {
            let results = run_max(&device, &shape, &data, 1);
            assert!(bits(&results) == expected, "an element further in {precision:?}");
            results.to_vec()
        });
        let shape = AVERAGE_SHAPES[1];
        let data = average_data(&device, &shape);
        assert_same_bits_each_time("average pooling", || {
            run_average(&device, &shape, &data).to_vec()
        });
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        let last =
            |values: &[f32], batch: usize| values[values.len() / batch * (batch - 1)..].to_vec();
        let shape = max_shapes()[2];
        let data = max_data(&device, &shape);
        let [y, dx] = run_max(&device, &shape, &data, 0).map(|all| last(&all, shape.batch));
        let data = data.map(|all| last(&all, shape.batch));
        let alone = run_max(&device, &MaxPoolShape { batch: 1, ..shape }, &data, 0);
        assert!(alone == [y, dx], "max pooling in {precision:?}");
        let shape = AVERAGE_SHAPES[2];
        let data = average_data(&device, &shape);
        let [y, dx] = run_average(&device, &shape, &data).map(|all| last(&all, shape.batch));
        let data = data.map(|all| last(&all, shape.batch));
        let alone = run_average(&device, &PoolShape { batch: 1, ..shape }, &data);
        assert!(alone == [y, dx], "average pooling in {precision:?}");
    }
}

#[test]
fn of_equal_maxima_the_first_takes_the_gradient() {
    let shape =
        MaxPoolShape { batch: 1, height: 3, width: 3, channels: 1, kernel: 3, stride: 2, pad: 1 };
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        let x = vec![0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0];
        let data = [x, vec![1.0, 2.0, 4.0, 8.0]];
        let [y, dx] = run_max(&device, &shape, &data, 0);
        assert_eq!(y, [0.0, 1.0, 1.0, 1.0]);
        assert_eq!(dx, [1.0, 0.0, 0.0, 0.0, 0.0, 2.0 + 8.0, 0.0, 4.0, 0.0]);
    }
}

#[test]
fn nan_is_the_largest_and_takes_no_gradient() {
    let shape =
        MaxPoolShape { batch: 1, height: 2, width: 2, channels: 1, kernel: 2, stride: 2, pad: 0 };
    for precision in PRECISIONS {
        let Some(device) = device(precision) else { return };
        let data = [vec![1.0, f32::NAN, f32::INFINITY, 2.0], vec![5.0]];
        let [y, dx] = run_max(&device, &shape, &data, 0);
        assert!(y[0].is_nan());
        assert_eq!(dx, [0.0; 4]);
    }
}

const AVERAGE_SHAPES: [PoolShape; 4] = [
    PoolShape { batch: 1, pixels: 1, channels: 1 },
    PoolShape { batch: 4, pixels: 9, channels: 64 },
    PoolShape { batch: 3, pixels: 49, channels: 17 },
    PoolShape { batch: 1, pixels: 5, channels: 520 },
];

fn max_shapes() -> Vec<MaxPoolShape> {
    let shape = |batch, (height, width), channels, (kernel, stride, pad)| MaxPoolShape {
        batch,
        height,
        width,
        channels,
        kernel,
        stride,
        pad,
    };
    vec![
        shape(1, (1, 1), 1, (1, 1, 0)),
        shape(2, (8, 8), 16, (3, 2, 1)),
        shape(3, (9, 7), 17, (3, 2, 1)),
        shape(2, (10, 11), 3, (3, 3, 2)),
        shape(1, (6, 6), 24, (5, 1, 2)),
        shape(1, (7, 9), 8, (2, 3, 0)),
    ]
}

fn max_data(device: &Device, shape: &MaxPoolShape) -> [Vec<f32>; 2] {
    let mut numbers = Numbers::new(shape.input_len() as u64);
    // Many equal ones, as behind a ReLU.
    let x: Vec<f32> = numbers.vec(shape.input_len()).iter().map(|value| value.max(0.0)).collect();
    [x, numbers.vec(shape.output_len())].map(|values| rounded(device, &values))
}

fn average_data(device: &Device, shape: &PoolShape) -> [Vec<f32>; 2] {
    let mut numbers = Numbers::new(shape.input_len() as u64);
    [rounded(device, &numbers.vec(shape.input_len())), numbers.vec(shape.output_len())]
}

/// `y`, `dx` from `x`, `dy`, all of which start `shift` elements behind a boundary of memory.
fn run_max(
    device: &Device,
    shape: &MaxPoolShape,
    [x, dy]: &[Vec<f32>; 2],
    shift: usize,
) -> [Vec<f32>; 2] {
    let padded = |values: &[f32]| activations(device, &[&vec![f32::NAN; shift], values].concat());
    let [input, output] = [shape.input_len(), shape.output_len()].map(|len| Span::new(shift, len));
    let (x, dy) = (padded(x), padded(dy));
    let mut y = activations_result(device, output.end());
    let mut dx = activations_result(device, input.end());
    max_pool_forward(device, shape, x.view(input), y.view_mut(output));
    let into = dx.view_mut(input);
    max_pool_backward(device, shape, x.view(input), y.view(output), dy.view(output), into);
    [y, dx].map(|buffer| read(&buffer)[shift..].to_vec())
}

/// `y`, `dx` from `x`, `dy`.
fn run_average(device: &Device, shape: &PoolShape, [x, dy]: &[Vec<f32>; 2]) -> [Vec<f32>; 2] {
    let (x, dy) = (activations(device, x), fp32(device, dy));
    let mut y = fp32_result(device, shape.output_len());
    let mut dx = activations_result(device, shape.input_len());
    let into = y.view_mut(Span::new(0, shape.output_len()));
    average_pool_forward(device, shape, x.view(x.span()), into);
    let into = dx.view_mut(Span::new(0, shape.input_len()));
    average_pool_backward(device, shape, dy.view(dy.span()), into);
    [read(&y), read(&dx)]
}
