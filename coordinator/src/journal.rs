//! The append-only file that outlives the process: frames of records, each frame chained to the one before.
//!
//! File: `MAGIC`, then frames, then zeros. Frame: length of the payload (u32), CRC-32 of everything that follows it (u32),
//! first 16 bytes of the SHA-256 of the previous frame (of `MAGIC` for the first one), payload: a JSON array of records.
//! Integers are little-endian. One `append` is one frame and one fdatasync, so only the last frame can be torn.
//!
//! The zeros are space held in reserve: a decision can still be recorded when the disk has just run full.
//! Knows the record type only through serde; knows nothing of what the records mean.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::core::Record;
use crate::disk::DiskFile;
use crate::files::write_atomically;

#[derive(Debug)]
pub struct Journal {
    file: DiskFile,
    /// Where the next frame goes.
    end: u64,
    /// Length of the file.
    reserved: u64,
    chain: Chain,
    broken: bool,
}

/// What `Journal::open` found.
#[derive(Debug)]
pub struct Opened {
    pub journal: Journal,
    pub records: Vec<Record>,
    /// A torn frame at the end was cut off: this many bytes of it.
    pub torn_bytes: Option<u64>,
}

type Chain = [u8; 16];

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{what} the journal {}: {source}; check the disk, or give another folder with --state", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is no journal of this program; is --state the right folder?", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "the journal {} is damaged at byte {offset}, and {what} follows; restore it from a copy, or move the state \
         directory away and start over",
        path.display()
    )]
    Damaged { path: PathBuf, offset: u64, what: &'static str },
    #[error("a journal frame would have {bytes} bytes, more than the limit of {FRAME_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("the journal {} failed before and takes no more", path.display())]
    Broken { path: PathBuf },
}

impl Journal {
    /// Opens or creates the journal and reads what it holds.
    pub fn open(path: &Path) -> Result<Opened, JournalError> {
        let fail = |what: &'static str| {
            move |source| JournalError::Io { what, path: path.to_owned(), source }
        };
        if !path.try_exists().map_err(fail("looking for"))? {
            let mut content = MAGIC.to_vec();
            content.resize(MAGIC.len() + RESERVE_BYTES as usize, 0);
            write_atomically(path, &content).map_err(fail("creating"))?;
        }
        let file = DiskFile::open(path).map_err(fail("opening"))?;
        let bytes = std::fs::read(path).map_err(fail("reading"))?;
        let Scan { records, last, end, chain, torn_bytes } = scan(path, &bytes)?;
        if torn_bytes.is_some() {
            file.set_len(end).map_err(fail("cutting"))?;
        }
        // What was read may have come from memory: a frame whose fsync failed is never written to the disk by another fsync.
        // Only the last one can be such a frame, or one that nobody has synced. It is written once more before another follows.
        let frame = &bytes[last as usize..end as usize];
        file.write_all_at(frame, last).map_err(fail("securing"))?;
        file.sync().map_err(fail("securing"))?;
        let reserved = if torn_bytes.is_some() { end } else { bytes.len() as u64 };
        let mut journal = Journal { file, end, reserved, chain, broken: false };
        journal.reserve(0)?;
        Ok(Opened { journal, records, torn_bytes })
    }

    /// Reads what a journal holds, without touching it: also while a coordinator uses it.
    pub fn read(path: &Path) -> Result<Vec<Record>, JournalError> {
        let read = std::fs::read(path);
        let bytes = read.map_err(|source| {
            let (what, path) = ("reading", path.to_owned());
            JournalError::Io { what, path, source }
        })?;
        Ok(scan(path, &bytes)?.records)
    }

    /// Appends the records as one frame. They are durable when this returns.
    pub fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::Broken { path: self.file.path().to_owned() });
        }
        let payload = serde_json::to_vec(records).expect("records are plain data");
        if payload.len() > FRAME_BYTES_MAX {
            return Err(JournalError::TooLong { bytes: payload.len() });
        }
        let frame = encode(&self.chain, &payload);
        // Whatever fails from here on leaves the end of the file unknown.
        self.broken = true;
        self.reserve(frame.len() as u64)?;
        let fail = |what: &'static str| {
            let path = self.file.path().to_owned();
            move |source| JournalError::Io { what, path, source }
        };
        self.file.write_all_at(&frame, self.end).map_err(fail("writing"))?;
        self.file.sync().map_err(fail("syncing"))?;
        self.end += frame.len() as u64;
        self.chain = link(&frame);
        self.broken = false;
        Ok(())
    }

    /// Keeps zeros ahead of the end. On a full disk it fails only when not even `bytes` fit.
    fn reserve(&mut self, bytes: u64) -> Result<(), JournalError> {
        if self.reserved >= self.end + bytes + RESERVE_BYTES / 2 {
            return Ok(());
        }
        let zeros = vec![0; (bytes + RESERVE_BYTES) as usize];
        let from = self.reserved.max(self.end);
        let grown = self.file.write_all_at(&zeros, from).and_then(|()| self.file.sync());
        match grown {
            Ok(()) => self.reserved = from + zeros.len() as u64,
            Err(error) if is_full(&error) && self.reserved >= self.end + bytes => {}
            Err(source) => {
                let (what, path) = ("extending", self.file.path().to_owned());
                return Err(JournalError::Io { what, path, source });
            }
        }
        Ok(())
    }
}

