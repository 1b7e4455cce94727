//! Neighbouring channels that a thread takes at once: the host's side of `kernels/cuda/vectors.cuh`.

use super::memory::Element;

/// Numbers of a vector.
pub(super) fn lanes(element: Element) -> usize {
    BYTES / element.size()
}

/// Vectors that hold all channels.
pub(super) fn vectors(channels: usize, element: Element) -> usize {
    channels.div_ceil(lanes(element))
}

/// 1 when activations of these channels at these addresses are read and written a vector at a time.
pub(super) fn is_wide(channels: usize, element: Element, addresses: &[u64]) -> i32 {
    let aligned = addresses.iter().all(|address| address.is_multiple_of(BYTES as u64));
    i32::from(aligned && channels.is_multiple_of(lanes(element)))
}

const BYTES: usize = 16;
