//! BatchNorm of one slice in f64, after its definition.

use kernels::NormShape;

pub(crate) const EPSILON: f32 = 1e-5;

pub(crate) fn stats(shape: &NormShape, z: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let rows = shape.rows as f64;
    let column = |c: usize| z[c..].iter().step_by(shape.channels);
    let means: Vec<f64> = (0..shape.channels).map(|c| column(c).sum::<f64>() / rows).collect();
    let variance =
        |c: usize| column(c).map(|v| (v - means[c]) * (v - means[c])).sum::<f64>() / rows;
    let variances = (0..shape.channels).map(variance).collect();
    (means, variances)
}

pub(crate) fn normalise(shape: &NormShape, z: &[f64], gamma: &[f64], beta: &[f64]) -> Vec<f64> {
    let hat = hat(shape, z);
    let at = |i: usize| i % shape.channels;
    (0..z.len()).map(|i| hat[i] * gamma[at(i)] + beta[at(i)]).collect()
}

/// `dz`, `d_gamma`, `d_beta`.
pub(crate) fn backward(shape: &NormShape, z: &[f64], gamma: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
    let rows = shape.rows as f64;
    let hat = hat(shape, z);
    let (_, variance) = stats(shape, z);
    let mut d_gamma = vec![0.0; shape.channels];
    let mut d_beta = vec![0.0; shape.channels];
    for (i, dy) in dy.iter().enumerate() {
        d_gamma[i % shape.channels] += dy * hat[i];
        d_beta[i % shape.channels] += dy;
    }
    let dz = |i: usize| {
        let c = i % shape.channels;
        let deviation = (variance[c] + f64::from(EPSILON)).sqrt();
        gamma[c] / deviation * (dy[i] - d_beta[c] / rows - hat[i] * d_gamma[c] / rows)
    };
    [(0..z.len()).map(dz).collect(), d_gamma, d_beta]
}

fn hat(shape: &NormShape, z: &[f64]) -> Vec<f64> {
    let (mean, variance) = stats(shape, z);
    let at = |i: usize| i % shape.channels;
    (0..z.len())
        .map(|i| (z[i] - mean[at(i)]) / (variance[at(i)] + f64::from(EPSILON)).sqrt())
        .collect()
}
