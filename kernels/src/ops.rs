//! The menu: one function per op, each a `match` on the device. Lengths are asserted here, once,
//! for all devices. How a device computes is not known here.

mod digest;
mod images;
mod update;

use crate::device::{Device, View, ViewMut};
use crate::profile::Work;
use crate::shape::{ConvShape, LinearShape, MaxPoolShape, NormShape, PoolShape};

pub use digest::digest;
pub use images::{Crop, Mix, Window, augment, erase, mix};
pub use update::{Sgd, SgdSegment, lerp, sgd, sums_of_squares};

// --- convolution ---------------------------------------------------------------------------------

/// What becomes of the numbers that a result's memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// They are lost.
    Overwrite,
    /// The result is added to them.
    Add,
}

/// Repacks a weight `[kh, kw, C_in, C_out]` into the operands that the forward pass and the input
/// gradient read. Called once per step; `forward` and `input_grad` have `shape.packed_len()`
/// elements. The batch of `shape` does not matter.
pub fn conv_pack(
    device: &Device,
    shape: &ConvShape,
    weight: View<'_>,
    forward: ViewMut<'_>,
    input_grad: ViewMut<'_>,
) {
    assert_len("weight", weight.len(), shape.weight_len());
    assert_len("forward", forward.len(), shape.packed_len().forward);
    assert_len("input_grad", input_grad.len(), shape.packed_len().input_grad);
    let _timer = device.timer("conv_pack", Work::packing(shape));
    match (device, weight, forward, input_grad) {
        (Device::Cpu(cpu), View::Cpu(weight), ViewMut::Cpu(forward), ViewMut::Cpu(input_grad)) => {
            cpu.conv_pack(shape, weight, forward, input_grad)
        }
    }
}

/// `y[n,oh,ow,co] = sum over kh,kw,ci of x[..] * w[..]`. With `stats` (`[2, C_out]`: mean, then
/// biased variance over N, OH, OW), the per-channel statistics of `y` come out of the same pass.
pub fn conv_forward(
    device: &Device,
    shape: &ConvShape,
    x: View<'_>,
    packed: View<'_>,
    y: ViewMut<'_>,
    stats: Option<ViewMut<'_>>,
) {
    assert_len("x", x.len(), shape.input_len());
    assert_len("packed", packed.len(), shape.packed_len().forward);
    assert_len("y", y.len(), shape.output_len());
    if let Some(stats) = &stats {
        assert_len("stats", stats.len(), 2 * shape.out_channels);
    }
    let stats = stats.map(|ViewMut::Cpu(stats)| stats);
    let _timer = device.timer("conv_forward", Work::conv(shape));
    match (device, x, packed, y) {
        (Device::Cpu(cpu), View::Cpu(x), View::Cpu(packed), ViewMut::Cpu(y)) => {
            cpu.conv_forward(shape, x, packed, y, stats);
        }
    }
}

/// `dx = dy * w^T`; with `Accumulate::Add` it is added to what `dx` holds (the residual gradient).
/// `packed` is the second operand of `conv_pack`.
pub fn conv_input_grad(
    device: &Device,
    shape: &ConvShape,
    dy: View<'_>,
    packed: View<'_>,
    dx: ViewMut<'_>,
    accumulate: Accumulate,
) {
    assert_len("dy", dy.len(), shape.output_len());
    assert_len("packed", packed.len(), shape.packed_len().input_grad);
    assert_len("dx", dx.len(), shape.input_len());
    let _timer = device.timer("conv_input_grad", Work::conv(shape));
    match (device, dy, packed, dx) {
        (Device::Cpu(cpu), View::Cpu(dy), View::Cpu(packed), ViewMut::Cpu(dx)) => {
            cpu.conv_input_grad(shape, dy, packed, dx, accumulate);
        }
    }
}

