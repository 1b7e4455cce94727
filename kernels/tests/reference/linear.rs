//! The fully connected layer in f64, after its definition.

use kernels::LinearShape;

use crate::numbers::dot;

pub(crate) fn forward(shape: &LinearShape, x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let mut y = Vec::new();
    for row in x.chunks(shape.inputs) {
        for output in 0..shape.outputs {
            let column: Vec<f64> = w[output..].iter().step_by(shape.outputs).copied().collect();
            y.push(b[output] + dot(row, &column));
        }
    }
    y
}

/// `dx`, `dw`, `db`.
pub(crate) fn backward(shape: &LinearShape, x: &[f64], w: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
    let mut dx = vec![0.0; x.len()];
    let mut dw = vec![0.0; w.len()];
    let mut db = vec![0.0; shape.outputs];
    for sample in 0..shape.batch {
        for (output, db) in db.iter_mut().enumerate() {
            let dy = dy[sample * shape.outputs + output];
            *db += dy;
            for input in 0..shape.inputs {
                dx[sample * shape.inputs + input] += dy * w[input * shape.outputs + output];
                dw[input * shape.outputs + output] += dy * x[sample * shape.inputs + input];
            }
        }
    }
    [dx, dw, db]
}
