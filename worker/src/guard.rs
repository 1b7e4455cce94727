//! What a worker looks at before it lets a step count: do all members stand on the same state, and is what they computed
//! finite. Both are read off the reduced gradient vector, which is the same on every member: so all decide alike, without a
//! word between them.

use kernels::{Buffer, Device, DeviceError, Span, ops};

use crate::layout::{Layout, STATE_WORDS, Total};

/// A step that no member applies, since something is not finite. Indexes into the gradient vector, see
/// `Layout::name_of_gradient`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite {
    /// In the reduced gradient vector.
    pub sum: usize,
    /// In what this worker itself had to contribute; `None` when that was finite.
    pub own: Option<usize>,
}

/// What a slice's totals say of the state that it was computed from: bytes of its digest, whose sums over up to 2^16 slices are
/// exact in fp32, in any order.
pub fn state_words(digest: &[u8; 16]) -> [f32; STATE_WORDS] {
    std::array::from_fn(|word| f32::from(digest[word]))
}

/// Whether all slices were computed from the state with this digest. `totals` are the reduced ones. Members on different
/// states go unnoticed only if all sums come out the same.
pub fn is_of_one_state(totals: &[f32], digest: &[u8; 16], slices: usize) -> bool {
    let sums = &totals[Total::State as usize..][..STATE_WORDS];
    sums.iter().zip(state_words(digest)).all(|(sum, word)| *sum == word * slices as f32)
}

/// Index of a number of the reduced gradient vector that no update may take in. The norm of the gradients tells whether there
/// is one among them, so these are searched only to name it.
pub fn first_non_finite(
    device: &Device,
    layout: &Layout,
    sum: &Buffer,
    norm: f64,
) -> Result<Option<usize>, DeviceError> {
    let start = if norm.is_finite() { layout.parameters_len() } else { 0 };
    let rest = Span::new(start, sum.len() - start);
    let found = ops::first_non_finite(device, sum.view(rest))?;
    Ok(found.map(|index| start + index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_from_another_state_shows_in_the_sum() {
        let digest: [u8; 16] = std::array::from_fn(|byte| 255 - 3 * byte as u8);
        for slices in [1, 2, 8, 1024] {
            let mut totals = vec![0.0; Total::State as usize];
            totals.extend(state_words(&digest).map(|word| word * slices as f32));
            assert!(is_of_one_state(&totals, &digest, slices));
            for bit in 0..64 {
                let mut other = digest;
                other[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_of_one_state(&totals, &other, slices), "bit {bit}");
                // One slice of the others' sum.
                let mut mixed = totals.clone();
                for (sum, (word, good)) in mixed[Total::State as usize..]
                    .iter_mut()
                    .zip(state_words(&other).into_iter().zip(state_words(&digest)))
                {
                    *sum += word - good;
                }
                assert!(!is_of_one_state(&mixed, &digest, slices), "bit {bit}");
            }
        }
    }
}
