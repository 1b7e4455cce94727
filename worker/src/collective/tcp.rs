//! The trainer's side of the exchange over TCP: cuts buckets into segments for the engine and puts the sums together
//! again. Touches no socket and blocks on nothing but the engine, which always answers.

use std::collections::VecDeque;
use std::fmt;
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::buffer::Pool;
use super::calls::Calls;
use super::engine::{Engine, Event, Piece};
use super::gather::{Gather, Partial, Place};
use super::handover;
use super::layout::Layout;
use super::link::{Link, LinkContext, Payload};
use super::memory::Shelf;
use super::mesh::{self, Limits};
use super::stretch::{Region, Stretch};
use super::{Abort, Collective, CollectiveError, Group, Handover, Listener, NodeId, Transport};

/// The exchange of one generation between processes.
pub struct TcpExchange {
    layout: Arc<Layout>,
    pool: Pool,
    shelf: Arc<Shelf>,
    calls: Calls,
    events: SyncSender<Event>,
    pieces: Receiver<Piece>,
    /// By bucket: pieces that came while another bucket was waited for.
    early: Vec<VecDeque<Piece>>,
    failure: Arc<OnceLock<CollectiveError>>,
    /// `None` after `shutdown`.
    engine: Option<JoinHandle<Result<(), CollectiveError>>>,
}

impl TcpExchange {
    /// Connects to all other members of the group; returns when every connection stands, or fails within a minute, naming
    /// who is missing. Then carries the state from those who hold it to those who don't.
    pub fn connect(
        listener: &Listener,
        group: Group,
        abort: Abort,
        state: Option<Handover<'_>>,
    ) -> Result<TcpExchange, CollectiveError> {
        let layout = Arc::new(Layout::new(&group)?);
        let sockets = mesh::form(listener, &group, &abort, Limits::STANDARD)?;
        if let Some(state) = state {
            handover::run(state, &sockets, &group, &abort)?;
        }
        start(layout, group, abort, sockets)
    }

    #[cfg(test)]
    pub(super) fn rank(&self) -> usize {
        self.layout.rank
    }

    #[cfg(test)]
    pub(super) fn is_read_by(&self, peer: usize) -> bool {
        self.shelf.is_read_by(peer)
    }

    fn failed(&self) -> CollectiveError {
        self.failure.get().cloned().unwrap_or_else(|| CollectiveError::Threads {
            cause: "the exchange's own thread ended".to_owned(),
        })
    }

    fn check(&self) -> Result<(), CollectiveError> {
        self.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// A segment of an own partial on its way to the owner of its chunk. It is copied to where the owner adds it: shared
    /// memory, if the owner reads that or the sum is to be there.
    fn contribution(&self, owner: usize, place: Place, node: NodeId, values: &[f32]) -> Event {
        let (is_own, len) = (owner == place.from, values.len());
        let read = is_own || self.shelf.is_read_by(owner);
        let is_first = self.layout.nodes(place.from).first() == Some(&node);
        let values = match self.shelf.in_use().filter(|_| read && (!is_own || is_first)) {
            Some(memory) => {
                let at = self.layout.kept_at(place, (!is_own).then_some(node));
                memory.write(at, values);
                Stretch::Own(Region { memory: Arc::clone(memory), at, len })
            }
            None => {
                let mut copy = self.pool.take(len);
                copy.copy_from_slice(values);
                Stretch::Buffer(copy)
            }
        };
        if is_own {
            return Event::Contribution(Partial { place, node, values });
        }
        let payload = match values {
            Stretch::Own(_) => Payload::Kept { len },
            copy => Payload::Values(Arc::new(copy)),
        };
        Event::Send { owner, place, node, payload }
    }

    /// Ends the engine by this event and returns what came of it.
    fn end(&mut self, event: Event) -> Result<(), CollectiveError> {
        let Some(engine) = self.engine.take() else {
            return Ok(());
        };
        // An engine that ended by itself receives no more, and its result says why.
        drop(self.events.send(event));
        engine.join().unwrap_or_else(|_| Err(self.failed()))
    }
}

impl Collective for TcpExchange {
    fn reduce(
        &mut self,
        step: u64,
        bucket: usize,
        partials: &[(NodeId, &[f32])],
    ) -> Result<(), CollectiveError> {
        self.check()?;
        self.calls.reduce(step, bucket);
        let Layout { rank, .. } = *self.layout;
        let len = self.layout.bucket_len(bucket);
        assert!(
            partials.iter().map(|(node, _)| node).eq(self.layout.nodes(rank)),
            "partials are the subtrees of the own run"
        );
        assert!(partials.iter().all(|(_, values)| values.len() == len), "partials fill the bucket");

        // Segment by segment over all owners, so that every peer has something to add from the start. The order within
        // an owner is the one that `Gather` expects.
        let world = self.layout.world();
        let longest = (0..world).map(|owner| self.layout.segments(bucket, owner)).max();
        for segment in 0..longest.unwrap_or(0) {
            for owner in (1..=world).map(|distance| (rank + distance) % world) {
                if segment >= self.layout.segments(bucket, owner) {
                    continue;
                }
                let range = self.layout.segment(bucket, owner, segment);
                let place = Place { from: rank, step, bucket, offset: range.start };
                for (node, values) in partials {
                    let event = self.contribution(owner, place, *node, &values[range.clone()]);
                    self.events.send(event).map_err(|_| self.failed())?;
                }
            }
        }
        Ok(())
    }

