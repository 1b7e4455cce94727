//! The fully connected layer.

use kernels::ops::{linear_backward, linear_forward};
use kernels::{Device, LinearShape, Precision, Span};

use crate::numbers::{Numbers, to_f64};
use crate::support::{
    assert_relative_l2, assert_same_bits_each_time, bits, device, fp32, fp32_result, read, tree_sum,
};

#[path = "../reference/linear.rs"]
mod reference;

use reference::{backward, forward};

#[test]
fn both_passes_equal_the_f64_reference() {
    let Some(device) = device(Precision::Bf16) else { return };
    for shape in SHAPES {
        let data = Data::new(&shape);
        let [y, dx, dw, db] = run(&device, &shape, &data);
        let [x, w, b, dy] = [&data.x, &data.w, &data.b, &data.dy].map(|values| to_f64(values));
        assert_relative_l2(&format!("y of {shape:?}"), &y, &forward(&shape, &x, &w, &b), 1e-6);
        let gradients = backward(&shape, &x, &w, &dy);
        assert_relative_l2(&format!("dx of {shape:?}"), &dx, &gradients[0], 1e-6);
        assert_relative_l2(&format!("dw of {shape:?}"), &dw, &gradients[1], 1e-6);
        assert_relative_l2(&format!("db of {shape:?}"), &db, &gradients[2], 1e-6);
    }
}

#[test]
fn bits_are_the_same_each_time() {
    let Some(device) = device(Precision::Bf16) else { return };
    let shape = SHAPES[2];
    let data = Data::new(&shape);
    assert_same_bits_each_time("linear", || run(&device, &shape, &data).to_vec());
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let Some(device) = device(Precision::Bf16) else { return };
    let shape = SHAPES[3];
    let data = Data::new(&shape);
    let [y, dx, ..] = run(&device, &shape, &data);
    let sample = shape.batch - 1;
    let part = |v: &[f32]| v[sample * v.len() / shape.batch..].to_vec();
    let alone = Data { x: part(&data.x), dy: part(&data.dy), ..data.clone() };
    let [one_y, one_dx, ..] = run(&device, &LinearShape { batch: 1, ..shape }, &alone);
    assert!(bits(&[one_y, one_dx]) == bits(&[part(&y), part(&dx)]));
}

#[test]
fn slices_at_once_equal_slices_one_by_one() {
    let Some(device) = device(Precision::Bf16) else { return };
    for slices in [2, 8] {
        let one = LinearShape { slices: 1, batch: 5, inputs: 67, outputs: 9 };
        let all = LinearShape { slices, batch: slices * one.batch, ..one };
        let data = Data::new(&all);
        let [y, dx, dw, db] = run(&device, &all, &data);
        let one_by_one: Vec<_> = (0..slices)
            .map(|slice| {
                let part = |v: &[f32]| v[slice * v.len() / slices..][..v.len() / slices].to_vec();
                run(&device, &one, &Data { x: part(&data.x), dy: part(&data.dy), ..data.clone() })
            })
            .collect();
        let of_all = |which: usize| -> Vec<Vec<f32>> {
            one_by_one.iter().map(|results| results[which].clone()).collect()
        };
        assert!(bits(&[y, dx]) == bits(&[of_all(0).concat(), of_all(1).concat()]));
        let sums = [tree_sum(of_all(2)), tree_sum(of_all(3))];
        assert!(bits(&[dw, db]) == bits(&sums), "{slices} slices");
    }
}

/// The last but one has several tiles both ways, and more terms than one of them.
const SHAPES: [LinearShape; 5] = [
    LinearShape { slices: 1, batch: 1, inputs: 1, outputs: 1 },
    LinearShape { slices: 1, batch: 8, inputs: 64, outputs: 10 },
    LinearShape { slices: 1, batch: 5, inputs: 33, outputs: 17 },
    LinearShape { slices: 1, batch: 67, inputs: 70, outputs: 65 },
    LinearShape { slices: 1, batch: 2, inputs: 16, outputs: 130 },
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
}

/// `y`, `dx`, `dw`, `db`.
fn run(device: &Device, shape: &LinearShape, data: &Data) -> [Vec<f32>; 4] {
    let [x, w, b, dy] = [&data.x, &data.w, &data.b, &data.dy].map(|values| fp32(device, values));
    let [x, w, b, dy] = [&x, &w, &b, &dy].map(|buffer| buffer.view(buffer.span()));
    let lens = [shape.output_len(), shape.input_len(), shape.weight_len(), shape.outputs];
    let mut results = lens.map(|len| fp32_result(device, len));
    let [y, dx, dw, db] = &mut results;
    let [y, dx, dw, db] = [(y, lens[0]), (dx, lens[1]), (dw, lens[2]), (db, lens[3])]
        .map(|(buffer, len)| buffer.view_mut(Span::new(0, len)));
    linear_forward(device, shape, x, w, b, y);
    linear_backward(device, shape, x, w, dy, dx, dw, db);
    results.map(|buffer| read(&buffer))
}