/// `dw[kh,kw,ci,co] = sum over n,oh,ow of x * dy`, overwriting `dw`.
pub fn conv_weight_grad(
    device: &Device,
    shape: &ConvShape,
    x: View<'_>,
    dy: View<'_>,
    dw: ViewMut<'_>,
) {
    assert_len("x", x.len(), shape.input_len());
    assert_len("dy", dy.len(), shape.output_len());
    assert_len("dw", dw.len(), shape.weight_len());
    let _timer = device.timer("conv_weight_grad", Work::conv(shape));
    match (device, x, dy, dw) {
        (Device::Cpu(cpu), View::Cpu(x), View::Cpu(dy), ViewMut::Cpu(dw)) => {
            cpu.conv_weight_grad(shape, x, dy, dw);
        }
    }
}

// --- BatchNorm -----------------------------------------------------------------------------------

/// What is added to the normalised activation before the ReLU.
#[derive(Clone, Copy, Debug)]
pub enum Residual<'a> {
    /// Nothing.
    None,
    /// An activation `[rows, C]` as it is.
    Plain(View<'a>),
    /// An activation that still needs its own BatchNorm: `z * affine[0] + affine[1]`.
    Normalised {
        /// `[rows, C]`.
        z: View<'a>,
        /// `[2, C]`, as `norm_affine` writes it.
        affine: View<'a>,
    },
}

impl Residual<'_> {
    /// Activations that are read for it.
    fn operands(&self) -> usize {
        usize::from(!matches!(self, Residual::None))
    }
}

/// What follows the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `max(0, v)`; NaN stays NaN, so that a diverged run is seen.
    Relu,
}

/// `affine[0] = gamma / sqrt(var + eps)`, `affine[1] = beta - mean * affine[0]`; `stats`, `affine`:
/// `[2, C]`. Serves training (slice statistics) and evaluation (running statistics).
pub fn norm_affine(
    device: &Device,
    stats: View<'_>,
    gamma: View<'_>,
    beta: View<'_>,
    epsilon: f32,
    affine: ViewMut<'_>,
) {
    let channels = gamma.len();
    assert_len("stats", stats.len(), 2 * channels);
    assert_len("beta", beta.len(), channels);
    assert_len("affine", affine.len(), 2 * channels);
    match (device, stats, gamma, beta, affine) {
        (
            Device::Cpu(cpu),
            View::Cpu(stats),
            View::Cpu(gamma),
            View::Cpu(beta),
            ViewMut::Cpu(affine),
        ) => cpu.norm_affine(stats, gamma, beta, epsilon, affine),
    }
}

/// `y = act(z * affine[0] + affine[1] + residual)` in one pass over `[rows, C]`.
#[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
pub fn norm_apply(
    device: &Device,
    shape: &NormShape,
    z: View<'_>,
    affine: View<'_>,
    residual: Residual<'_>,
    activation: Activation,
    y: ViewMut<'_>,
) {
    assert_len("z", z.len(), shape.len());
    assert_len("affine", affine.len(), 2 * shape.channels);
    assert_len("y", y.len(), shape.len());
    match residual {
        Residual::None => {}
        Residual::Plain(z) => assert_len("residual", z.len(), shape.len()),
        Residual::Normalised { z, affine } => {
            assert_len("residual", z.len(), shape.len());
            assert_len("residual affine", affine.len(), 2 * shape.channels);
        }
    }
    let _timer =
        device.timer("norm_apply", Work::elements((2 + residual.operands()) * shape.len()));
    match (device, z, affine, y) {
        (Device::Cpu(cpu), View::Cpu(z), View::Cpu(affine), ViewMut::Cpu(y)) => {
            cpu.norm_apply(shape, z, affine, residual, activation, y);
        }
    }
}

