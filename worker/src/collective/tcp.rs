//! The trainer's side of the exchange between processes: tells the engine of its partials and waits for the sums. Touches
//! no socket and blocks on nothing but the engine, which always answers.

use std::fmt;
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use kernels::Buffer;

use super::buffer::Pool;
use super::calls::Calls;
use super::engine::{Engine, Event};
use super::gather::{Gather, Place};
use super::handover::{self, Way};
use super::layout::Layout;
use super::link::{Link, LinkContext};
use super::memory::{Reserve, Shelf};
use super::mesh::{self, Limits};
use super::{Abort, Collective, CollectiveError, Group, Handover, Listener, Transport};

/// The exchange of one generation between processes.
pub struct TcpExchange {
    layout: Arc<Layout>,
    shelf: Arc<Shelf>,
    /// Until the trainer takes them.
    slots: Vec<Buffer>,
    sum: Buffer,
    calls: Calls,
    events: SyncSender<Event>,
    /// Buckets whose sums are there.
    summed: Receiver<usize>,
    /// By bucket: its sum is there.
    ready: Vec<bool>,
    failure: Arc<OnceLock<CollectiveError>>,
    /// `None` after `shutdown`.
    engine: Option<JoinHandle<Result<(), CollectiveError>>>,
}

impl TcpExchange {
    /// Connects to all other members of the group; returns when every connection stands, or fails within a minute, naming
    /// who is missing. Then carries the state from those who hold it to those who don't.
    pub fn connect(
        (listener, reserve): (&Listener, &mut Reserve),
        group: Group,
        abort: Abort,
        state: Option<Handover<'_>>,
    ) -> Result<TcpExchange, CollectiveError> {
        let layout = Arc::new(Layout::new(&group)?);
        let sockets = mesh::form(listener, &group, &abort, Limits::STANDARD)?;
        tracing::debug!("connected to all members");
        let (world, memory_len) = (layout.world(), layout.vectors(layout.rank).memory_len());
        let shelf = match group.transport {
            Transport::Fastest => Shelf::new(world, memory_len, reserve),
            Transport::Tcp => Shelf::private(world, memory_len),
        };
        if let Some(state) = state {
            let (group, abort) = (&group, &abort);
            handover::run(state, &Way { sockets: &sockets, group, abort, shelf: &shelf })?;
            tracing::debug!("the state is handed over");
        }
        start(layout, group, abort, (sockets, shelf))
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
    fn slots(&mut self) -> Vec<Buffer> {
        std::mem::take(&mut self.slots)
    }

    fn reduce(&mut self, step: u64, bucket: usize) -> Result<(), CollectiveError> {
        self.check()?;
        self.calls.reduce(step, bucket);
        self.ready[bucket] = false;
        self.events.send(Event::Contribution { step, bucket }).map_err(|_| self.failed())
    }

    fn wait(&mut self, step: u64, bucket: usize) -> Result<&[f32], CollectiveError> {
        self.check()?;
        self.calls.wait(step, bucket);
        self.summed.try_iter().for_each(|bucket| self.ready[bucket] = true);
        if !self.ready[bucket] {
            self.events.send(Event::Waiting { bucket }).map_err(|_| self.failed())?;
        }
        while !self.ready[bucket] {
            let summed = self.summed.recv().map_err(|_| self.failed())?;
            self.ready[summed] = true;
        }
        let place = Place { from: self.layout.rank, step, bucket, offset: 0 };
        let at = self.layout.position(place, None);
        Ok(self.shelf.memory().values(at, self.layout.bucket_len(bucket)))
    }

    fn sum(&self) -> &Buffer {
        assert!(self.calls.is_complete(), "the sum is whole after a complete step");
        &self.sum
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
    (sockets, shelf): (Vec<Option<TcpStream>>, Shelf),
) -> Result<TcpExchange, CollectiveError> {
    let threads = |error: std::io::Error| CollectiveError::Threads { cause: error.to_string() };
    let world = layout.world();
    let messages = layout.messages_of_step();
    // One step's messages: then `reduce` returns without waiting for the engine. Peers may be a step ahead; their
    // readers wait for room, which the engine makes whatever its peers do.
    let (events, received) = mpsc::sync_channel(messages + CONTROL_EVENTS_MAX * world);
    let (summed, ready) = mpsc::sync_channel(layout.buckets());
    let pool = Pool::new(messages);
    let vectors = layout.vectors(layout.rank);
    let shelf = Arc::new(shelf);
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
        gather: Gather::new(Arc::clone(&layout), group.first_step),
        layout: Arc::clone(&layout),
        generation: group.generation,
        names: group.peers.into_iter().map(|peer| peer.name).collect(),
        shelf: Arc::clone(&shelf),
        timeout: group.timeout,
        abort,
        links,
        events: received,
        summed,
        failure: Arc::clone(&failure),
        awaited: None,
        heard: vec![Instant::now(); world],
        left: vec![false; world],
    };
    let thread = thread::Builder::new().name("exchange-engine".to_owned());
    Ok(TcpExchange {
        calls: Calls::new(layout.buckets()),
        slots: vectors.slots().map(|span| shelf.memory().buffer(span)).collect(),
        sum: shelf.memory().buffer(vectors.sum()),
        ready: vec![false; layout.buckets()],
        engine: Some(thread.spawn(move || engine.run()).map_err(threads)?),
        layout,
        shelf,
        events,
        summed: ready,
        failure,
    })
}

/// Events of a connection besides data: what its reader and its writer say at their ends.
const CONTROL_EVENTS_MAX: usize = 4;
