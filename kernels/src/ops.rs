//! The menu: one function per op, each a `match` on the device. Lengths are asserted here, once,
//! for all devices. How a device computes is not known here.

mod digest;
mod images;
mod update;

use crate::device::{Device, DeviceError, View, ViewMut};
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
/// gradient read. Called once per step; `forward` and `input_grad` have `shape.packed_len(device.family())`
/// elements. The batch of `shape` does not matter.
pub fn conv_pack(
    device: &Device,
    shape: &ConvShape,
    weight: View<'_>,
    forward: ViewMut<'_>,
    input_grad: ViewMut<'_>,
) {
    assert_len("weight", weight.len(), shape.weight_len());
    assert_len("forward", forward.len(), shape.packed_len(device.family()).forward);
    assert_len("input_grad", input_grad.len(), shape.packed_len(device.family()).input_grad);
    let _timer = device.timer("conv_pack", Work::packing(shape, device.family()));
    match device {
        Device::Cpu(cpu) => cpu.conv_pack(shape, weight.cpu(), forward.cpu(), input_grad.cpu()),
        Device::Cuda(cuda) => {
            cuda.conv_pack(shape, weight.cuda(), forward.cuda(), input_grad.cuda())
        }
    }
}

/// `y[n,oh,ow,co] = sum over kh,kw,ci of x[..] * w[..]`. With `stats` (`[slices, 2, C_out]`: mean, then
/// biased variance over a slice's N, OH, OW), the per-channel statistics of `y` come out of the same pass.
pub fn conv_forward(
    device: &Device,
    shape: &ConvShape,
    x: View<'_>,
    packed: View<'_>,
    y: ViewMut<'_>,
    stats: Option<ViewMut<'_>>,
) {
    assert_len("x", x.len(), shape.input_len());
    assert_len("packed", packed.len(), shape.packed_len(device.family()).forward);
    assert_len("y", y.len(), shape.output_len());
    if let Some(stats) = &stats {
        assert_len("stats", stats.len(), shape.slices * 2 * shape.out_channels);
    }
    assert_slices(device, shape.slices, shape.batch);
    let _timer = device.timer("conv_forward", Work::conv(shape));
    match device {
        Device::Cpu(cpu) => {
            cpu.conv_forward(shape, x.cpu(), packed.cpu(), y.cpu(), stats.map(ViewMut::cpu))
        }
        Device::Cuda(cuda) => {
            cuda.conv_forward(shape, x.cuda(), packed.cuda(), y.cuda(), stats.map(ViewMut::cuda))
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
    assert_len("packed", packed.len(), shape.packed_len(device.family()).input_grad);
    assert_len("dx", dx.len(), shape.input_len());
    let _timer = device.timer("conv_input_grad", Work::conv(shape));
    match device {
        Device::Cpu(cpu) => {
            cpu.conv_input_grad(shape, dy.cpu(), packed.cpu(), dx.cpu(), accumulate)
        }
        Device::Cuda(cuda) => {
            cuda.conv_input_grad(shape, dy.cuda(), packed.cuda(), dx.cuda(), accumulate)
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
    assert_slices(device, shape.slices, shape.batch);
    let _timer = device.timer("conv_weight_grad", Work::conv(shape));
    match device {
        Device::Cpu(cpu) => cpu.conv_weight_grad(shape, x.cpu(), dy.cpu(), dw.cpu()),
        Device::Cuda(cuda) => cuda.conv_weight_grad(shape, x.cuda(), dy.cuda(), dw.cuda()),
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
        /// `[slices, 2, C]`, as `norm_affine` writes it.
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
/// `[slices, 2, C]`. Serves training (slice statistics) and evaluation (running statistics).
pub fn norm_affine(
    device: &Device,
    stats: View<'_>,
    gamma: View<'_>,
    beta: View<'_>,
    epsilon: f32,
    affine: ViewMut<'_>,
) {
    let channels = gamma.len();
    assert!(stats.len().is_multiple_of(2 * channels), "statistics are [slices, 2, C]");
    assert_len("beta", beta.len(), channels);
    assert_len("affine", affine.len(), stats.len());
    assert_slices(device, stats.len() / (2 * channels), 0);
    match device {
        Device::Cpu(cpu) => {
            cpu.norm_affine(stats.cpu(), gamma.cpu(), beta.cpu(), epsilon, affine.cpu())
        }
        Device::Cuda(cuda) => {
            cuda.norm_affine(stats.cuda(), gamma.cuda(), beta.cuda(), epsilon, affine.cuda())
        }
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
    assert_len("affine", affine.len(), shape.pairs_len());
    assert_len("y", y.len(), shape.len());
    assert_slices(device, shape.slices, shape.rows);
    match residual {
        Residual::None => {}
        Residual::Plain(z) => assert_len("residual", z.len(), shape.len()),
        Residual::Normalised { z, affine } => {
            assert_len("residual", z.len(), shape.len());
            assert_len("residual affine", affine.len(), shape.pairs_len());
        }
    }
    let _timer =
        device.timer("norm_apply", Work::elements((2 + residual.operands()) * shape.len()));
    match device {
        Device::Cpu(cpu) => {
            cpu.norm_apply(shape, z.cpu(), affine.cpu(), residual, activation, y.cpu())
        }
        Device::Cuda(cuda) => {
            cuda.norm_apply(shape, z.cuda(), affine.cuda(), residual, activation, y.cuda())
        }
    }
}

/// First half of BatchNorm's backward. With `y` (the block's output after ReLU) `dy` is masked in
/// place where `y <= 0`; then, for each slice, `sums[0] = sum dy * (z - mean) / sqrt(var + eps)`, which is the
/// gradient of gamma, and `sums[1] = sum dy`, that of beta; `stats`, `sums`: `[slices, 2, C]`.
#[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
pub fn norm_backward_reduce(
    device: &Device,
    shape: &NormShape,
    dy: ViewMut<'_>,
    y: Option<View<'_>>,
    z: View<'_>,
    stats: View<'_>,
    epsilon: f32,
    sums: ViewMut<'_>,
) {
    assert_len("dy", dy.len(), shape.len());
    if let Some(y) = &y {
        assert_len("y", y.len(), shape.len());
    }
    assert_len("z", z.len(), shape.len());
    assert_len("stats", stats.len(), shape.pairs_len());
    assert_len("sums", sums.len(), shape.pairs_len());
    assert_slices(device, shape.slices, shape.rows);
    let _timer = device.timer(
        "norm_backward_reduce",
        Work::elements(if y.is_some() { 4 } else { 2 } * shape.len()),
    );
    match device {
        Device::Cpu(cpu) => {
            let (d_gamma, d_beta) = sums.cpu().split_at_mut(shape.channels);
            let (dy, y, z) = (dy.cpu(), y.map(View::cpu), z.cpu());
            cpu.norm_backward_reduce(shape, dy, y, z, stats.cpu(), epsilon, d_gamma, d_beta);
        }
        Device::Cuda(cuda) => {
            let (dy, y, z) = (dy.cuda(), y.map(View::cuda), z.cuda());
            cuda.norm_backward_reduce(shape, dy, y, z, stats.cuda(), epsilon, sums.cuda());
        }
    }
}

/// Second half: `dz = gamma/sqrt(var+eps) * (dy - sums[1]/rows - z_hat * sums[0]/rows)`, `rows` those of a slice.
#[expect(clippy::too_many_arguments, reason = "an op names each of its operands")]
pub fn norm_backward_apply(
    device: &Device,
    shape: &NormShape,
    dy: View<'_>,
    z: View<'_>,
    stats: View<'_>,
    gamma: View<'_>,
    sums: View<'_>,
    epsilon: f32,
    dz: ViewMut<'_>,
) {
    assert_len("dy", dy.len(), shape.len());
    assert_len("z", z.len(), shape.len());
    assert_len("stats", stats.len(), shape.pairs_len());
    assert_len("gamma", gamma.len(), shape.channels);
    assert_len("sums", sums.len(), shape.pairs_len());
    assert_slices(device, shape.slices, shape.rows);
    assert_len("dz", dz.len(), shape.len());
    let _timer = device.timer("norm_backward_apply", Work::elements(3 * shape.len()));
    match device {
        Device::Cpu(cpu) => {
            let (d_gamma, d_beta) = sums.cpu().split_at(shape.channels);
            let (dy, z, stats, gamma) = (dy.cpu(), z.cpu(), stats.cpu(), gamma.cpu());
            let dz = dz.cpu();
            cpu.norm_backward_apply(shape, dy, z, stats, gamma, d_gamma, d_beta, epsilon, dz);
        }
        Device::Cuda(cuda) => {
            let (dy, z, stats, gamma) = (dy.cuda(), z.cuda(), stats.cuda(), gamma.cuda());
            let (sums, dz) = (sums.cuda(), dz.cuda());
            cuda.norm_backward_apply(shape, dy, z, stats, gamma, sums, epsilon, dz);
        }
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
    match device {
        Device::Cpu(cpu) => {
            cpu.norm_update_running(running.cpu(), slice_sums.cpu(), slices, rows, momentum)
        }
        Device::Cuda(cuda) => {
            cuda.norm_update_running(running.cuda(), slice_sums.cuda(), slices, rows, momentum)
        }
    }
}

// --- pooling, linear, loss -----------------------------------------------------------------------

/// `y[n,oh,ow,c]` = the largest of its window.
pub fn max_pool_forward(device: &Device, shape: &MaxPoolShape, x: View<'_>, y: ViewMut<'_>) {
    assert_len("x", x.len(), shape.input_len());
    assert_len("y", y.len(), shape.output_len());
    let _timer = device.timer("max_pool_forward", Work::elements(x.len() + y.len()));
    match device {
        Device::Cpu(cpu) => cpu.max_pool_forward(shape, x.cpu(), y.cpu()),
        Device::Cuda(cuda) => cuda.max_pool_forward(shape, x.cuda(), y.cuda()),
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
    match device {
        Device::Cpu(cpu) => cpu.max_pool_backward(shape, x.cpu(), y.cpu(), dy.cpu(), dx.cpu()),
        Device::Cuda(cuda) => {
            cuda.max_pool_backward(shape, x.cuda(), y.cuda(), dy.cuda(), dx.cuda())
        }
    }
}

/// `y[n,c] = sum over pixels of x[n,pixel,c] / pixels`.
pub fn average_pool_forward(device: &Device, shape: &PoolShape, x: View<'_>, y: ViewMut<'_>) {
    assert_len("x", x.len(), shape.input_len());
    assert_len("y", y.len(), shape.output_len());
    let _timer = device.timer("average_pool_forward", Work::elements(x.len()));
    match device {
        Device::Cpu(cpu) => cpu.average_pool_forward(shape, x.cpu(), y.cpu()),
        Device::Cuda(cuda) => cuda.average_pool_forward(shape, x.cuda(), y.cuda()),
    }
}

/// `dx[n,pixel,c] = dy[n,c] / pixels`.
pub fn average_pool_backward(device: &Device, shape: &PoolShape, dy: View<'_>, dx: ViewMut<'_>) {
    assert_len("dy", dy.len(), shape.output_len());
    assert_len("dx", dx.len(), shape.input_len());
    let _timer = device.timer("average_pool_backward", Work::elements(dx.len()));
    match device {
        Device::Cpu(cpu) => cpu.average_pool_backward(shape, dy.cpu(), dx.cpu()),
        Device::Cuda(cuda) => cuda.average_pool_backward(shape, dy.cuda(), dx.cuda()),
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
    match device {
        Device::Cpu(cpu) => cpu.linear_forward(shape, x.cpu(), weight.cpu(), bias.cpu(), y.cpu()),
        Device::Cuda(cuda) => {
            cuda.linear_forward(shape, x.cuda(), weight.cuda(), bias.cuda(), y.cuda())
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
    assert_slices(device, shape.slices, shape.batch);
    let _timer = device.timer("linear_backward", Work::elements(2 * weight.len()));
    match device {
        Device::Cpu(cpu) => cpu.linear_backward(
            shape,
            x.cpu(),
            weight.cpu(),
            dy.cpu(),
            dx.cpu(),
            d_weight.cpu(),
            d_bias.cpu(),
        ),
        Device::Cuda(cuda) => cuda.linear_backward(
            shape,
            x.cuda(),
            weight.cuda(),
            dy.cuda(),
            dx.cuda(),
            d_weight.cuda(),
            d_bias.cuda(),
        ),
    }
}

/// The classes of the samples of all slices that are computed at once.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// One class a sample, or [`IGNORED_LABEL`].
    pub own: &'a [u32],
    /// The class of the sample that this one was mixed with; its own where it was not mixed.
    pub other: &'a [u32],
    /// Weight of the own class, 0 to 1, in each slice; the other's is what is left.
    pub lambda: &'a [f32],
}

impl Labels<'_> {
    /// Of one slice's samples that were not mixed.
    pub fn of(labels: &[u32]) -> Labels<'_> {
        Labels { own: labels, other: labels, lambda: &[1.0] }
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
    assert_slices(device, labels.lambda.len(), labels.own.len());
    assert_len("d_logits", d_logits.len(), logits.len());
    assert_len("sums", sums.len(), 2);
    for (&own, &other) in labels.own.iter().zip(labels.other) {
        let known = own.max(other) < classes as u32 || own == IGNORED_LABEL;
        assert!(known, "labels {own} and {other} of {classes} classes");
    }
    let _timer = device.timer("softmax_cross_entropy", Work::elements(2 * logits.len()));
    let rule = LossRule { classes, label_smoothing, grad_scale };
    match device {
        Device::Cpu(cpu) => {
            cpu.softmax_cross_entropy(&rule, logits.cpu(), labels, d_logits.cpu(), sums.cpu())
        }
        Device::Cuda(cuda) => {
            cuda.softmax_cross_entropy(&rule, logits.cuda(), labels, d_logits.cuda(), sums.cuda())
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
///
/// # Errors
/// As those of `Buffer::read`.
pub fn first_non_finite(device: &Device, values: View<'_>) -> Result<Option<usize>, DeviceError> {
    let _timer = device.timer("first_non_finite", Work::elements(values.len()));
    match device {
        Device::Cpu(cpu) => Ok(cpu.first_non_finite(values.cpu())),
        Device::Cuda(cuda) => Ok(cuda.first_non_finite(values.cuda())?),
    }
}

/// `into += from`, element by element.
pub fn add(device: &Device, into: ViewMut<'_>, from: View<'_>) {
    assert_len("from", from.len(), into.len());
    let _timer = device.timer("add", Work::elements(3 * into.len()));
    match device {
        Device::Cpu(cpu) => cpu.add(into.cpu(), from.cpu()),
        Device::Cuda(cuda) => cuda.add(into.cuda(), from.cuda()),
    }
}

/// `into` becomes the sum of the slices of `from`, `[slices, into.len()]`, added over the binary tree of slices: 0 to 1, 2 to 3,
/// then these two sums, and so on.
pub fn sum_slices(device: &Device, from: View<'_>, into: ViewMut<'_>) {
    assert!(from.len().is_multiple_of(into.len().max(1)), "`from` is [slices, {}]", into.len());
    if into.is_empty() {
        return;
    }
    let slices = from.len() / into.len();
    assert_slices(device, slices, 0);
    let _timer = device.timer("sum_slices", Work::elements(from.len() + into.len()));
    match device {
        Device::Cpu(_) => into.cpu().copy_from_slice(from.cpu()),
        Device::Cuda(cuda) => cuda.sum_slices(slices, from.cuda(), into.cuda()),
    }
}

/// Every element becomes `value`.
pub fn fill(device: &Device, into: ViewMut<'_>, value: f32) {
    match device {
        Device::Cpu(cpu) => cpu.fill(into.cpu(), value),
        Device::Cuda(cuda) => cuda.fill(into.cuda(), value),
    }
}

/// Slices that no device computes at once, or that are of different sizes: a bug of the caller's plan.
#[track_caller]
fn assert_slices(device: &Device, slices: usize, rows: usize) {
    let fits = match device {
        Device::Cpu(_) => slices == 1,
        Device::Cuda(_) => slices.is_power_of_two() && slices <= SLICES_MAX,
    };
    assert!(fits, "{slices} slices at once on {}", device.kind());
    assert!(rows.is_multiple_of(slices), "{rows} rows are cut into {slices} equal slices");
}

/// The most slices that an op computes at once.
pub const SLICES_MAX: usize = 32;

/// A wrong length is a bug of the caller's plan: it is named at its first use.
#[track_caller]
fn assert_len(operand: &str, is: usize, must_be: usize) {
    assert_eq!(is, must_be, "`{operand}` has {is} elements where the shape wants {must_be}");
}