    fn wait(&mut self, step: u64, bucket: usize, sum: &mut [f32]) -> Result<(), CollectiveError> {
        self.check()?;
        self.calls.wait(step, bucket);
        assert_eq!(sum.len(), self.layout.bucket_len(bucket), "the sum fills the bucket");
        self.events.send(Event::Waiting { bucket }).map_err(|_| self.failed())?;
        for _ in 0..self.layout.segments_of_bucket(bucket) {
            let piece = loop {
                if let Some(piece) = self.early[bucket].pop_front() {
                    break piece;
                }
                let piece = self.pieces.recv().map_err(|_| self.failed())?;
                self.early[piece.bucket].push_back(piece);
            };
            piece.values.read(0, &mut sum[piece.offset..][..piece.values.len()]);
        }
        Ok(())
    }

    fn shutdown(&mut self) -> Result<(), CollectiveError> {
        self.check()?;
        assert!(self.calls.is_complete(), "an exchange ends after a complete step");
        self.end(Event::Finish)
    }
}

impl Drop for TcpExchange {
    /// Without `shutdown` the peers are told that this worker gave up; takes as long as that, at most half a second.
    fn drop(&mut self) {
        if let Err(error) = self.end(Event::GiveUp) {
            tracing::debug!(%error, "the exchange was dropped");
        }
    }
}

impl fmt::Debug for TcpExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpExchange").field("layout", &self.layout).finish_non_exhaustive()
    }
}

/// Starts the threads of a generation whose connections stand.
fn start(
    layout: Arc<Layout>,
    group: Group,
    abort: Abort,
    sockets: Vec<Option<TcpStream>>,
) -> Result<TcpExchange, CollectiveError> {
    let threads = |error: std::io::Error| CollectiveError::Threads { cause: error.to_string() };
    let world = layout.world();
    let messages = layout.messages_of_step();
    // One step's messages: then `reduce` returns without waiting for the engine. Peers may be a step ahead; their
    // readers wait for room, which the engine makes whatever its peers do.
    let (events, received) = mpsc::sync_channel(messages + CONTROL_EVENTS_MAX * world);
    let (pieces, delivered) = mpsc::sync_channel(layout.segments_of_step());
    let pool = Pool::new(messages);
    let shelf = Arc::new(match group.transport {
        Transport::Fastest => Shelf::new(world, layout.kept_len(layout.rank)),
        Transport::Tcp => Shelf::none(world),
    });
    let mut links = Vec::with_capacity(world);
    for (peer, socket) in sockets.into_iter().enumerate() {
        let context = LinkContext {
            peer,
            generation: group.generation,
            timeout: group.timeout,
            layout: Arc::clone(&layout),
            pool: pool.clone(),
            events: events.clone(),
        };
        links.push(socket.map(|socket| Link::start(socket, context)).transpose().map_err(threads)?);
    }
    let failure = Arc::new(OnceLock::new());
    let wake = events.clone();
    // If there is no room the engine is awake, and looks for an abort at each event.
    abort.on_abort(move || drop(wake.try_send(Event::Aborted)));
    let engine = Engine {
        gather: Gather::new(Arc::clone(&layout), group.first_step, pool.clone()),
        layout: Arc::clone(&layout),
        generation: group.generation,
        names: group.peers.into_iter().map(|peer| peer.name).collect(),
        shelf: Arc::clone(&shelf),
        pool: pool.clone(),
        timeout: group.timeout,
        abort,
        links,
        events: received,
        pieces,
        failure: Arc::clone(&failure),
        awaited: None,
        heard: vec![Instant::now(); world],
        left: vec![false; world],
    };
    let thread = thread::Builder::new().name("exchange-engine".to_owned());
    Ok(TcpExchange {
        calls: Calls::new(layout.buckets()),
        early: (0..layout.buckets()).map(|_| VecDeque::new()).collect(),
        engine: Some(thread.spawn(move || engine.run()).map_err(threads)?),
        layout,
        pool,
        shelf,
        events,
        pieces: delivered,
        failure,
    })
}

/// Events of a connection besides data: what its reader and its writer say at their ends.
const CONTROL_EVENTS_MAX: usize = 4;
