//! One convolution with its BatchNorm: spans of its parameters and buffers, and the calls of its passes.
//!
//! A bias `b` between the two is never added to an activation. The slice's mean of `z + b` is `mean(z) + b`, so BatchNorm
//! with slice statistics gives the same output with and without it, and with it every other gradient; its own gradient is
//! the sum of the gradient of `z` over the rows, which BatchNorm's backward makes 0. Two things remain: the running mean
//! follows `mean(z) + b`, and evaluation's `scale * (z + b) + shift` is `scale * z + (shift + scale * b)`.

use kernels::ops::{self, Accumulate, Activation, Residual};
use kernels::{Buffer, ConvShape, Device, NormShape, Span};

use super::plan::Planner;
use super::resnet::Buffers;
use crate::layout::{Layout, Role};

/// PyTorch's default epsilon of BatchNorm.
pub const EPSILON: f32 = 1e-5;
/// PyTorch's default momentum of the running statistics.
pub(super) const RUNNING_MOMENTUM: f32 = 0.1;

#[derive(Debug)]
pub(super) struct Unit {
    pub(super) conv: ConvShape,
    norm: NormShape,
    /// In the parameter buffer.
    pub(super) gamma: Span,
    beta: Span,
    pub(super) weight: Span,
    bias: Option<Bias>,
    /// In the buffer of running statistics, `[2, C_out]`.
    running: Span,
    /// In the gradient vector, `[2, C_out]`.
    statistics: Span,
    /// In the buffer of packed weights.
    packed_forward: Span,
    packed_input_grad: Span,
    /// In the arena: convolution output `[N, H, W, C_out]`; scale and shift `[2, C_out]`; output after activation,
    /// `[N, H, W, C_out]`.
    z: Span,
    affine: Span,
    pub(super) y: Span,
}

#[derive(Debug)]
struct Bias {
    /// In the parameter buffer, `[C_out]`.
    span: Span,
    /// In the arena: scale and shift before the bias is taken in, `[2, C_out]`.
    affine: Span,
}

/// Where a unit's BatchNorm takes mean and variance from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statistics {
    /// Of the slice itself, left in the gradient vector for backward and for the running statistics.
    Slice,
    /// The running ones.
    Running,
}

/// Planning buffers while layers are laid out in the order of backward.
#[derive(Debug, Default)]
pub(super) struct Planners {
    pub(super) packed: Planner,
    pub(super) arena: Planner,
}

impl Unit {
    /// Lays out a unit whose convolution and BatchNorm have these torchvision names.
    pub(super) fn plan(
        conv_name: &str,
        norm_name: &str,
        conv: ConvShape,
        layout: &mut Layout,
        planners: &mut Planners,
    ) -> Unit {
        let channels = conv.out_channels;
        let rows = conv.batch * conv.out_height() * conv.out_width();
        let gamma = layout.parameter(format!("{norm_name}.weight"), Role::NormScale, channels);
        let beta = layout.parameter(format!("{norm_name}.bias"), Role::NormShift, channels);
        let role =
            Role::ConvWeight { kernel: conv.kernel, inputs: conv.in_channels, outputs: channels };
        let weight = layout.parameter(format!("{conv_name}.weight"), role, conv.weight_len());
        let packed = conv.packed_len();
        Unit {
            conv,
            norm: NormShape { rows, channels },
            gamma,
            beta,
            weight,
            bias: None,
            running: layout.running(norm_name, channels),
            // Known once the layout is complete: see `place_statistics`.
            statistics: Span { start: 0, len: 0 },
            packed_forward: planners.packed.span(packed.forward),
            packed_input_grad: planners.packed.span(packed.input_grad),
            z: planners.arena.span(conv.output_len()),
            affine: planners.arena.span(2 * channels),
            y: planners.arena.span(conv.output_len()),
        }
    }

    /// The same unit, with a bias that follows its weight.
    pub(super) fn with_bias(
        self,
        conv_name: &str,
        layout: &mut Layout,
        planners: &mut Planners,
    ) -> Unit {
        let ConvShape { kernel, in_channels, out_channels, .. } = self.conv;
        let role = Role::ConvBias { inputs: kernel * kernel * in_channels };
        let span = layout.parameter(format!("{conv_name}.bias"), role, out_channels);
        let affine = planners.arena.span(2 * out_channels);
        Unit { bias: Some(Bias { span, affine }), ..self }
    }

