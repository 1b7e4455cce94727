//! Values of one segment, wherever they lie: in a buffer that came from a socket, or in memory for gradients, this
//! worker's or a peer's of its machine.

use std::sync::Arc;

use kernels::SharedMemory;

use super::buffer::Buffer;

#[derive(Debug)]
pub(super) enum Stretch {
    Received(Buffer),
    Kept(Region),
}

/// `len` values from index `at` on.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) memory: Arc<SharedMemory>,
    pub(super) at: usize,
    pub(super) len: usize,
}

impl Stretch {
    /// At a time when nobody writes them: see `memory`.
    pub(super) fn values(&self) -> &[f32] {
        match self {
            Stretch::Received(buffer) => buffer,
            Stretch::Kept(region) => region.values(),
        }
    }
}

impl Region {
    pub(super) fn values(&self) -> &[f32] {
        self.memory.values(self.at, self.len)
    }
}
