//! A training state on its way from the members that hold it to those that don't, over the connections of a new generation
//! and before its first frame. Every holder sends one part of each buffer, so that many share the work. Knows no model: a
//! state is a row of buffers that all members have in the same order.
//!
//! Holders and receivers go through each other in rising rank order, so no ring of waiting peers can come about.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::handshake::is_timeout;
use super::{Abort, CollectiveError, Group};

/// What is handed over, and by whom.
#[derive(Debug)]
pub struct Handover<'a> {
    /// Ranks that hold the state, rising; at least one.
    pub holders: &'a [u32],
    /// Read by holders, filled by the others.
    pub buffers: Vec<&'a mut [f32]>,
}

/// Carries the state over; returns when this rank has sent, or received and checked, all of its parts.
pub(super) fn run(
    handover: Handover<'_>,
    sockets: &[Option<TcpStream>],
    group: &Group,
    abort: &Abort,
) -> Result<(), CollectiveError> {
    let Handover { holders, mut buffers } = handover;
    let own = group.rank as u32;
    let line = |rank: u32| Line {
        socket: sockets[rank as usize].as_ref().expect("every other rank has a connection"),
        peer: &group.peers[rank as usize].name,
        abort,
        heard: Instant::now(),
    };
    match holders.iter().position(|holder| *holder == own) {
        Some(number) => {
            let lacking = (0..group.peers.len() as u32).filter(|rank| !holders.contains(rank));
            for rank in lacking {
                let mut line = line(rank);
                line.begin()?;
                for buffer in &buffers {
                    let part = part(buffer.len(), number, holders.len());
                    for values in buffer[part].chunks(CHUNK_LEN) {
                        line.send(bytemuck::cast_slice(values))?;
                    }
                }
            }
        }
        None => {
            for (number, &rank) in holders.iter().enumerate() {
                let mut line = line(rank);
                line.begin()?;
                for buffer in &mut buffers {
                    let part = part(buffer.len(), number, holders.len());
                    for values in buffer[part].chunks_mut(CHUNK_LEN) {
                        line.receive(bytemuck::cast_slice_mut(values))?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// What the `number`-th of `holders` sends of a buffer.
fn part(len: usize, number: usize, holders: usize) -> Range<usize> {
    len * number / holders..len * (number + 1) / holders
}

/// One connection, used in one direction.
struct Line<'a> {
    socket: &'a TcpStream,
    peer: &'a str,
    abort: &'a Abort,
    /// When the peer last took or gave something.
    heard: Instant,
}

impl Line<'_> {
    /// From now on the socket looks up often enough to see an abort.
    fn begin(&mut self) -> Result<(), CollectiveError> {
        let set = self.socket.set_read_timeout(Some(LOOK_UP));
        set.and_then(|()| self.socket.set_write_timeout(Some(LOOK_UP)))
            .map_err(|error| self.lost(&error.to_string()))
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), CollectiveError> {
        self.write(&crc32fast::hash(payload).to_le_bytes())?;
        self.write(payload)
    }

    fn receive(&mut self, payload: &mut [u8]) -> Result<(), CollectiveError> {
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

/// Values that share a checksum: 1 MiB.
const CHUNK_LEN: usize = 1 << 18;
/// A socket's wait before it looks whether the generation was given up.
const LOOK_UP: Duration = Duration::from_millis(50);
/// A peer that moves nothing for so long is given up. It may have to wait for others to be served.
const SILENCE_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::super::{Peer, Transport};
    use super::*;
    use std::net::TcpListener;

    fn group(rank: usize, world: usize) -> Group {
        let peer = |rank| Peer {
            name: format!("w{rank}"),
            address: String::new(),
            first_slice: rank as u32,
            slice_count: 1,
        };
        Group {
            first_step: 1,
            transport: Transport::Tcp,
            job: "job".to_owned(),
            generation: 2,
            rank,
            peers: (0..world).map(peer).collect(),
            slices: 4,
            key: [0; 32],
            bucket_lens: vec![1],
            timeout: Duration::from_secs(5),
        }
    }

    /// A connection between each two of `world` ranks.
    fn mesh(world: usize) -> Vec<Vec<Option<TcpStream>>> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sockets: Vec<Vec<Option<TcpStream>>> =
            (0..world).map(|_| (0..world).map(|_| None).collect()).collect();
        let pairs = (0..world).flat_map(|a| (0..a).map(move |b| (a, b)));
        for (a, b) in pairs {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (far, _) = listener.accept().unwrap();
            (sockets[a][b], sockets[b][a]) = (Some(near), Some(far));
        }
        sockets
    }

    #[test]
    fn everybody_ends_with_the_holders_state() {
        let world = 4;
        let holders = [1, 3];
        let state: Vec<f32> = (0..3 * CHUNK_LEN + 7).map(|i| i as f32).collect();
        let small = [1.5f32];
        let threads: Vec<_> = mesh(world)
            .into_iter()
            .enumerate()
            .map(|(rank, sockets)| {
                let holds = holders.contains(&(rank as u32));
                let mut big = if holds { state.clone() } else { vec![0.0; state.len()] };
                let mut little = if holds { small } else { [0.0] };
                std::thread::spawn(move || {
                    let buffers = vec![&mut big[..], &mut little[..]];
                    let handover = Handover { holders: &holders, buffers };
                    run(handover, &sockets, &group(rank, world), &Abort::new()).unwrap();
                    (big, little)
                })
            })
            .collect();
        for thread in threads {
            let (big, little) = thread.join().unwrap();
            assert!(big == state && little == small);
        }
    }

    #[test]
    fn a_holder_that_dies_is_named_and_an_abort_ends_the_wait() {
        let mut sockets = mesh(2);
        let mine = sockets.remove(0);
        drop(sockets);
        let mut state = [0.0f32; 9];
        let handover = Handover { holders: &[1], buffers: vec![&mut state[..]] };
        let error = run(handover, &mine, &group(0, 2), &Abort::new()).unwrap_err();
        assert_eq!(error.culprit(), Some("w1"), "{error}");

        let sockets = mesh(2);
        let abort = Abort::new();
        abort.abort("enough");
        let handover = Handover { holders: &[1], buffers: vec![&mut state[..]] };
        let error = run(handover, &sockets[0], &group(0, 2), &abort).unwrap_err();
        assert!(matches!(error, CollectiveError::Aborted { .. }), "{error}");
    }
}
