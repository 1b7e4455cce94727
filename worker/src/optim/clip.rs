//! Gradients that are too long are shortened to a largest length, all parameters' together.

/// Factor of the gradient whose L2 norm over all parameters is `norm`: PyTorch's `clip_grad_norm_` (Pascanu et al., "On
/// the difficulty of training recurrent neural networks", 2013). Gradients are never lengthened.
pub(super) fn clip_scale(clip_norm: f32, norm: f64) -> f64 {
    (f64::from(clip_norm) / (norm + EPSILON)).min(1.0)
}

/// PyTorch's; keeps a gradient of zeros from dividing by 0.
const EPSILON: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_longer_gradient_is_shortened_and_then_to_the_norm() {
        assert_eq!(clip_scale(1.0, 0.0), 1.0);
        assert_eq!(clip_scale(1.0, 0.99), 1.0);
        assert_eq!(clip_scale(0.5, 4.0), 0.5 / 4.000001);
    }
}
