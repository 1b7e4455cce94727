//! The menu's part for the optimizer: the update of the weights, the norms that a rule may ask for,
//! and the average that may follow. Which rule it is, is the caller's.

use super::assert_len;
use crate::device::{Device, DeviceError, Span, View, ViewMut};
use crate::profile::Work;

/// One parameter tensor inside the flat parameter buffer, and what the step makes of its gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdSegment {
    /// Where it lies.
    pub span: Span,
    /// Factor of the gradient: 1, unless gradients are clipped or layers have rates of their own.
    pub gradient_scale: f32,
    /// Factor of the parameter that is added to the gradient.
    pub weight_decay: f32,
}

/// The optimizer's rule of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Of this step, schedule applied.
    pub learning_rate: f32,
    /// Of the velocity, 0 for none.
    pub momentum: f32,
    /// Whether the step looks ahead along the velocity.
    pub nesterov: bool,
}

/// `g' = gradient_scale * g + weight_decay * p`, then `v = momentum * v + g'` and
/// `p -= lr * (nesterov ? g' + momentum * v : v)`: PyTorch's form, where the scale is 1. All three
/// buffers have the same layout; `segments` covers them, and what no segment covers stays as it is.
pub fn sgd(
    device: &Device,
    rule: &Sgd,
    segments: &[SgdSegment],
    params: ViewMut<'_>,
    grads: View<'_>,
    velocity: ViewMut<'_>,
) {
    assert_len("grads", grads.len(), params.len());
    assert_len("velocity", velocity.len(), params.len());
    for segment in segments {
        assert!(segment.span.end() <= params.len(), "{segment:?} of {} elements", params.len());
    }
    let _timer = device.timer("sgd", Work::elements(5 * params.len()));
    match device {
        Device::Cpu(cpu) => cpu.sgd(rule, segments, params.cpu(), grads.cpu(), velocity.cpu()),
        Device::Cuda(cuda) => {
            cuda.sgd(rule, segments, params.cuda(), grads.cuda(), velocity.cuda())
        }
    }
}

/// The sum of the squares of each span's elements: what L2 norms are the roots of. In fp64, where
/// the square of an fp32 number is exact and neither vanishes nor overflows; the order of the sum
/// depends on the span's length alone.
///
/// # Errors
/// As those of `Buffer::read`.
pub fn sums_of_squares(
    device: &Device,
    values: View<'_>,
    spans: &[Span],
    sums: &mut [f64],
) -> Result<(), DeviceError> {
    assert_eq!(spans.len(), sums.len(), "a sum for each span");
    for span in spans {
        assert!(span.end() <= values.len(), "{span:?} of {} elements", values.len());
    }
    let elements = spans.iter().map(|span| span.len).sum();
    let _timer = device.timer("sums_of_squares", Work::elements(elements));
    match device {
        Device::Cpu(cpu) => cpu.sums_of_squares(values.cpu(), spans, sums),
        Device::Cuda(cuda) => cuda.sums_of_squares(values.cuda(), spans, sums)?,
    }
    Ok(())
}

/// `into += weight * (toward - into)`, element by element: `torch.lerp` with a weight of 0 to 1/2.
/// Where the two are equal, nothing changes.
pub fn lerp(device: &Device, into: ViewMut<'_>, toward: View<'_>, weight: f32) {
    assert_len("toward", toward.len(), into.len());
    let _timer = device.timer("lerp", Work::elements(3 * into.len()));
    match device {
        Device::Cpu(cpu) => cpu.lerp(into.cpu(), toward.cpu(), weight),
        Device::Cuda(cuda) => cuda.lerp(into.cuda(), toward.cuda(), weight),
    }
}
