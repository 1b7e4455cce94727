//! The logits and the training loss of a ResNet in plain fp64: textbook loops over NCHW, torchvision's names, no code of the product
//! but the description of the model. It is what derivatives are taken of, so it computes no gradient itself.

use proto::job::{Block, Model, Stem};

use crate::tensors::{Tensor, Tensors};

/// `[N, C, H, W]`.
#[derive(Clone, Debug)]
pub(crate) struct Activation {
    pub(crate) shape: [usize; 4],
    pub(crate) values: Vec<f64>,
}

/// What the loss compares with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) labels: &'a [u32],
    pub(crate) smoothing: f64,
}

/// Weights, and where BatchNorm takes mean and variance from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network<'a> {
    pub(crate) tensors: &'a Tensors,
    pub(crate) statistics: Statistics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statistics {
    /// Training: those of the batch.
    Batch,
    /// Evaluation.
    Running,
}

/// One row a sample, in training.
pub(crate) fn logits(model: &Model, tensors: &Tensors, images: &Activation) -> Vec<Vec<f64>> {
    logits_with(model, Network { tensors, statistics: Statistics::Batch }, images)
}

/// One row a sample.
pub(crate) fn logits_with(
    model: &Model,
    network: Network<'_>,
    images: &Activation,
) -> Vec<Vec<f64>> {
    let tensors = network.tensors;
    let stride = if model.stem == Stem::Imagenet { 2 } else { 1 };
    let mut x = convolution(images, &tensors["conv1.weight"], stride);
    if let Some(bias) = tensors.get("conv1.bias") {
        add_bias(&mut x, bias);
    }
    x = relu(norm(&x, network, "bn1"));
    if model.stem == Stem::Imagenet {
        x = max_pool(&x);
    }
    for (stage, &blocks) in model.blocks.iter().enumerate() {
        for index in 0..blocks {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            x = block(model.block, network, &format!("layer{}.{index}", stage + 1), &x, stride);
        }
    }
    linear(&average(&x), &tensors["fc.weight"], &tensors["fc.bias"])
}

/// Mean over the batch of the label-smoothed cross-entropy.
pub(crate) fn loss(logits: &[Vec<f64>], target: Target<'_>) -> f64 {
    let mut sum = 0.0;
    for (logits, &label) in logits.iter().zip(target.labels) {
        let normaliser = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        for (class, logit) in logits.iter().enumerate() {
            let hit = if class == label as usize { 1.0 - target.smoothing } else { 0.0 };
            let probability = hit + target.smoothing / logits.len() as f64;
            sum += probability * (normaliser - logit);
        }
    }
    sum / logits.len() as f64
}

/// Samples whose largest logit is the label.
pub(crate) fn hits(logits: &[Vec<f64>], labels: &[u32]) -> usize {
    let hit = |(logits, &label): (&Vec<f64>, &u32)| {
        logits.iter().all(|&logit| logit <= logits[label as usize])
    };
    logits.iter().zip(labels).filter(|&pair| hit(pair)).count()
}

fn block(
    kind: Block,
    network: Network<'_>,
    name: &str,
    x: &Activation,
    stride: usize,
) -> Activation {
    let tensors = network.tensors;
    let strides: &[usize] = match kind {
        Block::Basic => &[stride, 1],
        Block::Bottleneck => &[1, stride, 1],
    };
    let mut y = x.clone();
    for (i, &stride) in strides.iter().enumerate() {
        if i > 0 {
            y = relu(y);
        }
        let (weight, bn) = (format!("{name}.conv{}.weight", i + 1), format!("{name}.bn{}", i + 1));
        y = norm(&convolution(&y, &tensors[&weight], stride), network, &bn);
    }
    let shortcut = match tensors.get(&format!("{name}.downsample.0.weight")) {
        Some(weight) => {
            norm(&convolution(x, weight, stride), network, &format!("{name}.downsample.1"))
        }
        None => x.clone(),
    };
    assert_eq!(y.shape, shortcut.shape, "{name}");
    let sum = y.values.iter().zip(&shortcut.values).map(|(a, b)| a + b).collect();
    relu(Activation { shape: y.shape, values: sum })
}

