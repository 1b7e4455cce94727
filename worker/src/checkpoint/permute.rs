//! Between our weight layouts and PyTorch's.

use crate::layout::Role;

/// PyTorch's shape of a tensor of `len` elements.
pub(super) fn torch_shape(role: Role, len: usize) -> Vec<usize> {
    match role {
        Role::ConvWeight { kernel, inputs, outputs } => vec![outputs, inputs, kernel, kernel],
        Role::LinearWeight { inputs, outputs } => vec![outputs, inputs],
        Role::ConvBias { .. }
        | Role::LinearBias { .. }
        | Role::NormScale
        | Role::NormShift
        | Role::RunningMean
        | Role::RunningVariance => vec![len],
    }
}

/// `[k, k, in, out]` to `[out, in, k, k]`, `[in, out]` to `[out, in]`; vectors stay as they are.
pub(super) fn to_torch(role: Role, ours: &[f32]) -> Vec<f32> {
    let mut theirs = vec![0.0; ours.len()];
    for_each_pair(role, ours.len(), |our, their| theirs[their] = ours[our]);
    theirs
}

/// The inverse of `to_torch`.
pub(super) fn from_torch(role: Role, theirs: &[f32]) -> Vec<f32> {
    let mut ours = vec![0.0; theirs.len()];
    for_each_pair(role, theirs.len(), |our, their| ours[our] = theirs[their]);
    ours
}

/// Calls `pair(our index, their index)` for each element.
fn for_each_pair(role: Role, len: usize, mut pair: impl FnMut(usize, usize)) {
    let (taps, inputs, outputs) = match role {
        Role::ConvWeight { kernel, inputs, outputs } => (kernel * kernel, inputs, outputs),
        Role::LinearWeight { inputs, outputs } => (1, inputs, outputs),
        _ => (1, 1, len),
    };
    for tap in 0..taps {
        for input in 0..inputs {
            for output in 0..outputs {
                pair(
                    (tap * inputs + input) * outputs + output,
                    (output * inputs + input) * taps + tap,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_survives_the_way_to_pytorch_and_back() {
        let role = Role::ConvWeight { kernel: 2, inputs: 3, outputs: 2 };
        let ours: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let theirs = to_torch(role, &ours);
        // ours[kh=0, kw=1, in=2, out=1] is theirs[out=1, in=2, kh=0, kw=1].
        assert_eq!(theirs[(3 + 2) * 4 + 1], ours[(3 + 2) * 2 + 1]);
        assert_eq!(from_torch(role, &theirs), ours);
        let role = Role::LinearWeight { inputs: 2, outputs: 3 };
        assert_eq!(to_torch(role, &[0., 1., 2., 3., 4., 5.]), [0., 3., 1., 4., 2., 5.]);
    }
}
