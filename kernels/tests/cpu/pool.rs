//! Max pooling and global average pooling.

use kernels::ops::{
    average_pool_backward, average_pool_forward, max_pool_backward, max_pool_forward,
};
use kernels::{Device, MaxPoolShape, PoolShape, View, ViewMut};

use crate::support::{
    Numbers, assert_close, assert_is_gradient, assert_same_bits_everywhere, device, dot, to_f64,
};

#[path = "../reference/pool.rs"]
mod reference;

use reference::{average_backward, average_forward, max_backward, max_forward};

#[test]
fn max_pooling_equals_the_f64_reference() {
    let device = device(2);
    for shape in max_shapes() {
        let data = max_data(&shape);
        let [y, dx] = run_max(&device, &shape, &data);
        let (x, dy) = (to_f64(&data[0]), to_f64(&data[1]));
        assert_close(&format!("y of {shape:?}"), &y, &max_forward(&shape, &x));
        assert_close(&format!("dx of {shape:?}"), &dx, &max_backward(&shape, &x, &dy));
    }
}

#[test]
fn average_pooling_equals_the_f64_reference() {
    let device = device(2);
    for shape in AVERAGE_SHAPES {
        let data = average_data(&shape);
        let [y, dx] = run_average(&device, &shape, &data);
        let (x, dy) = (to_f64(&data[0]), to_f64(&data[1]));
        assert_close(&format!("y of {shape:?}"), &y, &average_forward(&shape, &x));
        assert_close(&format!("dx of {shape:?}"), &dx, &average_backward(&shape, &dy));
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    for shape in max_shapes() {
        let data = max_data(&shape);
        assert_same_bits_everywhere(&format!("{shape:?}"), |d| run_max(d, &shape, &data).to_vec());
    }
    for shape in AVERAGE_SHAPES {
        let data = average_data(&shape);
        let op = |d: &Device| run_average(d, &shape, &data).to_vec();
        assert_same_bits_everywhere(&format!("{shape:?}"), op);
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let device = device(1);
    let part = |v: &[f32], batch: usize, sample: usize| {
        v[sample * v.len() / batch..][..v.len() / batch].to_vec()
    };
    for shape in max_shapes() {
        let data = max_data(&shape);
        let [y, _] = run_max(&device, &shape, &data);
        let one = MaxPoolShape { batch: 1, ..shape };
        for sample in 0..shape.batch {
            let data = data.clone().map(|v| part(&v, shape.batch, sample));
            assert!(run_max(&device, &one, &data)[0] == part(&y, shape.batch, sample));
        }
    }
    for shape in AVERAGE_SHAPES {
        let data = average_data(&shape);
        let [y, _] = run_average(&device, &shape, &data);
        let one = PoolShape { batch: 1, ..shape };
        for sample in 0..shape.batch {
            let data = data.clone().map(|v| part(&v, shape.batch, sample));
            assert!(run_average(&device, &one, &data)[0] == part(&y, shape.batch, sample));
        }
    }
}

#[test]
fn of_equal_maxima_the_first_takes_the_gradient() {
    let shape =
        MaxPoolShape { batch: 1, height: 2, width: 2, channels: 1, kernel: 2, stride: 2, pad: 0 };
    let data = [vec![1.0, 3.0, 3.0, 3.0], vec![5.0]];
    assert_eq!(run_max(&device(1), &shape, &data)[1], [0.0, 5.0, 0.0, 0.0]);
}

#[test]
fn reference_gradients_agree_with_finite_differences() {
    let shape =
        MaxPoolShape { batch: 2, height: 5, width: 4, channels: 2, kernel: 3, stride: 2, pad: 1 };
    let [x, dy] = max_data(&shape).map(|v| to_f64(&v));
    let dx = max_backward(&shape, &x, &dy);
    assert_is_gradient("max", &x, &dx, |x| dot(&max_forward(&shape, x), &dy));
    let shape = PoolShape { batch: 2, pixels: 5, channels: 3 };
    let [x, dy] = average_data(&shape).map(|v| to_f64(&v));
    let dx = average_backward(&shape, &dy);
    assert_is_gradient("average", &x, &dx, |x| dot(&average_forward(&shape, x), &dy));
}

const AVERAGE_SHAPES: [PoolShape; 4] = [
    PoolShape { batch: 1, pixels: 1, channels: 1 },
    PoolShape { batch: 8, pixels: 4, channels: 64 },
    PoolShape { batch: 3, pixels: 49, channels: 17 },
    PoolShape { batch: 9, pixels: 49, channels: 512 },
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
        shape(2, (8, 8), 16, (2, 2, 0)),
        shape(3, (9, 7), 17, (3, 2, 1)),
        shape(2, (10, 11), 3, (3, 3, 2)),
        shape(2, (6, 6), 70, (5, 1, 2)),
        shape(3, (41, 43), 33, (3, 2, 1)),
    ]
}

fn max_data(shape: &MaxPoolShape) -> [Vec<f32>; 2] {
    let mut numbers = Numbers::new(shape.input_len() as u64);
    [numbers.vec(shape.input_len()), numbers.vec(shape.output_len())]
}

fn average_data(shape: &PoolShape) -> [Vec<f32>; 2] {
    let mut numbers = Numbers::new(shape.input_len() as u64);
    [numbers.vec(shape.input_len()), numbers.vec(shape.output_len())]
}

/// `y`, `dx` from `x`, `dy`.
fn run_max(device: &Device, shape: &MaxPoolShape, [x, dy]: &[Vec<f32>; 2]) -> [Vec<f32>; 2] {
    let mut y = vec![f32::NAN; shape.output_len()];
    let mut dx = vec![f32::NAN; shape.input_len()];
    let (x, dy) = (View::Cpu(x), View::Cpu(dy));
    max_pool_forward(device, shape, x, ViewMut::Cpu(&mut y));
    max_pool_backward(device, shape, x, View::Cpu(&y), dy, ViewMut::Cpu(&mut dx));
    [y, dx]
}

/// `y`, `dx` from `x`, `dy`.
fn run_average(device: &Device, shape: &PoolShape, [x, dy]: &[Vec<f32>; 2]) -> [Vec<f32>; 2] {
    let mut y = vec![f32::NAN; shape.output_len()];
    let mut dx = vec![f32::NAN; shape.input_len()];
    average_pool_forward(device, shape, View::Cpu(x), ViewMut::Cpu(&mut y));
    average_pool_backward(device, shape, View::Cpu(dy), ViewMut::Cpu(&mut dx));
    [y, dx]
}
