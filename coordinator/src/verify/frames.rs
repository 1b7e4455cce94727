//! The journal's frames, one at a time, each proved to follow the one before: CRC-32 and hash chain, as `journal` describes
//! them, read by code of its own. Touches nothing, so that it may be used while a coordinator appends: a frame that is being
//! written is not there yet, and `next_frame` finds it later.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Where the reading stands.
#[derive(Debug)]
pub struct Frames {
    file: File,
    path: PathBuf,
    /// Where the next frame begins.
    at: u64,
    /// What it must say of the one before.
    link: [u8; LINK],
}

/// One append of the coordinator.
#[derive(Debug)]
pub struct Frame {
    /// Where it begins in the file.
    pub at: u64,
    /// A JSON array of records.
    pub payload: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("reading the journal {}: {source}; is --state the right folder?", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is no journal of this program; is --state the right folder?", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "the frame at byte {at} of the journal does not continue the one before it: a frame was removed, added or moved"
    )]
    Unlinked { at: u64 },
    #[error("the frame at byte {at} of the journal is damaged, and others follow it")]
    Damaged { at: u64 },
}

impl Frames {
    pub fn open(path: &Path) -> Result<Frames, FrameError> {
        let fail = |source| FrameError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        let mut magic = [0; MAGIC.len()];
        let read = file.read_exact_at(&mut magic, 0);
        if read.is_err() || magic != *MAGIC {
            return Err(FrameError::Foreign { path: path.to_owned() });
        }
        let (path, at) = (path.to_owned(), MAGIC.len() as u64);
        Ok(Frames { file, path, at, link: link(MAGIC) })
    }

    /// The next frame; `None` when no whole one follows, for now.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let at = self.at;
        let head = self.bytes(at, HEAD)?;
        let Some(len) = payload_len(&head) else { return Ok(None) };
        let bytes = self.bytes(at, HEAD + len)?;
        if !is_whole(&bytes) {
            return Ok(None);
        }
        if bytes[8..HEAD] != self.link {
            return Err(FrameError::Unlinked { at });
        }
        self.link = link(&bytes);
        self.at += bytes.len() as u64;
        Ok(Some(Frame { at, payload: bytes[HEAD..].to_vec() }))
    }

    /// After the last frame: the bytes of one that was torn, or is being written. An error when whole frames follow.
    pub fn torn_bytes(&self) -> Result<u64, FrameError> {
        // A frame that was torn is no longer than this, and so is what would follow one that was damaged.
        let rest = self.bytes(self.at, 2 * (HEAD + PAYLOAD_MAX))?;
        let whole = |from: usize| {
            let len = payload_len(&rest[from..]);
            len.and_then(|len| rest.get(from..from + HEAD + len)).is_some_and(is_whole)
        };
        if (1..rest.len()).any(whole) {
            return Err(FrameError::Damaged { at: self.at });
        }
        Ok(rest.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1))
    }

    /// Up to `len` bytes from `at` on; fewer at the end of the file.
    fn bytes(&self, at: u64, len: usize) -> Result<Vec<u8>, FrameError> {
        let fail = |source| FrameError::Io { path: self.path.clone(), source };
        let end = self.file.metadata().map_err(fail)?.len();
        let mut bytes = vec![0; len.min(end.saturating_sub(at) as usize)];
        self.file.read_exact_at(&mut bytes, at).map_err(fail)?;
        Ok(bytes)
    }
}

/// What the head of a frame says of its payload; `None` when there is no frame.
fn payload_len(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    (1..=PAYLOAD_MAX).contains(&len).then_some(len)
}

/// The checksum of a frame of the right length holds.
fn is_whole(frame: &[u8]) -> bool {
    if frame.len() < HEAD || Some(frame.len() - HEAD) != payload_len(frame) {
        return false;
    }
    let mut sum = crc32fast::Hasher::new();
    sum.update(&frame[..4]);
    sum.update(&frame[8..]);
    frame[4..8] == sum.finalize().to_le_bytes()
}

fn link(frame: &[u8]) -> [u8; LINK] {
    let mut link = [0; LINK];
    link.copy_from_slice(&Sha256::digest(frame)[..LINK]);
    link
}

const MAGIC: &[u8; 25] = b"resnet-cluster journal 1\n";
const LINK: usize = 16;
/// Length, checksum, link.
const HEAD: usize = 8 + LINK;
const PAYLOAD_MAX: usize = 16 << 20;
