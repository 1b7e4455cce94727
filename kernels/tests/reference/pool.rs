//! Max pooling and global average pooling in f64, after their definitions.

use kernels::{MaxPoolShape, PoolShape};

pub(crate) fn max_forward(shape: &MaxPoolShape, x: &[f64]) -> Vec<f64> {
    first_maxima(shape, x).iter().map(|&at| x[at]).collect()
}

pub(crate) fn max_backward(shape: &MaxPoolShape, x: &[f64], dy: &[f64]) -> Vec<f64> {
    let mut dx = vec![0.0; x.len()];
    for (at, dy) in first_maxima(shape, x).into_iter().zip(dy) {
        dx[at] += dy;
    }
    dx
}

/// For each output, where in `x` its window's first maximum lies.
fn first_maxima(shape: &MaxPoolShape, x: &[f64]) -> Vec<usize> {
    let mut maxima = Vec::new();
    let (out_height, out_width) = (shape.out_height(), shape.out_width());
    for output in 0..shape.output_len() {
        let (pixel, channel) = (output / shape.channels, output % shape.channels);
        let (row, column) = (pixel / out_width, pixel % out_width);
        let (image, row) = (row / out_height, row % out_height);
        let mut best: Option<usize> = None;
        for tap in 0..shape.kernel * shape.kernel {
            let row = row * shape.stride + tap / shape.kernel;
            let column = column * shape.stride + tap % shape.kernel;
            let inside = (shape.pad..shape.pad + shape.height).contains(&row)
                && (shape.pad..shape.pad + shape.width).contains(&column);
            if inside {
                let flat_row = image * shape.height + row - shape.pad;
                let at = (flat_row * shape.width + column - shape.pad) * shape.channels + channel;
                if best.is_none_or(|best| x[at] > x[best]) {
                    best = Some(at);
                }
            }
        }
        maxima.push(best.unwrap());
    }
    maxima
}

pub(crate) fn average_forward(shape: &PoolShape, x: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; shape.output_len()];
    for (i, x) in x.iter().enumerate() {
        let image = i / (shape.pixels * shape.channels);
        y[image * shape.channels + i % shape.channels] += x / shape.pixels as f64;
    }
    y
}

pub(crate) fn average_backward(shape: &PoolShape, dy: &[f64]) -> Vec<f64> {
    (0..shape.input_len())
        .map(|i| {
            let image = i / (shape.pixels * shape.channels);
            dy[image * shape.channels + i % shape.channels] / shape.pixels as f64
        })
        .collect()
}