/// First half of BatchNorm's backward. With `y` (the block's output after ReLU) `dy` is masked in
/// place where `y <= 0`; then `d_beta = sum dy`, `d_gamma = sum dy * (z - mean) / sqrt(var + eps)`.
#[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
pub fn norm_backward_reduce(
    device: &Device,
    shape: &NormShape,
    dy: ViewMut<'_>,
    y: Option<View<'_>>,
    z: View<'_>,
    stats: View<'_>,
    epsilon: f32,
    d_gamma: ViewMut<'_>,
    d_beta: ViewMut<'_>,
) {
    assert_len("dy", dy.len(), shape.len());
    if let Some(y) = &y {
        assert_len("y", y.len(), shape.len());
    }
    assert_len("z", z.len(), shape.len());
    assert_len("stats", stats.len(), 2 * shape.channels);
    assert_len("d_gamma", d_gamma.len(), shape.channels);
    assert_len("d_beta", d_beta.len(), shape.channels);
    let y = y.map(|View::Cpu(y)| y);
    let _timer = device.timer(
        "norm_backward_reduce",
        Work::elements(if y.is_some() { 4 } else { 2 } * shape.len()),
    );
    match (device, dy, z, stats, d_gamma, d_beta) {
        (
            Device::Cpu(cpu),
            ViewMut::Cpu(dy),
            View::Cpu(z),
            View::Cpu(stats),
            ViewMut::Cpu(d_gamma),
            ViewMut::Cpu(d_beta),
        ) => cpu.norm_backward_reduce(shape, dy, y, z, stats, epsilon, d_gamma, d_beta),
    }
}

/// Second half: `dz = gamma/sqrt(var+eps) * (dy - d_beta/rows - z_hat * d_gamma/rows)`.
#[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
pub fn norm_backward_apply(
    device: &Device,
    shape: &NormShape,
    dy: View<'_>,
    z: View<'_>,
    stats: View<'_>,
    gamma: View<'_>,
    d_gamma: View<'_>,
    d_beta: View<'_>,
    epsilon: f32,
    dz: ViewMut<'_>,
) {
    assert_len("dy", dy.len(), shape.len());
    assert_len("z", z.len(), shape.len());
    assert_len("stats", stats.len(), 2 * shape.channels);
    assert_len("gamma", gamma.len(), shape.channels);
    assert_len("d_gamma", d_gamma.len(), shape.channels);
    assert_len("d_beta", d_beta.len(), shape.channels);
    assert_len("dz", dz.len(), shape.len());
    let _timer = device.timer("norm_backward_apply", Work::elements(3 * shape.len()));
    match (device, dy, z, stats, gamma, d_gamma, d_beta, dz) {
        (
            Device::Cpu(cpu),
            View::Cpu(dy),
            View::Cpu(z),
            View::Cpu(stats),
            View::Cpu(gamma),
            View::Cpu(d_gamma),
            View::Cpu(d_beta),
            ViewMut::Cpu(dz),
        ) => cpu.norm_backward_apply(shape, dy, z, stats, gamma, d_gamma, d_beta, epsilon, dz),
    }
}

/// `running = (1 - momentum) * running + momentum * batch`, where batch mean = sum/slices and
/// batch variance = sum/slices * rows/(rows-1); `running`, `slice_sums`: `[2, C]`. A slice of one
/// row has no variance to correct: its factor is 1.
pub fn norm_update_running(
    device: &Device,
    running: ViewMut<'_>,
    slice_sums: View<'_>,
    slices: usize,
    rows: usize,
    momentum: f32,
) {
    assert_len("slice_sums", slice_sums.len(), running.len());
    assert!(running.len().is_multiple_of(2), "running statistics are [2, C]");
    assert!(slices > 0 && rows > 0, "statistics of nothing");
    match (device, running, slice_sums) {
        (Device::Cpu(cpu), ViewMut::Cpu(running), View::Cpu(slice_sums)) => {
            cpu.norm_update_running(running, slice_sums, slices, rows, momentum);
        }
    }
}

// --- pooling, linear, loss -----------------------------------------------------------------------

/// `y[n,oh,ow,c]` = the largest of its window.
pub fn max_pool_forward(device: &Device, shape: &MaxPoolShape, x: View<'_>, y: ViewMut<'_>) {
    assert_len("x", x.len(), shape.input_len());
    assert_len("y", y.len(), shape.output_len());
    let _timer = device.timer("max_pool_forward", Work::elements(x.len() + y.len()));
    match (device, x, y) {
        (Device::Cpu(cpu), View::Cpu(x), ViewMut::Cpu(y)) => cpu.max_pool_forward(shape, x, y),
    }
}

