//! Payloads between workers of one machine: memory that its worker writes and the peers read in place, so that only
//! headers go through their sockets. Whoever can't open it is sent everything. Knows no bucket.
//!
//! A stretch of it is written again without asking. That is safe because of the order that `Calls` and the tree enforce. A
//! trainer writes partials of the next step when it holds all sums of this one, so the owner of the chunk has used the
//! partial that was there. Sums stay for a step longer, as peers read them while their trainers wait: steps take turns
//! with two places. What is written in step `s + 2` was read in step `s`, since every peer has contributed to `s + 1`.
//! Were it not so, the digests that all members compare after every step would differ.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernels::SharedMemory;

/// What this worker keeps for its peers, and who of them reads it.
#[derive(Debug)]
pub(super) struct Shelf {
    kept: Option<Kept>,
    /// By rank.
    readers: Vec<AtomicBool>,
}

#[derive(Debug)]
struct Kept {
    memory: Arc<SharedMemory>,
    offer: Offer,
}

/// Where another process of this machine finds a worker's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    process: u32,
    descriptor: u32,
    /// What its last values hold: another process may have this number where the reader looks.
    proof: Proof,
}

type Proof = [u8; PROOF_LEN];

impl Shelf {
    /// With memory for `len` values, if the system has it to give.
    pub(super) fn new(world: usize, len: usize) -> Shelf {
        let kept = Kept::new(len)
            .inspect_err(|error| tracing::debug!(%error, "no memory to share with other workers"));
        Shelf { kept: kept.ok(), ..Shelf::none(world) }
    }

    /// For a worker that sends everything.
    pub(super) fn none(world: usize) -> Shelf {
        Shelf { kept: None, readers: (0..world).map(|_| AtomicBool::new(false)).collect() }
    }

    pub(super) fn offer(&self) -> Option<Offer> {
        self.kept.as_ref().map(|kept| kept.offer)
    }

    /// The peer opened the memory. False when there is none.
    pub(super) fn taken_by(&self, peer: usize) -> bool {
        self.readers[peer].store(true, Ordering::Relaxed);
        self.kept.is_some()
    }

    pub(super) fn is_read_by(&self, peer: usize) -> bool {
        self.readers[peer].load(Ordering::Relaxed)
    }

    /// The memory, if any peer reads it.
    pub(super) fn in_use(&self) -> Option<&Arc<SharedMemory>> {
        let read = self.readers.iter().any(|reader| reader.load(Ordering::Relaxed));
        self.kept.as_ref().filter(|_| read).map(|kept| &kept.memory)
    }
}

impl Kept {
    fn new(len: usize) -> io::Result<Kept> {
        let mut proof = Proof::default();
        getrandom::fill(&mut proof).map_err(io::Error::other)?;
        let memory = Arc::new(SharedMemory::create(len + PROOF_VALUES)?);
        memory.write(len, &bytemuck::pod_collect_to_vec(&proof));
        let descriptor = memory.descriptor() as u32;
        Ok(Kept { memory, offer: Offer { process: std::process::id(), descriptor, proof } })
    }
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

    /// Opens the memory, which has room for `len` values. `None` when it is out of reach: of another user, or in another
    /// container.
    pub(super) fn take(&self, len: usize) -> Option<SharedMemory> {
        let path = format!("/proc/{}/fd/{}", self.process, self.descriptor);
        // Looked at before it is opened: opening can have effects on what is no file.
        if !fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).ok()?;
        let memory = SharedMemory::open(file, len + PROOF_VALUES).ok()?;
        let mut proof = [0.0; PROOF_VALUES];
        memory.read(len, &mut proof);
        (bytemuck::cast::<_, Proof>(proof) == self.proof).then_some(memory)
    }
}

/// Bytes of an encoded `Offer`.
pub(super) const OFFER_LEN: usize = 8 + PROOF_LEN;
const PROOF_LEN: usize = 16;
const PROOF_VALUES: usize = PROOF_LEN / size_of::<f32>();
