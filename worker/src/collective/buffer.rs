//! Memory for gradient values on their way through the exchange. Buffers go back to a pool when dropped, in whichever
//! thread that is: fresh memory of this size costs a page fault per 4 KiB, more than reading it from a socket does.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Values of one segment, at most `SEGMENT_LEN` long.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Vec<f32>,
    len: usize,
    pool: Pool,
}

/// Where the buffers of one exchange come from.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    spare: Arc<Mutex<Vec<Vec<f32>>>>,
    spare_max: usize,
}

impl Pool {
    /// Keeps at most `spare_max` unused buffers.
    pub(super) fn new(spare_max: usize) -> Pool {
        Pool { spare: Arc::default(), spare_max }
    }

    /// A buffer of `len` values that are yet to be written: it holds whatever was in it before.
    pub(super) fn take(&self, len: usize) -> Buffer {
        assert!(len <= SEGMENT_LEN, "a segment of {len} values");
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = spare.unwrap_or_else(|| vec![0.0; SEGMENT_LEN]);
        Buffer { memory, len, pool: self.clone() }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = self.pool.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < self.pool.spare_max {
            spare.push(std::mem::take(&mut self.memory));
        }
    }
}

/// Values in one frame, 512 KiB. Small enough that receiving, adding and sending overlap within one bucket and that a
/// segment is added while still in the cache; large enough that a frame's header and thread changes cost little.
pub(super) const SEGMENT_LEN: usize = 128 << 10;
