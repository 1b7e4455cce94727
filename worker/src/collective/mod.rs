//! The exchange: adds the gradients of all workers of a generation over the fixed tree of slices, so that the bits of
//! the sum do not depend on how many workers there are or who computes what.
//!
//! It is direct: rank `r` owns chunk `r` of each bucket, receives everybody's subtrees of that chunk, adds them in tree
//! order and sends the sum to all. In reading order: `tree` (what is added to what), `layout` (who owns and sends
//! which stretch), `handover` (the state's way to a new member), `tcp` (the trainer's side), `engine` with `gather` and
//! `ending` (the thread that owns all state of the exchange) and `link` (the threads that own the sockets), `memory` with
//! `vectors` and `stretch` (where gradients lie, and how workers of one machine spare the sockets), `mesh` with `desk` and
//! `handshake` (how a generation's connections come about). `solo` is the exchange of a worker on its own.
//!
//! Knows no model, no optimizer and no coordinator: it is told a generation and reports whom it lost.

mod tree;
mod error;
mod abort;
mod buffer;
mod vectors;
mod layout;
pub mod frame;
mod memory;
mod stretch;
pub mod handshake;
mod desk;
mod mesh;
mod link;
mod handover;
mod gather;
mod engine;
mod ending;
mod calls;
mod tcp;
mod solo;

use std::fmt;
use std::time::Duration;

use kernels::Buffer;

pub use abort::Abort;
pub use error::CollectiveError;
pub use handover::Handover;
pub use memory::Reserve;
pub use mesh::Listener;
pub use solo::Solo;
pub use tcp::TcpExchange;
pub use tree::{Merge, NodeId, SlicePlan, SliceStep, accumulate, subtrees};

// Payloads travel as the bytes of the values in memory, little-endian by protocol.
#[cfg(target_endian = "big")]
compile_error!("the exchange sends values as they lie in memory and needs a little-endian machine");

/// The gradient all-reduce of one generation.
///
/// Gradients lie in its memory, so that nothing is copied before it is added. Steps are consecutive numbers from the group's
/// first one on. In each, every bucket is reduced once, in the same order on all workers, and waited for once, before
/// anything is written to the slots for the next step; anything else is a mistake of the program and, where it shows,
/// panics.
pub trait Collective: Send + fmt::Debug {
    /// The gradient vectors in which this worker computes, as many as its `SlicePlan` has slots, each of all buckets' values.
    /// To be taken once.
    fn slots(&mut self) -> Vec<Buffer>;

    /// Starts the reduction of a bucket and returns at once. Its values in the first slots are this worker's `subtrees`, in
    /// order, and stay so until all of the step has been waited for.
    fn reduce(&mut self, step: u64, bucket: usize) -> Result<(), CollectiveError>;

    /// Waits until the sum of the bucket over all slices is there. Never waits longer than the group's timeout without
    /// data.
    fn wait(&mut self, step: u64, bucket: usize) -> Result<&[f32], CollectiveError>;

    /// The sums of all buckets, side by side, after a completed step.
    fn sum(&self) -> &Buffer;

    /// Ends the exchange after a completed step: the peers get what they still need of this worker, then the
    /// connections close. Dropping an exchange instead tells the peers that this worker gave up.
    fn shutdown(&mut self) -> Result<(), CollectiveError>;
}

/// One member of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    /// host:port of its `Listener`.
    pub address: String,
    pub first_slice: u32,
    pub slice_count: u32,
}

/// What all members of a generation agree on, and which of them this worker is.
#[derive(Clone)]
pub struct Group {
    pub job: String,
    pub generation: u64,
    pub rank: usize,
    /// By rank; their slices are contiguous, in this order, and cover all.
    pub peers: Vec<Peer>,
    /// The step that all begin with.
    pub first_step: u64,
    /// Slices of a global batch, a power of two.
    pub slices: u32,
    /// Opens connections of this generation. Never sent, never logged.
    pub key: [u8; 32],
    /// Values in each bucket, in the order in which backward finishes them.
    pub bucket_lens: Vec<usize>,
    /// A peer that delivers nothing for this long, while this worker waits for it, is given up.
    pub timeout: Duration,
    pub transport: Transport,
}

/// How values reach the peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Through memory that workers of one machine share, to the others by TCP.
    Fastest,
    /// By TCP to all.
    Tcp,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("job", &self.job)
            .field("generation", &self.generation)
            .field("rank", &self.rank)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
