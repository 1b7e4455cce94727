//! Layer-wise adaptive rate scaling: You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", 2017.

/// L2 norms of one tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Norms {
    pub(super) parameter: f64,
    pub(super) gradient: f64,
}

/// Factor of one tensor's learning rate: `trust * |p| / (|g| + weight_decay * |p| + 1e-8)`, and 1 where a norm is 0.
///
/// It multiplies `g + weight_decay * p` before the momentum is added, so the velocity does not hold the schedule's rate.
/// That is timm's `Lars` with its defaults, and NVIDIA APEX's `LARC(clip=False)` around PyTorch's SGD but for its leaving
/// the decay out where a norm is 0. timm adapts the tensors that decay, APEX all; here those adapt that could decay, also
/// when the decay is 0. In the paper, and in TensorFlow's code for MLPerf, the velocity holds the rate: the same until the
/// schedule changes it.
pub(super) fn trust_ratio(trust_coefficient: f32, weight_decay: f32, norms: Norms) -> f64 {
    let Norms { parameter, gradient } = norms;
    if parameter == 0.0 || gradient == 0.0 {
        return 1.0;
    }
    let decay = f64::from(weight_decay) * parameter;
    f64::from(trust_coefficient) * parameter / (gradient + decay + EPSILON)
}

/// That of the implementations named above.
const EPSILON: f64 = 1e-8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_papers_and_a_tensor_without_a_direction_has_none() {
        let norms = Norms { parameter: 3.0, gradient: 0.25 };
        let expected = 0.5 * 3.0 / (0.25 + 0.125 * 3.0 + 1e-8);
        assert_eq!(trust_ratio(0.5, 0.125, norms), expected);
        assert_eq!(trust_ratio(0.5, 0.125, Norms { parameter: 0.0, ..norms }), 1.0);
        assert_eq!(trust_ratio(0.5, 0.125, Norms { gradient: 0.0, ..norms }), 1.0);
    }
}
