//! Convolution in plain f64, one product after another, and the shapes that tests are made of.

use kernels::ConvShape;

#[expect(clippy::too_many_arguments, reason = "a row of a table of shapes")]
pub(crate) fn conv(
    batch: usize,
    height: usize,
    width: usize,
    in_channels: usize,
    out_channels: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
) -> ConvShape {
    ConvShape { slices: 1, batch, height, width, in_channels, out_channels, kernel, stride, pad }
}

pub(crate) fn forward(shape: &ConvShape, x: &[f64], w: &[f64]) -> Vec<f64> {
    let mut y = vec![0.0; shape.output_len()];
    each_product(shape, |x_at, w_at, y_at| y[y_at] += x[x_at] * w[w_at]);
    y
}

pub(crate) fn input_grad(shape: &ConvShape, dy: &[f64], w: &[f64]) -> Vec<f64> {
    let mut dx = vec![0.0; shape.input_len()];
    each_product(shape, |x_at, w_at, y_at| dx[x_at] += dy[y_at] * w[w_at]);
    dx
}

pub(crate) fn weight_grad(shape: &ConvShape, x: &[f64], dy: &[f64]) -> Vec<f64> {
    let mut dw = vec![0.0; shape.weight_len()];
    each_product(shape, |x_at, w_at, y_at| dw[w_at] += x[x_at] * dy[y_at]);
    dw
}

pub(crate) fn stats(shape: &ConvShape, y: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let channels = shape.out_channels;
    let rows = shape.out_pixels() as f64;
    let column = |c: usize| y[c..].iter().step_by(channels);
    let means: Vec<f64> = (0..channels).map(|c| column(c).sum::<f64>() / rows).collect();
    let variance =
        |c: usize| column(c).map(|v| (v - means[c]) * (v - means[c])).sum::<f64>() / rows;
    let variances = (0..channels).map(variance).collect();
    (means, variances)
}

/// Calls `product(x, w, y)` with the three indices of every multiply-add.
fn each_product(shape: &ConvShape, mut product: impl FnMut(usize, usize, usize)) {
    let (ci, co, k) = (shape.in_channels, shape.out_channels, shape.kernel);
    for n in 0..shape.batch {
        for oh in 0..shape.out_height() {
            for ow in 0..shape.out_width() {
                let pixel = (n * shape.out_height() + oh) * shape.out_width() + ow;
                for (kh, kw) in (0..k * k).map(|i| (i / k, i % k)) {
                    let (ih, iw) = (oh * shape.stride + kh, ow * shape.stride + kw);
                    let rows = shape.pad..shape.pad + shape.height;
                    if !rows.contains(&ih) || !(shape.pad..shape.pad + shape.width).contains(&iw) {
                        continue;
                    }
                    let (ih, iw) = (ih - shape.pad, iw - shape.pad);
                    let source = (n * shape.height + ih) * shape.width + iw;
                    for (c, o) in (0..ci * co).map(|i| (i / co, i % co)) {
                        let w = ((kh * k + kw) * ci + c) * co + o;
                        product(source * ci + c, w, pixel * co + o);
                    }
                }
            }
        }
    }
}
