//! Stochastic gradient descent with momentum, in PyTorch's form. Of each tensor's gradient the step takes
//! `gradient_scale * g + weight_decay * p`; here the two factors come from the rule and from norms.

use kernels::ops::{self, SgdSegment};
use kernels::{Buffer, Device, Span};
use proto::job::{Optimizer, Rule};

use super::clip::clip_scale;
use super::lars::{Norms, trust_ratio};
use crate::layout::{Layout, Tensor};

#[derive(Debug)]
pub struct Sgd {
    device: Device,
    rule: Optimizer,
    tensors: Vec<Tensor>,
    velocity: Buffer, // the parameters' layout
}

/// How long a gradient is.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientNorms {
    squares: Vec<f64>, // of each tensor's L2 norm
}

impl GradientNorms {
    /// L2 norm of all parameters' gradients together; not finite if one of them is not.
    pub fn total(&self) -> f64 {
        libm::sqrt(self.squares.iter().sum())
    }
}

impl Sgd {
    /// Velocity starts at zero.
    pub fn new(device: &Device, layout: &Layout, rule: &Optimizer) -> Sgd {
        Sgd {
            device: device.clone(),
            rule: *rule,
            tensors: layout.parameters.clone(),
            velocity: device.alloc(layout.parameters_len()),
        }
    }

    /// Of a gradient that is about to be used; `gradient` begins with the parameters' gradients.
    pub fn gradient_norms(&self, gradient: &Buffer) -> GradientNorms {
        GradientNorms { squares: self.squares(gradient) }
    }

    /// One update; `norms` are those of `gradient`.
    pub fn update(
        &mut self,
        params: &mut Buffer,
        gradient: &Buffer,
        norms: &GradientNorms,
        learning_rate: f32,
    ) {
        let segments = self.segments(params, norms);
        let whole = Span { start: 0, len: params.len() };
        let Optimizer { momentum, nesterov, .. } = self.rule;
        let rule = ops::Sgd { learning_rate, momentum, nesterov };
        let (params, grads) = (params.view_mut(whole), gradient.view(whole));
        ops::sgd(&self.device, &rule, &segments, params, grads, self.velocity.view_mut(whole));
    }

    /// Back to the beginning: velocity is zero.
    pub fn reset(&mut self) {
        let whole = self.velocity.span();
        self.velocity.write(whole, &vec![0.0; whole.len]);
    }

    pub fn velocity(&self) -> &Buffer {
        &self.velocity
    }

    pub fn velocity_mut(&mut self) -> &mut Buffer {
        &mut self.velocity
    }

    /// What this step makes of each tensor's gradient. Clipping comes before everything else, as where PyTorch's users
    /// put it: the ratios are those of the clipped gradient.
    fn segments(&self, params: &Buffer, norms: &GradientNorms) -> Vec<SgdSegment> {
        let Optimizer { rule, clip_norm, .. } = self.rule;
        let clip = clip_norm.map_or(1.0, |clip_norm| clip_scale(clip_norm, norms.total()));
        let ratios = match rule {
            Rule::Sgd => vec![1.0; self.tensors.len()],
            Rule::Lars { trust_coefficient } => {
                let gradients = norms.squares.iter().map(|square| clip * libm::sqrt(*square));
                self.trust_ratios(trust_coefficient, params, gradients)
            }
        };
        let segment = |(tensor, ratio): (&Tensor, f64)| SgdSegment {
            span: tensor.span,
            gradient_scale: (ratio * clip) as f32,
            weight_decay: (ratio * f64::from(self.weight_decay(tensor))) as f32,
        };
        self.tensors.iter().zip(ratios).map(segment).collect()
    }

    /// `gradients`: the norm of each tensor's. A tensor that does not decay keeps the schedule's rate.
    fn trust_ratios(
        &self,
        trust_coefficient: f32,
        params: &Buffer,
        gradients: impl Iterator<Item = f64>,
    ) -> Vec<f64> {
        let squares = self.squares(params);
        let norms = squares.iter().zip(gradients);
        let norms =
            norms.map(|(square, gradient)| Norms { parameter: libm::sqrt(*square), gradient });
        let ratio = |(tensor, norms): (&Tensor, Norms)| {
            let adapts = tensor.role.decays();
            if adapts { trust_ratio(trust_coefficient, self.rule.weight_decay, norms) } else { 1.0 }
        };
        self.tensors.iter().zip(norms).map(ratio).collect()
    }

    fn weight_decay(&self, tensor: &Tensor) -> f32 {
        if tensor.role.decays() { self.rule.weight_decay } else { 0.0 }
    }

    /// Of each tensor.
    fn squares(&self, buffer: &Buffer) -> Vec<f64> {
        let spans: Vec<Span> = self.tensors.iter().map(|tensor| tensor.span).collect();
        ops::sums_of_squares(&self.device, buffer.view(buffer.span()), &spans)
    }
}
