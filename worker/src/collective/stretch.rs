//! Values of one segment, wherever they lie: in a buffer of this process, in the memory that it shares with peers of its
//! machine, or in theirs. How two of them are added.

use std::sync::Arc;

use kernels::SharedMemory;

use super::buffer::{Buffer, Pool};
use super::tree::accumulate;

#[derive(Debug)]
pub(super) enum Stretch {
    Buffer(Buffer),
    Own(Region),
    Peer(Region),
}

/// `len` values from index `at` on.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) memory: Arc<SharedMemory>,
    pub(super) at: usize,
    pub(super) len: usize,
}

impl Stretch {
    pub(super) fn len(&self) -> usize {
        match self {
            Stretch::Buffer(buffer) => buffer.len(),
            Stretch::Own(region) | Stretch::Peer(region) => region.len,
        }
    }

    /// Copies the values from `start` on.
    pub(super) fn read(&self, start: usize, into: &mut [f32]) {
        match self {
            Stretch::Buffer(buffer) => into.copy_from_slice(&buffer[start..][..into.len()]),
            Stretch::Own(region) | Stretch::Peer(region) => {
                region.memory.read(region.at + start, into)
            }
        }
    }

    fn write(&mut self, start: usize, from: &[f32]) {
        match self {
            Stretch::Buffer(buffer) => buffer[start..][..from.len()].copy_from_slice(from),
            Stretch::Own(region) => region.memory.write(region.at + start, from),
            Stretch::Peer(_) => unreachable!("a peer's memory is only read"),
        }
    }

    /// `left + right`, element by element, in the place of one of them; in shared memory if one of them is there, since
    /// that is where peers look for the sum.
    pub(super) fn add(left: Stretch, right: Stretch, pool: &Pool) -> Stretch {
        let len = left.len();
        assert_eq!(len, right.len(), "sums are over stretches of one length");
        match (left, right) {
            (Stretch::Buffer(mut left), Stretch::Buffer(right)) => {
                accumulate(&mut left, &right);
                Stretch::Buffer(left)
            }
            (left @ Stretch::Own(_), right)
            | (left @ Stretch::Buffer(_), right @ Stretch::Peer(_)) => {
                add_blocks(Target::Left, left, right)
            }
            (left, right @ (Stretch::Own(_) | Stretch::Buffer(_))) => {
                add_blocks(Target::Right, left, right)
            }
            (left @ Stretch::Peer(_), right @ Stretch::Peer(_)) => {
                let mut copy = pool.take(len);
                left.read(0, &mut copy);
                add_blocks(Target::Left, Stretch::Buffer(copy), right)
            }
        }
    }
}

/// Where a sum goes. The order of the operands is the same, so the bits are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Left,
    Right,
}

/// Shared memory can't be borrowed like other memory, so values pass through small copies, which stay in the cache.
fn add_blocks(target: Target, mut left: Stretch, mut right: Stretch) -> Stretch {
    let (mut sum, mut other) = ([0.0; BLOCK], [0.0; BLOCK]);
    for start in (0..left.len()).step_by(BLOCK) {
        let len = BLOCK.min(left.len() - start);
        left.read(start, &mut sum[..len]);
        right.read(start, &mut other[..len]);
        accumulate(&mut sum[..len], &other[..len]);
        match target {
            Target::Left => left.write(start, &sum[..len]),
            Target::Right => right.write(start, &sum[..len]),
        }
    }
    if target == Target::Left { left } else { right }
}

/// 4 KiB: two of them fit the innermost cache of any processor.
const BLOCK: usize = 1024;
