//! How two workers make sure of each other before the first frame: both prove that they hold the generation's key
//! without sending it, each over a nonce of the other. Knows one connection; `mesh` knows which are needed.
//!
//! The dialer speaks first: hello, hello, dialer's proof, accepter's proof. So nobody is given a proof who has not given
//! one, and the dialer knows from the last message that it was accepted. Frames after it are not authenticated: the key
//! keeps strangers and strays out, it does not stop somebody who can change bytes on the wire.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::Group;

/// What a member needs to open or accept connections of its generation.
#[derive(Clone)]
pub(super) struct Pass {
    pub(super) generation: u64,
    pub(super) rank: u32,
    pub(super) world: u32,
    /// SHA-256 of the job's name, so that what is hashed below has a fixed length.
    job: [u8; 32],
    key: [u8; 32],
}

/// A dialer's claim, not yet proved.
#[derive(Clone, Copy, Debug)]
pub struct Hello {
    pub(super) generation: u64,
    pub(super) from: u32,
    to: u32,
    nonce: [u8; NONCE_LEN],
}

#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It may work the next time: the other side is not there yet, or busy.
    #[error("{0}")]
    Broken(#[from] io::Error),
    /// It will not work: the other side is somebody else.
    #[error("{0}")]
    Refused(String),
}

/// A socket that may be used until a moment, however slowly the other side drips its bytes.
pub(super) struct Timed<'a> {
    pub(super) socket: &'a TcpStream,
    pub(super) deadline: Instant,
}

impl Pass {
    pub(super) fn new(group: &Group) -> Pass {
        Pass {
            generation: group.generation,
            rank: group.rank as u32,
            world: group.peers.len() as u32,
            job: Sha256::digest(&group.job).into(),
            key: group.key,
        }
    }

    /// The dialer's side, on a fresh connection to rank `to`.
    pub(super) fn dial(&self, mut line: Timed<'_>, to: u32) -> Result<(), HandshakeError> {
        let mine = Hello { generation: self.generation, from: self.rank, to, nonce: nonce()? };
        line.send(&mine.encode())?;
        let theirs = line.receive_hello()?;
        if (theirs.generation, theirs.from, theirs.to) != (self.generation, to, self.rank) {
            return Err(HandshakeError::Refused(format!(
                "it answered as rank {} of generation {}",
                theirs.from, theirs.generation
            )));
        }
        line.send(&self.proof(DIALER, &mine, &theirs))?;
        // It has seen our proof. If it hangs up now, it holds another key.
        let proof = line.receive::<PROOF_LEN>().map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                HandshakeError::Refused("it refused the proof of the generation's key".to_owned())
            }
            _ => HandshakeError::Broken(error),
        })?;
        self.check(&proof, &self.proof(ACCEPTER, &mine, &theirs))
    }

    /// The accepter's side, after `receive_hello` and the decision that this pass is the one it asks for.
    pub(super) fn answer(&self, mut line: Timed<'_>, theirs: &Hello) -> Result<(), HandshakeError> {
        let expected = theirs.generation == self.generation
            && theirs.to == self.rank
            && (self.rank + 1..self.world).contains(&theirs.from);
        if !expected {
            return Err(HandshakeError::Refused(format!("it dials as {theirs:?}")));
        }
        let (generation, from) = (self.generation, self.rank);
        let mine = Hello { generation, from, to: theirs.from, nonce: nonce()? };
        line.send(&mine.encode())?;
        let proof = line.receive::<PROOF_LEN>()?;
        self.check(&proof, &self.proof(DIALER, theirs, &mine))?;
        line.send(&self.proof(ACCEPTER, theirs, &mine))?;
        Ok(())
    }

    /// Hashed twice: an inner hash alone could be continued by somebody without the key.
    fn proof(&self, role: &[u8; 8], dialer: &Hello, accepter: &Hello) -> [u8; PROOF_LEN] {
        let inner = Sha256::new()
            .chain_update(self.key)
            .chain_update(role)
            .chain_update(self.job)
            .chain_update(dialer.encode())
            .chain_update(accepter.encode())
            .finalize();
        Sha256::new().chain_update(self.key).chain_update(inner).finalize().into()
    }

    fn check(&self, proof: &[u8], expected: &[u8]) -> Result<(), HandshakeError> {
        if bool::from(proof.ct_eq(expected)) {
            return Ok(());
        }
        let cause = format!("it does not hold the key of generation {}", self.generation);
        Err(HandshakeError::Refused(cause))
    }
}

impl Hello {
    pub fn encode(&self) -> [u8; HELLO_LEN] {
        let mut bytes = [0; HELLO_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.from.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.to.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.generation.to_le_bytes());
        bytes[28..].copy_from_slice(&self.nonce);
        bytes
    }

    pub fn decode(bytes: &[u8; HELLO_LEN]) -> Result<Hello, HandshakeError> {
        let u32_at =
            |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|offset: usize| bytes[at + offset]));
        let (nonce, _) = bytes[28..].split_first_chunk().expect("a hello ends with its nonce");
        if bytes[..8] != MAGIC {
            return Err(HandshakeError::Refused("it is no worker".to_owned()));
        }
        if u32_at(8) != VERSION {
            let theirs = u32_at(8);
            let cause =
                format!("it speaks version {theirs} of the exchange, this worker {VERSION}");
            return Err(HandshakeError::Refused(cause));
        }
        let generation = u64::from(u32_at(20)) | u64::from(u32_at(24)) << 32;
        Ok(Hello { generation, from: u32_at(12), to: u32_at(16), nonce: *nonce })
    }
}

impl Timed<'_> {
    /// The first message on an accepted connection, or the answer to it.
    pub(super) fn receive_hello(&mut self) -> Result<Hello, HandshakeError> {
        // The magic first: whoever is no worker is told by its first bytes, not by sending too few of them.
        let mut bytes = [0; HELLO_LEN];
        bytes[..8].copy_from_slice(&self.receive::<8>()?);
        if bytes[..8] == MAGIC {
            bytes[8..].copy_from_slice(&self.receive::<{ HELLO_LEN - 8 }>()?);
        }
        Hello::decode(&bytes)
    }

    fn receive<const LEN: usize>(&mut self) -> io::Result<[u8; LEN]> {
        let mut bytes = [0; LEN];
        let mut filled = 0;
        while filled < LEN {
            self.socket.set_read_timeout(Some(self.left()?))?;
            match self.socket.read(&mut bytes[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if is_timeout(&error) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes)
    }

    /// A handshake's messages fit into any socket's buffer, so one timeout for the whole write does.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write_all(bytes)
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// A socket's own timeout ran out; platforms differ in how they say so.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn nonce() -> io::Result<[u8; NONCE_LEN]> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    Ok(nonce)
}

const MAGIC: [u8; 8] = *b"rxchange";
const VERSION: u32 = 3;
const NONCE_LEN: usize = 16;
pub const HELLO_LEN: usize = 44;
const PROOF_LEN: usize = 32;
/// Tell the two proofs of a handshake apart, so that one can't be sent back as the other.
const DIALER: &[u8; 8] = b"dialer  ";
const ACCEPTER: &[u8; 8] = b"accepter";
