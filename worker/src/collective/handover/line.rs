//! One connection while a state is handed over: bytes with a deadline, each chunk with a checksum, and what two of one machine
//! say to spare them. Knows no state.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use kernels::SharedMemory;

use super::super::handshake::is_timeout;
use super::super::link::is_local;
use super::super::memory::{OFFER_LEN, Offer};
use super::super::{Abort, CollectiveError};

/// One connection.
pub(super) struct Line<'a> {
    socket: &'a TcpStream,
    peer: &'a str,
    abort: &'a Abort,
    /// When the peer last took or gave something.
    heard: Instant,
}

impl<'a> Line<'a> {
    pub(super) fn new(socket: &'a TcpStream, peer: &'a str, abort: &'a Abort) -> Line<'a> {
        Line { socket, peer, abort, heard: Instant::now() }
    }

    /// The peer may be on this machine: both ends have the same address.
    pub(super) fn is_local(&self) -> bool {
        is_local(self.socket)
    }

    /// From now on the socket looks up often enough to see an abort.
    pub(super) fn begin(&mut self) -> Result<(), CollectiveError> {
        let set = self.socket.set_read_timeout(Some(LOOK_UP));
        set.and_then(|()| self.socket.set_write_timeout(Some(LOOK_UP)))
            .map_err(|error| self.lost(&error.to_string()))
    }

    /// Tells the peer where the parts lie that it lacks, or that they come through the socket; true when it can read them
    /// there.
    pub(super) fn offer(&mut self, offer: Option<Offer>) -> Result<bool, CollectiveError> {
        let Some(offer) = offer else {
            self.write(&[NO])?;
            return Ok(false);
        };
        self.write(&[&[YES], &offer.encode()[..]].concat())?;
        self.answer()
    }

    /// The memory of a holder in which its parts lie, the last of them before `end`; `None` when they come through the socket.
    pub(super) fn accept(&mut self, end: usize) -> Result<Option<SharedMemory>, CollectiveError> {
        if !self.answer()? {
            return Ok(None);
        }
        let mut offer = [0; OFFER_LEN];
        self.read(&mut offer)?;
        let memory = Offer::decode(&offer).and_then(|offer| offer.take(end));
        self.write(&[if memory.is_some() { YES } else { NO }])?;
        Ok(memory)
    }

    pub(super) fn say_copied(&mut self) -> Result<(), CollectiveError> {
        self.write(&[YES])
    }

    /// Until then the memory must stay as it is.
    pub(super) fn wait_until_copied(&mut self) -> Result<(), CollectiveError> {
        self.answer().map(drop)
    }

    fn answer(&mut self) -> Result<bool, CollectiveError> {
        let mut word = [0];
        self.read(&mut word)?;
        match word {
            [NO] => Ok(false),
            [YES] => Ok(true),
            [other] => {
                let what = format!("a {other} where a yes or no was due");
                Err(CollectiveError::BadFrame { peer: self.peer.to_owned(), what })
            }
        }
    }

    pub(super) fn send(&mut self, payload: &[u8]) -> Result<(), CollectiveError> {
        self.write(&crc32fast::hash(payload).to_le_bytes())?;
        self.write(payload)
    }

    pub(super) fn receive(&mut self, payload: &mut [u8]) -> Result<(), CollectiveError> {
        let mut crc = [0; 4];
        self.read(&mut crc)?;
        self.read(payload)?;
        if crc32fast::hash(payload) == u32::from_le_bytes(crc) {
            return Ok(());
        }
        let what = "a part of the state arrived with another checksum".to_owned();
        Err(CollectiveError::BadFrame { peer: self.peer.to_owned(), what })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), CollectiveError> {
        while !bytes.is_empty() {
            let mut socket = self.socket;
            let written = socket.write(bytes);
            bytes = &bytes[self.moved(written)?..];
        }
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        let mut filled = 0;
        while filled < bytes.len() {
            let mut socket = self.socket;
            let read = socket.read(&mut bytes[filled..]);
            filled += self.moved(read)?;
        }
        Ok(())
    }

    /// How far one call got; 0 when the peer only made us wait.
    fn moved(&mut self, result: io::Result<usize>) -> Result<usize, CollectiveError> {
        if let Some(reason) = self.abort.reason() {
            return Err(CollectiveError::Aborted { reason: reason.to_owned() });
        }
        match result {
            Ok(0) => Err(self.lost("connection closed")),
            Ok(count) => {
                self.heard = Instant::now();
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) if is_timeout(&error) && self.heard.elapsed() < SILENCE_MAX => Ok(0),
            Err(error) if is_timeout(&error) => {
                Err(self.lost(&format!("silent for {SILENCE_MAX:?}")))
            }
            Err(error) => Err(self.lost(&error.to_string())),
        }
    }

    fn lost(&self, cause: &str) -> CollectiveError {
        let cause = format!("while the state was handed over: {cause}");
        CollectiveError::PeerLost { peer: self.peer.to_owned(), step: 0, bucket: 0, cause }
    }
}

const NO: u8 = 0;
const YES: u8 = 1;
/// A socket's wait before it looks whether the generation was given up.
const LOOK_UP: Duration = Duration::from_millis(50);
/// A peer that moves nothing for so long is given up. It may have to wait for others to be served.
const SILENCE_MAX: Duration = Duration::from_secs(30);
