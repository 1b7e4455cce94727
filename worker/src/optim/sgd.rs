//! Stochastic gradient descent with momentum, in PyTorch's form.

use kernels::ops::{self, SgdSegment};
use kernels::{Buffer, Device, Span};
use proto::job::Optimizer;

use crate::layout::Layout;

#[derive(Debug)]
pub struct Sgd {
    device: Device,
    momentum: f32,
    nesterov: bool,
    segments: Vec<SgdSegment>,
    velocity: Buffer, // the parameters' layout
}

impl Sgd {
    /// Velocity starts at zero.
    pub fn new(device: &Device, layout: &Layout, rule: &Optimizer) -> Sgd {
        let segment = |tensor: &crate::layout::Tensor| SgdSegment {
            span: tensor.span,
            weight_decay: if tensor.role.decays() { rule.weight_decay } else { 0.0 },
        };
        Sgd {
            device: device.clone(),
            momentum: rule.momentum,
            nesterov: rule.nesterov,
            segments: layout.parameters.iter().map(segment).collect(),
            velocity: device.alloc(layout.parameters_len()),
        }
    }

    /// One update; `gradient` begins with the parameters' gradients.
    pub fn update(&mut self, params: &mut Buffer, gradient: &Buffer, learning_rate: f32) {
        let whole = Span { start: 0, len: params.len() };
        let rule = ops::Sgd { learning_rate, momentum: self.momentum, nesterov: self.nesterov };
        let (params, grads) = (params.view_mut(whole), gradient.view(whole));
        ops::sgd(&self.device, &rule, &self.segments, params, grads, self.velocity.view_mut(whole));
    }

    pub fn velocity(&self) -> &Buffer {
        &self.velocity
    }

    pub fn velocity_mut(&mut self) -> &mut Buffer {
        &mut self.velocity
    }
}
