//! The fully connected layer.

use kernels::ops::{linear_backward, linear_forward};
use kernels::{Device, LinearShape, View, ViewMut};

use crate::support::{
    Numbers, assert_close, assert_is_gradient, assert_same_bits_everywhere, device, dot, to_f64,
};

#[path = "../reference/linear.rs"]
mod reference;

use reference::{backward, forward};

#[test]
fn both_passes_equal_the_f64_reference() {
    let device = device(2);
    for shape in SHAPES {
        let data = Data::new(&shape);
        let [y, dx, dw, db] = run(&device, &shape, &data);
        let [x, w, b, dy] = data.to_f64();
        assert_close(&format!("y of {shape:?}"), &y, &forward(&shape, &x, &w, &b));
        let gradients = backward(&shape, &x, &w, &dy);
        assert_close(&format!("dx of {shape:?}"), &dx, &gradients[0]);
        assert_close(&format!("dw of {shape:?}"), &dw, &gradients[1]);
        assert_close(&format!("db of {shape:?}"), &db, &gradients[2]);
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    for shape in SHAPES {
        let data = Data::new(&shape);
        assert_same_bits_everywhere(&format!("{shape:?}"), |d| run(d, &shape, &data).to_vec());
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let device = device(1);
    for shape in SHAPES {
        let data = Data::new(&shape);
        let [y, ..] = run(&device, &shape, &data);
        let one = LinearShape { batch: 1, ..shape };
        for sample in 0..shape.batch {
            let part =
                |v: &[f32]| v[sample * v.len() / shape.batch..][..v.len() / shape.batch].to_vec();
            let data = Data { x: part(&data.x), dy: part(&data.dy), ..data.clone() };
            assert!(run(&device, &one, &data)[0] == part(&y), "sample {sample} of {shape:?}");
        }
    }
}

#[test]
fn reference_gradients_agree_with_finite_differences() {
    let shape = LinearShape { slices: 1, batch: 3, inputs: 4, outputs: 5 };
    let [x, w, b, dy] = Data::new(&shape).to_f64();
    let [dx, dw, db] = backward(&shape, &x, &w, &dy);
    assert_is_gradient("dx", &x, &dx, |x| dot(&forward(&shape, x, &w, &b), &dy));
    assert_is_gradient("dw", &w, &dw, |w| dot(&forward(&shape, &x, w, &b), &dy));
    assert_is_gradient("db", &b, &db, |b| dot(&forward(&shape, &x, &w, b), &dy));
}

const SHAPES: [LinearShape; 4] = [
    LinearShape { slices: 1, batch: 1, inputs: 1, outputs: 1 },
    LinearShape { slices: 1, batch: 8, inputs: 64, outputs: 10 },
    LinearShape { slices: 1, batch: 5, inputs: 33, outputs: 17 },
    LinearShape { slices: 1, batch: 31, inputs: 257, outputs: 1000 },
];

#[derive(Clone)]
struct Data {
    x: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
    dy: Vec<f32>,
}

impl Data {
    fn new(shape: &LinearShape) -> Data {
        let mut numbers = Numbers::new(shape.weight_len() as u64);
        let x = numbers.vec(shape.input_len());
        let w = numbers.vec(shape.weight_len());
        Data { x, w, b: numbers.vec(shape.outputs), dy: numbers.vec(shape.output_len()) }
    }

    fn to_f64(&self) -> [Vec<f64>; 4] {
        [to_f64(&self.x), to_f64(&self.w), to_f64(&self.b), to_f64(&self.dy)]
    }
}

/// `y`, `dx`, `dw`, `db`.
fn run(device: &Device, shape: &LinearShape, data: &Data) -> [Vec<f32>; 4] {
    let nan = |len| vec![f32::NAN; len];
    let (mut y, mut dx) = (nan(shape.output_len()), nan(shape.input_len()));
    let (mut dw, mut db) = (nan(shape.weight_len()), nan(shape.outputs));
    let (x, w, dy) = (View::Cpu(&data.x), View::Cpu(&data.w), View::Cpu(&data.dy));
    linear_forward(device, shape, x, w, View::Cpu(&data.b), ViewMut::Cpu(&mut y));
    let (into_x, into_w) = (ViewMut::Cpu(&mut dx), ViewMut::Cpu(&mut dw));
    linear_backward(device, shape, x, w, dy, into_x, into_w, ViewMut::Cpu(&mut db));
    [y, dx, dw, db]
}