/// The gradient goes to the first maximum of each window, in row order (as PyTorch does).
pub fn max_pool_backward(
    device: &Device,
    shape: &MaxPoolShape,
    x: View<'_>,
    y: View<'_>,
    dy: View<'_>,
    dx: ViewMut<'_>,
) {
    assert_len("x", x.len(), shape.input_len());
    assert_len("y", y.len(), shape.output_len());
    assert_len("dy", dy.len(), shape.output_len());
    assert_len("dx", dx.len(), shape.input_len());
    let _timer = device.timer("max_pool_backward", Work::elements(2 * (x.len() + y.len())));
    match (device, x, y, dy, dx) {
        (Device::Cpu(cpu), View::Cpu(x), View::Cpu(y), View::Cpu(dy), ViewMut::Cpu(dx)) => {
            cpu.max_pool_backward(shape, x, y, dy, dx);
        }
    }
}

/// `y[n,c] = sum over pixels of x[n,pixel,c] / pixels`.
pub fn average_pool_forward(device: &Device, shape: &PoolShape, x: View<'_>, y: ViewMut<'_>) {
    assert_len("x", x.len(), shape.input_len());
    assert_len("y", y.len(), shape.output_len());
    let _timer = device.timer("average_pool_forward", Work::elements(x.len()));
    match (device, x, y) {
        (Device::Cpu(cpu), View::Cpu(x), ViewMut::Cpu(y)) => {
            cpu.average_pool_forward(shape, x, y);
        }
    }
}

/// `dx[n,pixel,c] = dy[n,c] / pixels`.
pub fn average_pool_backward(device: &Device, shape: &PoolShape, dy: View<'_>, dx: ViewMut<'_>) {
    assert_len("dy", dy.len(), shape.output_len());
    assert_len("dx", dx.len(), shape.input_len());
    let _timer = device.timer("average_pool_backward", Work::elements(dx.len()));
    match (device, dy, dx) {
        (Device::Cpu(cpu), View::Cpu(dy), ViewMut::Cpu(dx)) => {
            cpu.average_pool_backward(shape, dy, dx);
        }
    }
}

/// `y[n,o] = sum over i of x[n,i] * weight[i,o] + bias[o]`.
pub fn linear_forward(
    device: &Device,
    shape: &LinearShape,
    x: View<'_>,
    weight: View<'_>,
    bias: View<'_>,
    y: ViewMut<'_>,
) {
    assert_len("x", x.len(), shape.input_len());
    assert_len("weight", weight.len(), shape.weight_len());
    assert_len("bias", bias.len(), shape.outputs);
    assert_len("y", y.len(), shape.output_len());
    let _timer = device.timer("linear_forward", Work::elements(weight.len()));
    match (device, x, weight, bias, y) {
        (Device::Cpu(cpu), View::Cpu(x), View::Cpu(weight), View::Cpu(bias), ViewMut::Cpu(y)) => {
            cpu.linear_forward(shape, x, weight, bias, y)
        }
    }
}

/// `dx = dy * weight^T`, `d_weight = x^T * dy`, `d_bias = sum over n of dy`; all overwritten.
#[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
pub fn linear_backward(
    device: &Device,
    shape: &LinearShape,
    x: View<'_>,
    weight: View<'_>,
    dy: View<'_>,
    dx: ViewMut<'_>,
    d_weight: ViewMut<'_>,
    d_bias: ViewMut<'_>,
) {
    assert_len("x", x.len(), shape.input_len());
    assert_len("weight", weight.len(), shape.weight_len());
    assert_len("dy", dy.len(), shape.output_len());
    assert_len("dx", dx.len(), shape.input_len());
    assert_len("d_weight", d_weight.len(), shape.weight_len());
    assert_len("d_bias", d_bias.len(), shape.outputs);
    let _timer = device.timer("linear_backward", Work::elements(2 * weight.len()));
    match (device, x, weight, dy, dx, d_weight, d_bias) {
        (
            Device::Cpu(cpu),
            View::Cpu(x),
            View::Cpu(weight),
            View::Cpu(dy),
            ViewMut::Cpu(dx),
            ViewMut::Cpu(d_weight),
            ViewMut::Cpu(d_bias),
        ) => cpu.linear_backward(shape, x, weight, dy, dx, d_weight, d_bias),
    }
}