    /// Moves the buffers: activations to where others have theirs too, the rest to places of their own.
    pub(super) fn share_buffers(
        &mut self,
        z: Span,
        y: Span,
        packed_input_grad: Span,
        planners: &mut Planners,
    ) {
        let len = self.y.len;
        (self.z, self.y) = (Span { len, ..z }, Span { len, ..y });
        self.affine = planners.arena.span(self.affine.len);
        if let Some(bias) = &mut self.bias {
            bias.affine = planners.arena.span(bias.affine.len);
        }
        self.packed_forward = planners.packed.span(self.packed_forward.len);
        self.packed_input_grad = Span { len: self.packed_input_grad.len, ..packed_input_grad };
    }

    pub(super) fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    /// Slice statistics lie behind all gradients, so their place is known last.
    pub(super) fn place_statistics(&mut self, layout: &Layout) {
        self.statistics = layout.slice_statistics(self.running);
    }

    /// Repacks the weight for this step's passes.
    pub(super) fn pack(&self, device: &Device, buffers: &mut Buffers) {
        let [forward, input_grad] =
            buffers.packed.views_mut([self.packed_forward, self.packed_input_grad]);
        ops::conv_pack(device, &self.conv, buffers.params.view(self.weight), forward, input_grad);
    }

    /// `z = conv(x)` and the scale and shift that normalise it. `slice` is the slice's gradient vector.
    pub(super) fn convolve(
        &self,
        device: &Device,
        buffers: &mut Buffers,
        x: Span,
        statistics: Statistics,
        slice: &mut Buffer,
    ) {
        let Buffers { params, running, packed, arena, .. } = buffers;
        let [x, z, affine] = arena.views_mut([x, self.z, self.affine]);
        let weight = packed.view(self.packed_forward);
        let source = match statistics {
            Statistics::Slice => {
                let into = slice.view_mut(self.statistics);
                ops::conv_forward(device, &self.conv, x.as_view(), weight, z, Some(into));
                slice.view(self.statistics)
            }
            Statistics::Running => {
                ops::conv_forward(device, &self.conv, x.as_view(), weight, z, None);
                running.view(self.running)
            }
        };
        let (gamma, beta) = (params.view(self.gamma), params.view(self.beta));
        ops::norm_affine(device, source, gamma, beta, EPSILON, affine);
        if let (Statistics::Running, Some(bias)) = (statistics, &self.bias) {
            self.shift_by_bias(device, buffers, bias);
        }
    }

    /// `shift + scale * b`: the bias is normalised as an image of one pixel would be.
    fn shift_by_bias(&self, device: &Device, buffers: &mut Buffers, bias: &Bias) {
        let Buffers { params, running, arena, .. } = buffers;
        let channels = self.conv.out_channels;
        let shift = Span::new(self.affine.start + channels, channels);
        let [mut affine, shift] = arena.views_mut([bias.affine, shift]);
        let (gamma, beta) = (params.view(self.gamma), params.view(self.beta));
        let source = running.view(self.running);
        ops::norm_affine(device, source, gamma, beta, EPSILON, affine.reborrow());
        let pixel = NormShape { rows: 1, channels };
        let (b, affine) = (params.view(bias.span), affine.as_view());
        ops::norm_apply(device, &pixel, b, affine, Residual::None, Activation::None, shift);
    }

    /// `y = relu(norm(z))`.
    pub(super) fn activate(&self, device: &Device, arena: &mut Buffer) {
        let [z, affine, y] = arena.views_mut([self.z, self.affine, self.y]);
        let (z, affine) = (z.as_view(), affine.as_view());
        ops::norm_apply(device, &self.norm, z, affine, Residual::None, Activation::Relu, y);
    }

    /// `y = relu(norm(z) + x)`.
    pub(super) fn activate_with_identity(&self, device: &Device, arena: &mut Buffer, x: Span) {
        let [z, affine, x, y] = arena.views_mut([self.z, self.affine, x, self.y]);
        let residual = Residual::Plain(x.as_view());
        ops::norm_apply(
            device,
            &self.norm,
            z.as_view(),
            affine.as_view(),
            residual,
            Activation::Relu,
            y,
        );
    }

    /// `y = relu(norm(z) + norm(shortcut.z))`.
    pub(super) fn activate_with_projection(
        &self,
        device: &Device,
        arena: &mut Buffer,
        shortcut: &Unit,
    ) {
        let spans = [self.z, self.affine, shortcut.z, shortcut.affine, self.y];
        let [z, affine, other_z, other_affine, y] = arena.views_mut(spans);
        let residual =
            Residual::Normalised { z: other_z.as_view(), affine: other_affine.as_view() };
        ops::norm_apply(
            device,
            &self.norm,
            z.as_view(),
            affine.as_view(),
            residual,
            Activation::Relu,
            y,
        );
    }

