//! First values of the parameters, from the job's seed alone.
//!
//! As torchvision does it: convolutions from a normal distribution of variance `2 / fan_out` (He et al., "Delving Deep into
//! Rectifiers", 2015), linear layers and biases from a uniform one of bound `1 / sqrt(inputs)` (PyTorch's default),
//! BatchNorm 1 and 0 (`ResNet::initialise` has an exception for the last scale of a block).

use dataset::Draws;
use kernels::Buffer;

use crate::layout::{Layout, Role, Tensor};

/// Fills `params` and `running` (the buffers of `layout`).
pub(super) fn initialise(layout: &Layout, seed: u64, params: &mut Buffer, running: &mut Buffer) {
    for (index, tensor) in layout.parameters.iter().enumerate() {
        let draws = Draws::new(seed, FIRST_STREAM + index as u64);
        params.write(tensor.span, &first_values(tensor, draws));
    }
    for tensor in &layout.statistics {
        let value = if tensor.role == Role::RunningVariance { 1.0 } else { 0.0 };
        running.write(tensor.span, &vec![value; tensor.span.len]);
    }
}

fn first_values(tensor: &Tensor, mut draws: Draws) -> Vec<f32> {
    let len = tensor.span.len;
    match tensor.role {
        Role::ConvWeight { kernel, outputs, .. } => {
            let deviation = libm::sqrt(2.0 / (kernel * kernel * outputs) as f64);
            (0..len).map(|_| (deviation * draws.normal()) as f32).collect()
        }
        Role::LinearWeight { inputs, .. }
        | Role::LinearBias { inputs }
        | Role::ConvBias { inputs } => {
            let bound = 1.0 / libm::sqrt(inputs as f64);
            (0..len).map(|_| (bound * (2.0 * draws.unit() - 1.0)) as f32).collect()
        }
        Role::NormScale | Role::RunningVariance => vec![1.0; len],
        Role::NormShift | Role::RunningMean => vec![0.0; len],
    }
}

/// Streams of draws from here on belong to parameters; the positions of samples never get this far.
const FIRST_STREAM: u64 = 1 << 63;