/// The classes of a batch's samples.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// One class a sample, or [`IGNORED_LABEL`].
    pub own: &'a [u32],
    /// The class of the sample that this one was mixed with; its own where it was not mixed.
    pub other: &'a [u32],
    /// Weight of the own class, 0 to 1; the other's is what is left.
    pub lambda: f32,
}

impl Labels<'_> {
    /// Of samples that were not mixed.
    pub fn of(labels: &[u32]) -> Labels<'_> {
        Labels { own: labels, other: labels, lambda: 1.0 }
    }
}

/// Softmax cross-entropy with label smoothing over logits `[N, classes]`, `N = labels.own.len()`.
/// The target is `(1 - label_smoothing) * lambda` at the own class, `(1 - label_smoothing) * (1 -
/// lambda)` at the other one, plus `label_smoothing / classes` everywhere.
/// `d_logits = grad_scale * (softmax - target)`; `sums` (2 elements) = (sum of the samples' losses,
/// number of samples whose largest logit is the class of the larger weight, the own one of equal
/// ones). A sample with the label [`IGNORED_LABEL`] has weight 0: no gradient, no loss, not counted.
#[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
pub fn softmax_cross_entropy(
    device: &Device,
    logits: View<'_>,
    labels: Labels<'_>,
    classes: usize,
    label_smoothing: f32,
    grad_scale: f32,
    d_logits: ViewMut<'_>,
    sums: ViewMut<'_>,
) {
    assert_len("logits", logits.len(), labels.own.len() * classes);
    assert_len("other", labels.other.len(), labels.own.len());
    assert_len("d_logits", d_logits.len(), logits.len());
    assert_len("sums", sums.len(), 2);
    for (&own, &other) in labels.own.iter().zip(labels.other) {
        let known = own.max(other) < classes as u32 || own == IGNORED_LABEL;
        assert!(known, "labels {own} and {other} of {classes} classes");
    }
    let _timer = device.timer("softmax_cross_entropy", Work::elements(2 * logits.len()));
    match (device, logits, d_logits, sums) {
        (Device::Cpu(cpu), View::Cpu(logits), ViewMut::Cpu(d_logits), ViewMut::Cpu(sums)) => {
            let rule = LossRule { classes, label_smoothing, grad_scale };
            cpu.softmax_cross_entropy(&rule, logits, labels, d_logits, sums);
        }
    }
}

/// The label of a sample that counts for nothing, such as an image that could not be decoded.
pub const IGNORED_LABEL: u32 = u32::MAX;

/// What `softmax_cross_entropy` is told besides its operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossRule {
    pub(crate) classes: usize,
    pub(crate) label_smoothing: f32,
    pub(crate) grad_scale: f32,
}

// --- sums over slices ----------------------------------------------------------------------------

/// Index of the first element that is NaN or infinite.
pub fn first_non_finite(device: &Device, values: View<'_>) -> Option<usize> {
    let _timer = device.timer("first_non_finite", Work::elements(values.len()));
    match (device, values) {
        (Device::Cpu(cpu), View::Cpu(values)) => cpu.first_non_finite(values),
    }
}

/// `into += from`, element by element.
pub fn add(device: &Device, into: ViewMut<'_>, from: View<'_>) {
    assert_len("from", from.len(), into.len());
    let _timer = device.timer("add", Work::elements(3 * into.len()));
    match (device, into, from) {
        (Device::Cpu(cpu), ViewMut::Cpu(into), View::Cpu(from)) => cpu.add(into, from),
    }
}

/// Every element becomes `value`.
pub fn fill(device: &Device, into: ViewMut<'_>, value: f32) {
    match (device, into) {
        (Device::Cpu(cpu), ViewMut::Cpu(into)) => cpu.fill(into, value),
    }
}

/// A wrong length is a bug of the caller's plan: it is named at its first use.
#[track_caller]
fn assert_len(operand: &str, is: usize, must_be: usize) {
    assert_eq!(is, must_be, "`{operand}` has {is} elements where the shape wants {must_be}");
}
