//! Stochastic gradient descent with momentum, in PyTorch's form. Of each tensor's gradient the step takes
//! `gradient_scale * g + weight_decay * p`; here the two factors come from the rule and from norms.

use kernels::ops::{self, SgdSegment};
use kernels::{Buffer, Device, DeviceError, Span};
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
    /// Where each tensor lies.
    spans: Vec<Span>,
    /// Of each tensor: the square of its gradient's L2 norm, and of its own where the rule asks for it.
    gradient_squares: Vec<f64>,
    parameter_squares: Vec<f64>,
    /// What the step makes of each tensor's gradient.
    segments: Vec<SgdSegment>,
}

impl Sgd {
    /// Velocity starts at zero.
    pub fn new(device: &Device, layout: &Layout, rule: &Optimizer) -> Sgd {
        let tensors = layout.parameters.clone();
        let spans: Vec<Span> = tensors.iter().map(|tensor| tensor.span).collect();
        Sgd {
            device: device.clone(),
            rule: *rule,
            velocity: device.alloc(layout.parameters_len()),
            gradient_squares: vec![0.0; spans.len()],
            parameter_squares: vec![0.0; spans.len()],
            segments: Vec::with_capacity(spans.len()),
            spans,
            tensors,
        }
    }

    /// Looks at a gradient that is about to be used; it begins with the parameters' gradients. Returns the L2 norm of all of
    /// these together, which is not finite if one of them is not.
    pub fn measure(&mut self, gradient: &Buffer) -> Result<f64, DeviceError> {
        let view = gradient.view(gradient.span());
        ops::sums_of_squares(&self.device, view, &self.spans, &mut self.gradient_squares)?;
        Ok(self.gradient_norm())
    }

    /// One update by the gradient that was measured last.
    pub fn update(
        &mut self,
        params: &mut Buffer,
        gradient: &Buffer,
        learning_rate: f32,
    ) -> Result<(), DeviceError> {
        self.plan(params)?;
        let whole = Span { start: 0, len: params.len() };
        let Optimizer { momentum, nesterov, .. } = self.rule;
        let rule = ops::Sgd { learning_rate, momentum, nesterov };
        let (params, grads) = (params.view_mut(whole), gradient.view(whole));
        let velocity = self.velocity.view_mut(whole);
        ops::sgd(&self.device, &rule, &self.segments, params, grads, velocity);
        Ok(())
    }

    /// Back to the beginning: velocity is zero.
    pub fn reset(&mut self) {
        let whole = self.velocity.span();
        ops::fill(&self.device, self.velocity.view_mut(whole), 0.0);
    }

    pub fn velocity(&self) -> &Buffer {
        &self.velocity
    }

    pub fn velocity_mut(&mut self) -> &mut Buffer {
        &mut self.velocity
    }

    fn gradient_norm(&self) -> f64 {
        libm::sqrt(self.gradient_squares.iter().sum())
    }

    /// What this step makes of each tensor's gradient. Clipping comes before everything else, as where PyTorch's users
    /// put it: the ratios are those of the clipped gradient.
    fn plan(&mut self, params: &Buffer) -> Result<(), DeviceError> {
        let Optimizer { rule, clip_norm, weight_decay, .. } = self.rule;
        let clip = clip_norm.map_or(1.0, |clip_norm| clip_scale(clip_norm, self.gradient_norm()));
        if let Rule::Lars { .. } = rule {
            let view = params.view(params.span());
            ops::sums_of_squares(&self.device, view, &self.spans, &mut self.parameter_squares)?;
        }
        let squares = self.parameter_squares.iter().zip(&self.gradient_squares);
        let segment = |(tensor, (parameter, gradient)): (&Tensor, (&f64, &f64))| {
            let weight_decay = if tensor.role.decays() { weight_decay } else { 0.0 };
            let ratio = match rule {
                // A tensor that does not decay keeps the schedule's rate.
                Rule::Lars { trust_coefficient } if tensor.role.decays() => {
                    let gradient = clip * libm::sqrt(*gradient);
                    let norms = Norms { parameter: libm::sqrt(*parameter), gradient };
                    trust_ratio(trust_coefficient, weight_decay, norms)
                }
                Rule::Sgd | Rule::Lars { .. } => 1.0,
            };
            SgdSegment {
                span: tensor.span,
                gradient_scale: (ratio * clip) as f32,
                weight_decay: (ratio * f64::from(weight_decay)) as f32,
            }
        };
        self.segments.clear();
        self.segments.extend(self.tensors.iter().zip(squares).map(segment));
        Ok(())
    }
}