/// Padding keeps the size but for the stride: 3 for 7x7, 1 for 3x3, 0 for 1x1.
fn convolution(x: &Activation, weight: &Tensor, stride: usize) -> Activation {
    let [batch, inputs, height, width] = x.shape;
    let (outputs, kernel) = (weight.shape[0], weight.shape[2]);
    assert_eq!(weight.shape, [outputs, inputs, kernel, kernel]);
    let pad = kernel / 2;
    let shape = [batch, outputs, (height - 1) / stride + 1, (width - 1) / stride + 1];
    let mut values = Vec::new();
    for_each_place(shape, |n, output, row, column| {
        let mut sum = 0.0;
        for input in 0..inputs {
            let plane = &x.values[(n * inputs + input) * height * width..];
            let taps = &weight.values[(output * inputs + input) * kernel * kernel..];
            for (i, h) in window(row * stride, pad, kernel, height) {
                for (j, w) in window(column * stride, pad, kernel, width) {
                    sum += plane[h * width + w] * taps[i * kernel + j];
                }
            }
        }
        values.push(sum);
    });
    Activation { shape, values }
}

/// 3x3 windows, stride 2, a border of 1 that never wins.
fn max_pool(x: &Activation) -> Activation {
    let [batch, channels, height, width] = x.shape;
    let shape = [batch, channels, (height - 1) / 2 + 1, (width - 1) / 2 + 1];
    let mut values = Vec::new();
    for_each_place(shape, |n, channel, row, column| {
        let plane = &x.values[(n * channels + channel) * height * width..];
        let mut largest = f64::NEG_INFINITY;
        for (_, h) in window(2 * row, 1, 3, height) {
            for (_, w) in window(2 * column, 1, 3, width) {
                largest = largest.max(plane[h * width + w]);
            }
        }
        values.push(largest);
    });
    Activation { shape, values }
}

fn add_bias(x: &mut Activation, bias: &Tensor) {
    let [_, channels, height, width] = x.shape;
    assert_eq!(bias.shape, [channels]);
    for (at, value) in x.values.iter_mut().enumerate() {
        *value += bias.values[at / (height * width) % channels];
    }
}

fn norm(x: &Activation, network: Network<'_>, name: &str) -> Activation {
    let tensors = network.tensors;
    let [batch, channels, height, width] = x.shape;
    let (gamma, beta) = (&tensors[&format!("{name}.weight")], &tensors[&format!("{name}.bias")]);
    let pixels = height * width;
    let count = (batch * pixels) as f64;
    let mut values = x.values.clone();
    for channel in 0..channels {
        let members: Vec<usize> = (0..batch)
            .flat_map(|n| (0..pixels).map(move |pixel| (n * channels + channel) * pixels + pixel))
            .collect();
        let (mean, variance) = match network.statistics {
            Statistics::Batch => {
                let mean = members.iter().map(|&at| x.values[at]).sum::<f64>() / count;
                let squares = members.iter().map(|&at| (x.values[at] - mean).powi(2)).sum::<f64>();
                (mean, squares / count)
            }
            Statistics::Running => {
                let running =
                    |what: &str| tensors[&format!("{name}.running_{what}")].values[channel];
                (running("mean"), running("var"))
            }
        };
        let deviation = (variance + 1e-5).sqrt();
        for at in members {
            let standard = (x.values[at] - mean) / deviation;
            values[at] = gamma.values[channel] * standard + beta.values[channel];
        }
    }
    Activation { shape: x.shape, values }
}

fn relu(mut x: Activation) -> Activation {
    for value in &mut x.values {
        *value = value.max(0.0);
    }
    x
}

/// `[N, C]`: one row a sample.
fn average(x: &Activation) -> Vec<Vec<f64>> {
    let [_, channels, height, width] = x.shape;
    let pixels = height * width;
    let mean = |plane: &[f64]| plane.iter().sum::<f64>() / pixels as f64;
    x.values
        .chunks_exact(channels * pixels)
        .map(|sample| sample.chunks_exact(pixels).map(mean).collect())
        .collect()
}

fn linear(x: &[Vec<f64>], weight: &Tensor, bias: &Tensor) -> Vec<Vec<f64>> {
    let rows = || weight.values.chunks_exact(weight.shape[1]).zip(&bias.values);
    let dot = |row: &[f64], x: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
    x.iter().map(|x| rows().map(|(row, bias)| dot(row, x) + bias).collect()).collect()
}

fn for_each_place(shape: [usize; 4], mut visit: impl FnMut(usize, usize, usize, usize)) {
    for n in 0..shape[0] {
        for channel in 0..shape[1] {
            for row in 0..shape[2] {
                for column in 0..shape[3] {
                    visit(n, channel, row, column);
                }
            }
        }
    }
}

/// `(tap, coordinate)` of those taps of a window that lie inside the image.
fn window(
    start: usize,
    pad: usize,
    kernel: usize,
    size: usize,
) -> impl Iterator<Item = (usize, usize)> {
    (0..kernel)
        .filter(move |tap| (pad..pad + size).contains(&(start + tap)))
        .map(move |tap| (tap, start + tap - pad))
}
