//! Payloads between workers of one machine: memory that its worker writes and the peers read in place, so that only
//! headers go through their sockets. Whoever can't open it is sent everything. Knows no bucket.
//!
//! It is one vector for the sum and, behind it, the gradient vectors that the trainer computes in, and each is written
//! again in the next step, without asking. That is safe because of the order that `Calls` and the tree enforce:
//!
//! * A trainer begins with the gradients of step `s + 1` when it holds all sums of step `s`. To make these, the owners have
//!   read all partials of `s`.
//! * An owner writes a sum of `s + 1` when all partials of it are there, its own among them, and not before. A worker
//!   contributes to `s + 1` when it has all sums of `s`: a peer has copied them, and the own trainer is done with them.
//!
//! Values that go through a socket are sent from the same places, and the same reasons hold. Were it not so, the digests
//! that all members compare after every step would differ.
//!
//! The next generation uses the memory again (`Reserve`): to have it made anew, page by page, takes longer than a step. Whoever
//! still reads it then is no member of that generation, or has not begun with it: a process that was given up, or has not
//! heard yet that its old generation is over. It may add up what it finds and even apply that, but nobody takes its word: reports of an
//! older generation are dropped, and what it holds is of no use to a newer one.

use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernels::SharedMemory;

use super::vectors::Vectors;

/// The memory of this worker's gradients, and who of the peers reads it.
#[derive(Debug)]
pub(super) struct Shelf {
    memory: Arc<SharedMemory>,
    /// `None` when no other process can open it.
    offer: Option<Offer>,
    /// By rank.
    readers: Vec<AtomicBool>,
}

/// Where another process of this machine finds a worker's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    process: u32,
    descriptor: u32,
    /// What its first values hold: another process may have this number where the reader looks.
    proof: Proof,
}

type Proof = [u8; PROOF_LEN];

/// The memory of a worker's exchanges, of one after the other.
#[derive(Debug, Default)]
pub struct Reserve {
    kept: Option<Kept>,
}

#[derive(Clone, Debug)]
struct Kept {
    memory: Arc<SharedMemory>,
    offer: Option<Offer>,
}

impl Reserve {
    /// Has memory ready for a worker that computes these slices, of gradient vectors of `len` values: all of it was touched,
    /// and need not be found when the exchange begins.
    pub fn warm(&mut self, slices: Range<u32>, len: usize) {
        let len = Vectors::new(slices, len).memory_len();
        let memory = self.take(len).memory;
        memory.write(PROOF_VALUES, len - PROOF_VALUES, |values| values.fill(0.0));
    }

    /// Gives the memory back to the system, unless an exchange still uses it.
    pub fn clear(&mut self) {
        self.kept = None;
    }

    /// Memory for `len` values, whatever they are; that of the exchange before if it is long enough. Others can open it if
    /// the system has such memory to give.
    fn take(&mut self, len: usize) -> Kept {
        if let Some(kept) = &mut self.kept
            && let Some(memory) = Arc::get_mut(&mut kept.memory)
            && memory.capacity() >= len
        {
            memory.take_back();
            return kept.clone();
        }
        // What is too short goes first: there may not be room for both.
        self.clear();
        let shared = shared(len)
            .inspect_err(|error| tracing::debug!(%error, "no memory to share with other workers"));
        let kept = match shared {
            Ok((memory, offer)) => Kept { memory: Arc::new(memory), offer: Some(offer) },
            Err(_) => Kept { memory: Arc::new(private(len)), offer: None },
        };
        self.kept.insert(kept).clone()
    }
}

impl Shelf {
    /// Behind the proof.
    pub(super) const START: usize = PROOF_VALUES;

    /// With memory for `len` values.
    pub(super) fn new(world: usize, len: usize, reserve: &mut Reserve) -> Shelf {
        Shelf::of(world, reserve.take(len))
    }

    /// For a worker that sends everything.
    pub(super) fn private(world: usize, len: usize) -> Shelf {
        Shelf::of(world, Kept { memory: Arc::new(private(len)), offer: None })
    }

    fn of(world: usize, Kept { memory, offer }: Kept) -> Shelf {
        let readers = (0..world).map(|_| AtomicBool::new(false)).collect();
        Shelf { memory, offer, readers }
    }

    pub(super) fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }

    pub(super) fn offer(&self) -> Option<Offer> {
        self.offer
    }

    /// The peer opened the memory. False when it was not offered.
    pub(super) fn taken_by(&self, peer: usize) -> bool {
        self.readers[peer].store(true, Ordering::Relaxed);
        self.offer.is_some()
    }

    pub(super) fn is_read_by(&self, peer: usize) -> bool {
        self.readers[peer].load(Ordering::Relaxed)
    }
}

/// Memory of this process alone.
pub(super) fn private(len: usize) -> SharedMemory {
    SharedMemory::private(len).expect("memory for gradients, which was planned for")
}

fn shared(len: usize) -> io::Result<(SharedMemory, Offer)> {
    let mut proof = Proof::default();
    getrandom::fill(&mut proof).map_err(io::Error::other)?;
    let memory = SharedMemory::create(len)?;
    let values: [f32; PROOF_VALUES] = bytemuck::cast(proof);
    memory.write(0, PROOF_VALUES, |first| first.copy_from_slice(&values));
    let descriptor = memory.descriptor().ok_or(io::ErrorKind::Unsupported)? as u32;
    Ok((memory, Offer { process: std::process::id(), descriptor, proof }))
}

impl Offer {
    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.process.to_le_bytes()[..], &self.descriptor.to_le_bytes(), &self.proof].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Offer> {
        let (process, rest) = bytes.split_first_chunk()?;
        let (descriptor, rest) = rest.split_first_chunk()?;
        let (process, descriptor) = (u32::from_le_bytes(*process), u32::from_le_bytes(*descriptor));
        Some(Offer { process, descriptor, proof: rest.try_into().ok()? })
    }

    /// Opens the memory, which has room for at least `len` values. `None` when it is out of reach: of another user, or in another
    /// container.
    pub(super) fn take(&self, len: usize) -> Option<SharedMemory> {
        let path = format!("/proc/{}/fd/{}", self.process, self.descriptor);
        // Looked at before it is opened: opening can have effects on what is no file.
        if !fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).ok()?;
        let memory = SharedMemory::open(file, len).ok()?;
        let found: &[u8] = bytemuck::cast_slice(memory.values(0, PROOF_VALUES));
        (found == self.proof).then_some(memory)
    }
}

/// Bytes of an encoded `Offer`.
pub(super) const OFFER_LEN: usize = 8 + PROOF_LEN;
const PROOF_LEN: usize = 16;
const PROOF_VALUES: usize = PROOF_LEN / size_of::<f32>();
