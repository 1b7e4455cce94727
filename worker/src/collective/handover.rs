//! A training state on its way from the members that hold it to those that don't, over the connections of a new generation
//! and before its first frame. Every holder sends one part of each buffer, so that many share the work. To a member of its own
//! machine it sends none, but shows where in its memory for gradients, which nobody needs yet, it has put its parts. Knows no
//! model: a state is a row of buffers that all members have in the same order.
//!
//! Holders and receivers go through each other in rising rank order, so no ring of waiting peers can come about.

mod line;

use std::net::TcpStream;
use std::ops::Range;

use super::memory::{Offer, Shelf};
use super::{Abort, CollectiveError, Group};
use line::Line;

/// What is handed over, and by whom.
#[derive(Debug)]
pub struct Handover<'a> {
    /// Ranks that hold the state, rising; at least one.
    pub holders: &'a [u32],
    /// Read by holders, filled by the others.
    pub buffers: Vec<&'a mut [f32]>,
}

/// Where it goes.
pub(super) struct Way<'a> {
    /// By rank; `None` at this one's.
    pub(super) sockets: &'a [Option<TcpStream>],
    pub(super) group: &'a Group,
    pub(super) abort: &'a Abort,
    /// The memory for gradients, which is not in use yet.
    pub(super) shelf: &'a Shelf,
}

/// Carries the state over; returns when this rank has sent, or received and checked, all of its parts.
pub(super) fn run(handover: Handover<'_>, way: &Way<'_>) -> Result<(), CollectiveError> {
    let Handover { holders, buffers } = handover;
    match holders.iter().position(|holder| *holder == way.group.rank as u32) {
        Some(number) => {
            let parts = buffers.iter().map(|buffer| {
                let part = part(buffer.len(), number, holders.len());
                &buffer[part]
            });
            hand_out(holders, &parts.collect::<Vec<_>>(), way)
        }
        None => take_in(holders, buffers, way),
    }
}

/// This holder's parts go to all who lack them.
fn hand_out(holders: &[u32], parts: &[&[f32]], way: &Way<'_>) -> Result<(), CollectiveError> {
    let lacking: Vec<u32> =
        (0..way.group.peers.len() as u32).filter(|rank| !holders.contains(rank)).collect();
    let near = |rank: &u32| way.line(*rank).is_local();
    let shown = if lacking.iter().any(near) { show(way.shelf, parts) } else { None };
    for rank in lacking {
        let mut line = way.line(rank);
        line.begin()?;
        if line.offer(shown.filter(|_| near(&rank)))? {
            line.wait_until_copied()?;
            continue;
        }
        for values in parts.iter().flat_map(|part| part.chunks(CHUNK_LEN)) {
            line.send(bytemuck::cast_slice(values))?;
        }
    }
    Ok(())
}

/// Puts the parts where others of this machine find them, one behind the other, if there is room.
fn show(shelf: &Shelf, parts: &[&[f32]]) -> Option<Offer> {
    let offer = shelf.offer()?;
    let (mut at, end) =
        (Shelf::START, Shelf::START + parts.iter().map(|part| part.len()).sum::<usize>());
    if end > shelf.memory().capacity() {
        return None;
    }
    for part in parts {
        shelf.memory().write(at, part.len(), |into| into.copy_from_slice(part));
        at += part.len();
    }
    Some(offer)
}

/// Fills the buffers with the parts of all holders.
fn take_in(
    holders: &[u32],
    mut buffers: Vec<&mut [f32]>,
    way: &Way<'_>,
) -> Result<(), CollectiveError> {
    for (number, &rank) in holders.iter().enumerate() {
        let mut line = way.line(rank);
        line.begin()?;
        let parts = buffers.iter_mut().map(|buffer| {
            let part = part(buffer.len(), number, holders.len());
            &mut buffer[part]
        });
        let mut parts: Vec<&mut [f32]> = parts.collect();
        let end = Shelf::START + parts.iter().map(|part| part.len()).sum::<usize>();
        if let Some(memory) = line.accept(end)? {
            let mut at = Shelf::START;
            for part in &mut parts {
                part.copy_from_slice(memory.values(at, part.len()));
                at += part.len();
            }
            line.say_copied()?;
            continue;
        }
        for values in parts.into_iter().flat_map(|part| part.chunks_mut(CHUNK_LEN)) {
            line.receive(bytemuck::cast_slice_mut(values))?;
        }
    }
    Ok(())
}

impl<'a> Way<'a> {
    fn line(&self, rank: u32) -> Line<'a> {
        let socket = self.sockets[rank as usize].as_ref();
        let socket = socket.expect("every other rank has a connection");
        Line::new(socket, &self.group.peers[rank as usize].name, self.abort)
    }
}

/// What the `number`-th of `holders` sends of a buffer.
fn part(len: usize, number: usize, holders: usize) -> Range<usize> {
    len * number / holders..len * (number + 1) / holders
}

/// Values that share a checksum: 1 MiB.
const CHUNK_LEN: usize = 1 << 18;

#[cfg(test)]
mod tests {
    use super::super::memory::Reserve;
    use super::super::{Peer, Transport};
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;

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
        // Through sockets, through memory, and some this way, some that.
        for rooms in [[0; 4], [4 * CHUNK_LEN; 4], [0, 4 * CHUNK_LEN, 0, 100]] {
            hands_over(rooms);
        }
    }

    /// Each of four members has memory for so many gradients.
    fn hands_over(rooms: [usize; 4]) {
        let world = rooms.len();
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
                    let shelf = match rooms[rank] {
                        0 => Shelf::private(world, 1),
                        room => Shelf::new(world, room, &mut Reserve::default()),
                    };
                    let (group, abort) = (&group(rank, world), &Abort::new());
                    run(handover, &Way { sockets: &sockets, group, abort, shelf: &shelf }).unwrap();
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
        let (group, shelf) = (&group(0, 2), &Shelf::private(2, 1));
        let receive = |sockets: &[Option<TcpStream>], abort: &Abort| {
            let mut state = [0.0f32; 9];
            let handover = Handover { holders: &[1], buffers: vec![&mut state[..]] };
            run(handover, &Way { sockets, group, abort, shelf }).unwrap_err()
        };
        let error = receive(&mine, &Abort::new());
        assert_eq!(error.culprit(), Some("w1"), "{error}");

        let sockets = mesh(2);
        let abort = Abort::new();
        abort.abort("enough");
        let error = receive(&sockets[0], &abort);
        assert!(matches!(error, CollectiveError::Aborted { .. }), "{error}");
    }
}
