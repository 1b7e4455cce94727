//! One convolution with its BatchNorm: spans of its parameters and buffers, and the calls of its passes.
//!
//! A bias `b` between the two is never added to an activation. The slice's mean of `z + b` is `mean(z) + b`, so BatchNorm
//! with slice statistics gives the same output with and without it, and with it every other gradient; its own gradient is
//! the sum of the gradient of `z` over the rows, which BatchNorm's backward makes 0. Two things remain: the running mean
//! follows `mean(z) + b`, and evaluation's `scale * (z + b) + shift` is `scale * z + (shift + scale * b)`.

use kernels::ops::{self, Accumulate, Activation, Residual};
use kernels::{Buffer, ConvShape, Device, Family, NormShape, Span, ViewMut};

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
    /// Among the activations: convolution output, and output after activation, `[N, H, W, C_out]`.
    z: Span,
    pub(super) y: Span,
    /// Among the vectors, `[slices, 2, C_out]`: mean and variance of `z`; scale and shift; the sums of backward.
    stats: Span,
    affine: Span,
    sums: Span,
}

#[derive(Debug)]
struct Bias {
    /// In the parameter buffer, `[C_out]`.
    span: Span,
    /// Among the vectors: scale and shift before the bias is taken in, `[2, C_out]`.
    affine: Span,
}

/// Where a unit's BatchNorm takes mean and variance from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statistics {
    /// Of the slice itself, kept for backward and for the running statistics.
    Slice,
    /// The running ones.
    Running,
}

/// What is added before a unit's ReLU.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shortcut<'a> {
    None,
    /// An activation as it is.
    Identity(Span),
    /// What this unit convolved, normalised.
    Projection(&'a Unit),
}

/// Planning buffers while layers are laid out in the order of backward.
#[derive(Debug)]
pub(super) struct Planners {
    pub(super) family: Family,
    pub(super) packed: Planner,
    pub(super) activations: Planner,
    pub(super) vectors: Planner,
}

