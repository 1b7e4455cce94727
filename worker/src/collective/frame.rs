//! What travels between two connected workers: a header of fixed size and a payload, each with its own CRC. Turns
//! headers into bytes and back. Knows no plan: `layout` decides whether a frame makes sense.
//!
//! Little-endian, by offset: 0 magic, 4 kind (u8), 5 node level (u8), 6 kept (u8), 7 zero, 8 generation (u64), 16 step (u64),
//! 24 bucket (u32), 28 node index (u32), 32 offset in the bucket, in values (u64), 40 payload bytes (u32), 44 CRC-32 of
//! the payload, 48 CRC-32 of the 48 bytes before.

use super::tree::NodeId;

/// Kinds of frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// One segment of one of the sender's subtrees, for the owner of the chunk.
    Partial = 1,
    /// One segment of the sum, from the owner of the chunk.
    Sum = 2,
    /// The sender gives the generation up; the payload is a `Verdict`.
    Poison = 3,
    /// The sender has sent everything and leaves in good order. Its last frame.
    Bye = 4,
    /// Where a worker of the same machine can read what the sender would send; the payload is an `Offer`.
    Offer = 5,
    /// The sender reads from the memory that it was offered.
    Taken = 6,
}

/// What a frame says of its payload. `bucket`, `node` and `offset` are zero where a kind has no use for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub generation: u64,
    pub step: u64,
    pub bucket: u32,
    pub node: NodeId,
    /// Where in the bucket the payload goes, in values.
    pub offset: u64,
    /// Bytes of payload.
    pub len: u32,
    /// The payload does not follow: it lies in the memory that the receiver took.
    pub kept: bool,
}

/// Why a generation ended, as one worker tells the others: who saw it and who is to blame, by rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub accuser: u32,
    /// `NOBODY` when the generation was given up from outside.
    pub culprit: u32,
    pub cause: String,
}

impl Header {
    /// A frame without data.
    pub fn control(kind: Kind, generation: u64, len: u32) -> Header {
        let node = NodeId { level: 0, index: 0 };
        Header { kind, generation, step: 0, bucket: 0, node, offset: 0, len, kept: false }
    }

    /// The header before `payload`, which is empty for one that is kept.
    pub fn encode(&self, payload: &[u8]) -> [u8; HEADER_LEN] {
        let follows = if self.kept { 0 } else { self.len as usize };
        assert_eq!(payload.len(), follows, "a header is for its own payload");
        let mut bytes = [0; HEADER_LEN];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&MAGIC);
        put(&[self.kind as u8, self.node.level as u8, u8::from(self.kept), 0]);
        put(&self.generation.to_le_bytes());
        put(&self.step.to_le_bytes());
        put(&self.bucket.to_le_bytes());
        put(&self.node.index.to_le_bytes());
        put(&self.offset.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&crc32fast::hash(payload).to_le_bytes());
        let crc = crc32fast::hash(&bytes[..HEADER_CRC]);
        bytes[HEADER_CRC..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header and the CRC its payload must have.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<(Header, u32), FrameError> {
        if bytes[..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        if u32_at(bytes, HEADER_CRC) != crc32fast::hash(&bytes[..HEADER_CRC]) {
            return Err(FrameError::HeaderCrc);
        }
        let kind = match bytes[4] {
            1 => Kind::Partial,
            2 => Kind::Sum,
            3 => Kind::Poison,
            4 => Kind::Bye,
            5 => Kind::Offer,
            6 => Kind::Taken,
            other => return Err(FrameError::Kind(other)),
        };
        let header = Header {
            kind,
            generation: u64_at(bytes, 8),
            step: u64_at(bytes, 16),
            bucket: u32_at(bytes, 24),
            node: NodeId { level: u32::from(bytes[5]), index: u32_at(bytes, 28) },
            offset: u64_at(bytes, 32),
            len: u32_at(bytes, 40),
            kept: bytes[6] != 0,
        };
        Ok((header, u32_at(bytes, 44)))
    }
}

impl Verdict {
    pub fn encode(&self) -> Vec<u8> {
        let cause = &self.cause[..self.cause.floor_char_boundary(CAUSE_MAX)];
        [&self.accuser.to_le_bytes(), &self.culprit.to_le_bytes(), cause.as_bytes()].concat()
    }

    pub fn decode(bytes: &[u8]) -> Option<Verdict> {
        let (accuser, rest) = bytes.split_first_chunk()?;
        let (culprit, cause) = rest.split_first_chunk()?;
        // It ends up in logs: line breaks and terminal codes of another machine do not.
        let cause = String::from_utf8_lossy(cause).replace(char::is_control, " ");
        Some(Verdict {
            accuser: u32::from_le_bytes(*accuser),
            culprit: u32::from_le_bytes(*culprit),
            cause,
        })
    }
}

/// What is wrong with a frame before its meaning is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("it does not start like a frame")]
    Magic,
    #[error("its header is damaged (CRC mismatch)")]
    HeaderCrc,
    #[error("its payload is damaged (CRC mismatch)")]
    PayloadCrc,
    #[error("it is of the unknown kind {0}")]
    Kind(u8),
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("fields lie inside the header"))
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("fields lie inside the header"))
}

pub const HEADER_LEN: usize = 52;
/// Culprit of a verdict that blames no worker.
pub const NOBODY: u32 = u32::MAX;
/// Longest payload of a `Poison` frame: two ranks and a sentence for people.
pub const VERDICT_LEN_MAX: usize = 8 + CAUSE_MAX;

const MAGIC: [u8; 4] = *b"RXF1";
const HEADER_CRC: usize = 48;
/// Bytes of a verdict's sentence: long enough for a nested "reported by", short enough to be sent while dying.
const CAUSE_MAX: usize = 512;