/// No room, as against a disk that fails.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn encode(chain: &Chain, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_le_bytes().to_vec();
    frame.extend([0; 4]);
    frame.extend(chain);
    frame.extend(payload);
    let crc = checksum(&frame);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}

/// Over the length and all that follows the checksum.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

fn link(bytes: &[u8]) -> Chain {
    let mut chain = Chain::default();
    chain.copy_from_slice(&Sha256::digest(bytes)[..16]);
    chain
}

struct Scan {
    records: Vec<Record>,
    /// Where the last whole frame starts; the end of `MAGIC` without any.
    last: u64,
    end: u64,
    chain: Chain,
    torn_bytes: Option<u64>,
}

fn scan(path: &Path, bytes: &[u8]) -> Result<Scan, JournalError> {
    if !bytes.starts_with(MAGIC) {
        return Err(JournalError::Foreign { path: path.to_owned() });
    }
    let damaged = |offset: usize, what: &'static str| JournalError::Damaged {
        path: path.to_owned(),
        offset: offset as u64,
        what,
    };
    let (mut records, mut chain) = (Vec::new(), link(MAGIC));
    let (mut last, mut at) = (MAGIC.len(), MAGIC.len());
    while let Some(frame) = whole_frame(&bytes[at..]) {
        if frame[8..HEAD] != chain {
            return Err(damaged(at, "a frame that does not continue the one before it"));
        }
        let Ok(mut found) = serde_json::from_slice::<Vec<Record>>(&frame[HEAD..]) else {
            return Err(damaged(at, "a record of another version"));
        };
        records.append(&mut found);
        chain = link(frame);
        (last, at) = (at, at + frame.len());
    }
    let rest = &bytes[at..];
    let written = rest.iter().rposition(|&byte| byte != 0).map(|last| last as u64 + 1);
    // Before a frame is written, all earlier ones are on disk: an unreadable frame that others follow was not torn.
    if written.is_some() && (1..rest.len()).any(|later| whole_frame(&rest[later..]).is_some()) {
        return Err(damaged(at, "more of it"));
    }
    let (last, end) = (last as u64, at as u64);
    Ok(Scan { records, last, end, chain, torn_bytes: written })
}

/// The frame at the start of `bytes`, if it is complete and its checksum holds.
fn whole_frame(bytes: &[u8]) -> Option<&[u8]> {
    let len = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if len == 0 || len > FRAME_BYTES_MAX {
        return None;
    }
    let frame = bytes.get(..HEAD + len)?;
    let crc = u32::from_le_bytes(frame[4..8].try_into().ok()?);
    (crc == checksum(frame)).then_some(frame)
}

const MAGIC: &[u8] = b"resnet-cluster journal 1\n";
/// Bytes of a frame before its payload.
const HEAD: usize = 24;
/// A submitted job with its class names is the longest record; a batch of them must fit.
const FRAME_BYTES_MAX: usize = 16 << 20;
/// Room for about 1,500 committed steps after the disk has run full.
const RESERVE_BYTES: u64 = 256 << 10;

#[cfg(test)]
mod crashes;
#[cfg(test)]
mod tests;