impl Planners {
    /// For devices of a family: they pack weights alike.
    pub(super) fn new(family: Family) -> Planners {
        let (packed, activations, vectors) = Default::default();
        Planners { family, packed, activations, vectors }
    }
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
        let packed = conv.packed_len(planners.family);
        let norm = NormShape { slices: conv.slices, rows, channels };
        Unit {
            conv,
            norm,
            gamma,
            beta,
            weight,
            bias: None,
            running: layout.running(norm_name, channels),
            // Known once the layout is complete: see `place_statistics`.
            statistics: Span { start: 0, len: 0 },
            packed_forward: planners.packed.span(packed.forward),
            packed_input_grad: planners.packed.span(packed.input_grad),
            z: planners.activations.span(conv.output_len()),
            y: planners.activations.span(conv.output_len()),
            stats: planners.vectors.span(norm.pairs_len()),
            affine: planners.vectors.span(norm.pairs_len()),
            sums: planners.vectors.span(norm.pairs_len()),
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
        let affine = planners.vectors.span(2 * out_channels);
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
        self.affine = planners.vectors.span(self.affine.len);
        if let Some(bias) = &mut self.bias {
            bias.affine = planners.vectors.span(bias.affine.len);
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

    /// `z = conv(x)` and the scale and shift that normalise it.
    pub(super) fn convolve(
        &self,
        device: &Device,
        buffers: &mut Buffers,
        x: Span,
        statistics: Statistics,
    ) {
        let Buffers { params, running, packed, activations, vectors } = buffers;
        let [x, z] = activations.views_mut([x, self.z]);
        let weight = packed.view(self.packed_forward);
        let (gamma, beta) = (params.view(self.gamma), params.view(self.beta));
        let affine = self.affine(statistics);
        match statistics {
            Statistics::Slice => {
                let [mut stats, affine] = vectors.views_mut([self.stats, affine]);
                let into = Some(stats.reborrow());
                ops::conv_forward(device, &self.conv, x.as_view(), weight, z, into);
                ops::norm_affine(device, stats.as_view(), gamma, beta, EPSILON, affine);
            }
            Statistics::Running => {
                let (stats, affine) = (running.view(self.running), vectors.view_mut(affine));
                ops::conv_forward(device, &self.conv, x.as_view(), weight, z, None);
                ops::norm_affine(device, stats, gamma, beta, EPSILON, affine);
            }
        }
        if let (Statistics::Running, Some(bias)) = (statistics, &self.bias) {
            self.shift_by_bias(device, buffers, bias);
        }
    }

    /// `shift + scale * b`: the bias is normalised as an image of one pixel would be.
    fn shift_by_bias(&self, device: &Device, buffers: &mut Buffers, bias: &Bias) {
        let Buffers { params, running, vectors, .. } = buffers;
        let channels = self.conv.out_channels;
        let shift = Span::new(self.affine.start + channels, channels);
        let [mut affine, shift] = vectors.views_mut([bias.affine, shift]);
        let (gamma, beta) = (params.view(self.gamma), params.view(self.beta));
        let source = running.view(self.running);
        ops::norm_affine(device, source, gamma, beta, EPSILON, affine.reborrow());
        let pixel = NormShape { slices: 1, rows: 1, channels };
        let (b, affine) = (params.view(bias.span), affine.as_view());
        ops::norm_apply(device, &pixel, b, affine, Residual::None, Activation::None, shift);
    }

    /// Scale and shift: one pair for each slice, or one for all.
    fn affine(&self, statistics: Statistics) -> Span {
        match statistics {
            Statistics::Slice => self.affine,
            Statistics::Running => Span { len: 2 * self.conv.out_channels, ..self.affine },
        }
    }

    /// `y = relu(norm(z) + shortcut)`.
    pub(super) fn activate(
        &self,
        device: &Device,
        buffers: &mut Buffers,
        statistics: Statistics,
        shortcut: Shortcut<'_>,
    ) {
        let Buffers { activations, vectors, .. } = buffers;
        let shape = match statistics {
            Statistics::Slice => self.norm,
            Statistics::Running => NormShape { slices: 1, ..self.norm },
        };
        let affine = vectors.view(self.affine(statistics));
        let apply = |z: &ViewMut<'_>, residual, y| {
            let z = z.as_view();
            ops::norm_apply(device, &shape, z, affine, residual, Activation::Relu, y);
        };
        match shortcut {
            Shortcut::None => {
                let [z, y] = activations.views_mut([self.z, self.y]);
                apply(&z, Residual::None, y);
            }
            Shortcut::Identity(x) => {
                let [z, x, y] = activations.views_mut([self.z, x, self.y]);
                apply(&z, Residual::Plain(x.as_view()), y);
            }
            Shortcut::Projection(other) => {
                let [z, other_z, y] = activations.views_mut([self.z, other.z, self.y]);
                let affine = vectors.view(other.affine(statistics));
                apply(&z, Residual::Normalised { z: other_z.as_view(), affine }, y);
            }
        }
    }

    /// From the gradient of the output to that of `z`, and to gamma's and beta's. `dy` is masked in place where the unit's
    /// ReLU, if `mask` says so, put out 0; `dz` is overwritten. The slices' statistics go into the gradient vector, too.
    pub(super) fn backward_norm(
        &self,
        device: &Device,
        buffers: &mut Buffers,
        slice: &mut Buffer,
        pass: NormBackward,
    ) {
        let Buffers { params, activations, vectors, .. } = buffers;
        let norm = &self.norm;
        let [stats, mut sums] = vectors.views_mut([self.stats, self.sums]);
        let (stats, into) = (stats.as_view(), sums.reborrow());
        match pass.mask {
            Mask::Relu => {
                let [dy, y, z] = activations.views_mut([pass.dy, self.y, self.z]);
                let (y, z) = (Some(y.as_view()), z.as_view());
                ops::norm_backward_reduce(device, norm, dy, y, z, stats, EPSILON, into);
            }
            Mask::None => {
                let [dy, z] = activations.views_mut([pass.dy, self.z]);
                ops::norm_backward_reduce(
                    device,
                    norm,
                    dy,
                    None,
                    z.as_view(),
                    stats,
                    EPSILON,
                    into,
                );
            }
        }
        let [dy, z, dz] = activations.views_mut([pass.dy, self.z, pass.dz]);
        let (gamma, sums) = (params.view(self.gamma), sums.as_view());
        let (dy, z) = (dy.as_view(), z.as_view());
        ops::norm_backward_apply(device, norm, dy, z, stats, gamma, sums, EPSILON, dz);
        ops::sum_slices(device, sums, slice.view_mut(self.gamma_and_beta()));
        self.backward_bias(device, buffers, slice);
        let stats = buffers.vectors.view(self.stats);
        ops::sum_slices(device, stats, slice.view_mut(self.statistics));
    }

    /// Gamma's place and beta's, which follows it.
    fn gamma_and_beta(&self) -> Span {
        assert_eq!(self.gamma.end(), self.beta.start, "the layout puts beta behind gamma");
        Span::new(self.gamma.start, 2 * self.gamma.len)
    }

    /// After all that needs the mean of `z`: the bias has no gradient, and each slice's mean becomes that of `z + b`, for the
    /// running mean. Nothing to do for a unit without a bias.
    fn backward_bias(&self, device: &Device, buffers: &mut Buffers, slice: &mut Buffer) {
        let Some(bias) = &self.bias else { return };
        ops::fill(device, slice.view_mut(bias.span), 0.0);
        let channels = bias.span.len;
        for index in 0..self.norm.slices {
            let mean = Span::new(self.stats.start + index * 2 * channels, channels);
            ops::add(device, buffers.vectors.view_mut(mean), buffers.params.view(bias.span));
        }
    }

    /// The weight's gradient from `x` and `dz`.
    pub(super) fn backward_weight(
        &self,
        device: &Device,
        activations: &mut Buffer,
        x: Span,
        dz: Span,
        slice: &mut Buffer,
    ) {
        let [x, dz] = activations.views_mut([x, dz]);
        ops::conv_weight_grad(
            device,
            &self.conv,
            x.as_view(),
            dz.as_view(),
            slice.view_mut(self.weight),
        );
    }

    /// The input's gradient from `dz`, written to or added to `dx`.
    pub(super) fn backward_input(
        &self,
        device: &Device,
        buffers: &mut Buffers,
        dz: Span,
        dx: Span,
        how: Accumulate,
    ) {
        let [dz, dx] = buffers.activations.views_mut([dz, dx]);
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
        let rows = self.norm.rows / self.norm.slices;
        ops::norm_update_running(device, into, from, slices, rows, RUNNING_MOMENTUM);
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