    /// From the gradient of the output to that of `z`, and to gamma's and beta's. `dy` (arena) is masked in place where the
    /// unit's ReLU, if `mask` says so, put out 0; `dz` (arena) is overwritten.
    pub(super) fn backward_norm(
        &self,
        device: &Device,
        buffers: &mut Buffers,
        slice: &mut Buffer,
        pass: NormBackward,
    ) {
        let Buffers { params, arena, .. } = buffers;
        let spans = [self.gamma, self.beta, self.statistics];
        let [mut d_gamma, mut d_beta, statistics] = slice.views_mut(spans);
        let statistics = statistics.as_view();
        let (norm, [g, b]) = (&self.norm, [d_gamma.reborrow(), d_beta.reborrow()]);
        match pass.mask {
            Mask::Relu => {
                let [dy, y, z] = arena.views_mut([pass.dy, self.y, self.z]);
                let (y, z) = (Some(y.as_view()), z.as_view());
                ops::norm_backward_reduce(device, norm, dy, y, z, statistics, EPSILON, g, b);
            }
            Mask::None => {
                let [dy, z] = arena.views_mut([pass.dy, self.z]);
                let z = z.as_view();
                ops::norm_backward_reduce(device, norm, dy, None, z, statistics, EPSILON, g, b);
            }
        }
        let [dy, z, dz] = arena.views_mut([pass.dy, self.z, pass.dz]);
        let (gamma, g, b) = (params.view(self.gamma), d_gamma.as_view(), d_beta.as_view());
        let (dy, z) = (dy.as_view(), z.as_view());
        ops::norm_backward_apply(device, norm, dy, z, statistics, gamma, g, b, EPSILON, dz);
    }

    /// After `backward_norm`, which needs the mean of `z`: the bias has no gradient, and the slice's mean becomes that of
    /// `z + b`, for the running mean. Nothing to do for a unit without a bias.
    pub(super) fn backward_bias(&self, device: &Device, params: &Buffer, slice: &mut Buffer) {
        let Some(bias) = &self.bias else { return };
        let mean = Span::new(self.statistics.start, bias.span.len);
        let [d_bias, mean] = slice.views_mut([bias.span, mean]);
        ops::fill(device, d_bias, 0.0);
        ops::add(device, mean, params.view(bias.span));
    }

    /// The weight's gradient from `x` and `dz` (arena).
    pub(super) fn backward_weight(
        &self,
        device: &Device,
        arena: &mut Buffer,
        x: Span,
        dz: Span,
        slice: &mut Buffer,
    ) {
        let [x, dz] = arena.views_mut([x, dz]);
        ops::conv_weight_grad(
            device,
            &self.conv,
            x.as_view(),
            dz.as_view(),
            slice.view_mut(self.weight),
        );
    }

    /// The input's gradient from `dz`, written to or added to `dx` (arena).
    pub(super) fn backward_input(
        &self,
        device: &Device,
        buffers: &mut Buffers,
        dz: Span,
        dx: Span,
        how: Accumulate,
    ) {
        let [dz, dx] = buffers.arena.views_mut([dz, dx]);
        let weight = buffers.packed.view(self.packed_input_grad);
        ops::conv_input_grad(device, &self.conv, dz.as_view(), weight, dx, how);
    }

    /// Folds the mean over all slices' statistics into the running ones; `sums` is the reduced gradient vector.
    pub(super) fn update_running(
        &self,
        device: &Device,
        running: &mut Buffer,
        sums: &Buffer,
        slices: usize,
    ) {
        let (into, from) = (running.view_mut(self.running), sums.view(self.statistics));
        ops::norm_update_running(device, into, from, slices, self.norm.rows, RUNNING_MOMENTUM);
    }

    /// End of this unit's gradients in the gradient vector.
    pub(super) fn gradients_end(&self) -> usize {
        self.bias.as_ref().map_or(self.weight, |bias| bias.span).end()
    }
}

/// Arguments of `Unit::backward_norm`.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormBackward {
    pub(super) mask: Mask,
    pub(super) dy: Span,
    pub(super) dz: Span,
}

/// Whether a ReLU stands behind the unit itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mask {
    Relu,
    None,
}
