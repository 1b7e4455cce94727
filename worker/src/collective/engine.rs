//! The thread that owns all state of one generation's exchange. Everything reaches it as an `Event`: the trainer's
//! calls, the readers' frames, failures. It never waits for anything but the next event, which is why nobody who
//! waits for it waits for long. Knows no socket (`link`) and not what the values mean.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::ending::Failure;
use super::frame::{Header, Kind, Verdict};
use super::gather::{Gather, Partial, Place};
use super::layout::Layout;
use super::link::{Link, Outgoing, Payload};
use super::memory::Shelf;
use super::stretch::{Region, Stretch};
use super::tree::NodeId;
use super::{Abort, CollectiveError};

pub(super) struct Engine {
    pub(super) layout: Arc<Layout>,
    pub(super) generation: u64,
    /// Workers' names by rank.
    pub(super) names: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) abort: Abort,
    /// By rank; `None` at this worker's own place.
    pub(super) links: Vec<Option<Link>>,
    pub(super) events: Receiver<Event>,
    /// Buckets whose sums are there.
    pub(super) summed: SyncSender<usize>,
    pub(super) failure: Arc<OnceLock<CollectiveError>>,
    pub(super) gather: Gather,
    pub(super) shelf: Arc<Shelf>,
    pub(super) awaited: Option<Awaited>,
    /// By rank: when the last frame came.
    pub(super) heard: Vec<Instant>,
    /// By rank: said goodbye.
    pub(super) left: Vec<bool>,
}

/// What the engine is told.
pub(super) enum Event {
    /// The trainer's partials of a bucket are in their places.
    Contribution {
        step: u64,
        bucket: usize,
    },
    /// The trainer waits for a bucket of the current step.
    Waiting {
        bucket: usize,
    },
    /// A segment of a peer's partial; `Layout::admit` let it in, as the next.
    Partial(Partial),
    /// A segment of the sum of a chunk.
    Sum {
        place: Place,
        values: Stretch,
    },
    /// The peer took the memory that it was offered, or offers its own and this worker could open it.
    Taken {
        from: usize,
    },
    Opened {
        from: usize,
    },
    Poisoned {
        from: usize,
        verdict: Verdict,
    },
    Left {
        peer: usize,
    },
    /// The connection broke.
    Lost {
        peer: usize,
        cause: String,
    },
    BadFrame {
        peer: usize,
        what: String,
    },
    /// A writer ended; `stalled` when the peer took no data for the timeout.
    Written {
        peer: usize,
        result: Result<(), String>,
        stalled: bool,
    },
    /// The trainer is done, after a complete step.
    Finish,
    /// The trainer gave up.
    GiveUp,
    /// `Abort` was used; it holds the reason.
    Aborted,
}

/// The bucket the trainer waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    pub(super) bucket: usize,
    since: Instant,
}

impl Engine {
    /// Runs the exchange to its end. The result is that of a `shutdown`.
    pub(super) fn run(mut self) -> Result<(), CollectiveError> {
        match self.exchange() {
            Ok(()) => self.finish(),
            Err(failure) => Err(self.give_up(failure)),
        }
    }

    fn exchange(&mut self) -> Result<(), Failure> {
        self.offer()?;
        loop {
            let event = self.next_event()?;
            if self.abort.is_aborted() {
                return Err(self.aborted());
            }
            match event {
                Event::Contribution { step, bucket } => self.contribute(step, bucket)?,
                Event::Waiting { bucket } if self.gather.is_complete(bucket) => {}
                Event::Waiting { bucket } => {
                    self.awaited = Some(Awaited { bucket, since: Instant::now() });
                }
                Event::Partial(partial) => {
                    self.heard[partial.place.from] = Instant::now();
                    self.add(partial)?;
                }
                Event::Sum { place, values } => self.sum(place, &values)?,
                Event::Taken { from } if self.shelf.taken_by(from) => {}
                Event::Taken { from } => {
                    return Err(self.bad_frame(from, "it took what was not offered".to_owned()));
                }
                Event::Opened { from } => {
                    let header = Header::control(Kind::Taken, self.generation, 0);
                    self.send(from, Outgoing { header, payload: Payload::Bytes(Vec::new()) })?;
                }
                Event::Poisoned { from, verdict } => return Err(self.poisoned(from, verdict)),
                Event::Left { peer } if self.gather.needs(peer) => {
                    return Err(self.lost(peer, "it left before the end of the step"));
                }
                Event::Left { peer } => self.left[peer] = true,
                Event::Lost { peer, cause } => return Err(self.lost(peer, &cause)),
                Event::BadFrame { peer, what } => return Err(self.bad_frame(peer, what)),
                Event::Written { peer, stalled: true, .. } => {
                    let cause = format!("it took no data for {:?}", self.timeout);
                    return Err(self.lost(peer, &cause));
                }
                // The reader of this connection says what happened.
                Event::Written { .. } => {}
                Event::Finish => return Ok(()),
                Event::GiveUp => return Err(self.gave_up()),
                Event::Aborted => {}
            }
        }
    }

    /// Tells the peers that may be on this machine where its partials lie. Those who can't open it do not answer.
    fn offer(&mut self) -> Result<(), Failure> {
        let Some(offer) = self.shelf.offer() else {
            return Ok(());
        };
        let payload = offer.encode();
        let header = Header::control(Kind::Offer, self.generation, payload.len() as u32);
        for (peer, link) in self.links.iter().enumerate() {
            if link.as_ref().is_some_and(Link::is_local) {
                self.send(peer, Outgoing { header, payload: Payload::Bytes(payload.clone()) })?;
            }
        }
        Ok(())
    }

    /// This worker's trainer begins a step, or goes on with it.
    fn enter(&mut self, step: u64) -> Result<(), Failure> {
        if self.gather.is_in(step) {
            return Ok(());
        }
        if let Some(peer) = self.left.iter().position(|left| *left) {
            return Err(self.lost(peer, &format!("it left before step {step}")));
        }
        self.gather.enter(step);
        Ok(())
    }

    /// Sends this worker's partials of a bucket to the owners of the chunks, and takes in those of its own chunk.
    fn contribute(&mut self, step: u64, bucket: usize) -> Result<(), Failure> {
        self.enter(step)?;
        let layout = Arc::clone(&self.layout);
        let (rank, world) = (layout.rank, layout.world());
        // Segment by segment over all owners, so that every peer has something to add from the start, and before adding
        // anything here. The order within an owner is the one that `Gather` expects.
        let longest = layout.others().map(|owner| layout.segments(bucket, owner)).max();
        for segment in 0..longest.unwrap_or(0) {
            for owner in (1..world).map(|distance| (rank + distance) % world) {
                if segment >= layout.segments(bucket, owner) {
                    continue;
                }
                let range = layout.segment(bucket, owner, segment);
                let place = Place { from: rank, step, bucket, offset: range.start };
                for &node in layout.nodes(rank) {
                    let payload = self.payload(owner, self.region(place, Some(node), range.len()));
                    let header = Header { node, ..self.header(Kind::Partial, place, &payload) };
                    self.send(owner, Outgoing { header, payload })?;
                }
            }
        }
        for segment in 0..layout.segments(bucket, rank) {
            let range = layout.segment(bucket, rank, segment);
            let place = Place { from: rank, step, bucket, offset: range.start };
            for &node in layout.nodes(rank) {
                let values = Stretch::Kept(self.region(place, Some(node), range.len()));
                self.add(Partial { place, node, values })?;
            }
        }
        Ok(())
    }

    /// A segment of the sum came from the owner of its chunk.
    fn sum(&mut self, place: Place, values: &Stretch) -> Result<(), Failure> {
        let from = place.from;
        self.heard[from] = Instant::now();
        self.gather.sum(place).map_err(|what| self.bad_frame(from, what))?;
        let values = values.values();
        let region = self.region(Place { from: self.layout.rank, ..place }, None, values.len());
        region.memory.write(region.at, region.len, |into| into.copy_from_slice(values));
        self.deliver(place.bucket);
        Ok(())
    }

    /// Takes in a partial of the own chunk, and sends the sum to everyone when it is complete.
    fn add(&mut self, partial: Partial) -> Result<(), Failure> {
        let (place, len) = (partial.place, partial.values.values().len());
        let whole =
            self.gather.partial(partial).map_err(|what| self.bad_frame(place.from, what))?;
        if !whole {
            return Ok(());
        }
        let place = Place { from: self.layout.rank, ..place };
        let region = self.region(place, None, len);
        region.memory.write(region.at, len, |into| self.gather.add_up(place, into));
        for peer in self.layout.others() {
            let payload = self.payload(peer, region.clone());
            let header = self.header(Kind::Sum, place, &payload);
            self.send(peer, Outgoing { header, payload })?;
        }
        let own = self.gather.sum(place);
        own.expect("sums of the own chunk complete in order, once");
        self.deliver(place.bucket);
        Ok(())
    }

    /// Where this worker has its partial of a node, or for `None` the sum.
    fn region(&self, place: Place, node: Option<NodeId>, len: usize) -> Region {
        let at = self.layout.position(place, node);
        Region { memory: Arc::clone(self.shelf.memory()), at, len }
    }

    fn payload(&self, peer: usize, region: Region) -> Payload {
        match self.shelf.is_read_by(peer) {
            true => Payload::Kept { len: region.len },
            false => Payload::Values(region),
        }
    }

    /// Something of the bucket's sum came to its place.
    fn deliver(&mut self, bucket: usize) {
        if !self.gather.is_complete(bucket) {
            return;
        }
        self.awaited.take_if(|awaited| awaited.bucket == bucket);
        // The queue holds all buckets of a step, and the trainer takes them before it begins the next. It is gone only
        // when the trainer is.
        self.summed.try_send(bucket).ok();
    }

    fn send(&self, peer: usize, frame: Outgoing) -> Result<(), Failure> {
        let link = self.links[peer].as_ref().expect("every other rank has a link");
        link.send(frame).map_err(|cause| self.lost(peer, &cause))
    }

    fn header(&self, kind: Kind, place: Place, payload: &Payload) -> Header {
        Header {
            step: place.step,
            bucket: place.bucket as u32,
            offset: place.offset as u64,
            kept: matches!(payload, Payload::Kept { .. }),
            ..Header::control(kind, self.generation, payload.len() as u32)
        }
    }

    /// Waits for an event; fails when a peer is silent for too long while the trainer waits.
    fn next_event(&mut self) -> Result<Event, Failure> {
        loop {
            let Some(awaited) = self.awaited else {
                return self.events.recv().map_err(|_| self.gave_up());
            };
            let (suspect, limit, deadline) = self.suspect(awaited);
            let pause = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(pause) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Disconnected) => return Err(self.gave_up()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if deadline.elapsed() > self.timeout / 2 {
                // This process itself was stopped or starved. What the peers sent meanwhile lies unread in the
                // sockets, so nobody is blamed before it could be read.
                tracing::debug!(late = ?deadline.elapsed(), "the exchange overslept");
                self.awaited = Some(Awaited { since: Instant::now(), ..awaited });
                continue;
            }
            let silence = self.heard[suspect].max(awaited.since).elapsed();
            return Err(self.silent(awaited.bucket, suspect, silence, limit));
        }
    }

    /// Who is to be given up next if nothing comes: rank, limit and moment.
    ///
    /// A missing partial is its sender's doing. A missing sum may be due to a third worker whose partial its owner
    /// lacks; that owner notices at about the same time as this worker, so it gets half a timeout more to say so.
    fn suspect(&self, awaited: Awaited) -> (usize, Duration, Instant) {
        let bucket = awaited.bucket;
        let moment = |rank: usize, limit| self.heard[rank].max(awaited.since) + limit;
        let first = |lacks: &dyn Fn(usize) -> bool, limit: Duration| {
            let ranks = self.layout.others().filter(|rank| lacks(*rank));
            ranks.map(|rank| (rank, limit, moment(rank, limit))).min_by_key(|found| found.2)
        };
        first(&|rank| self.gather.lacks_partial(bucket, rank), self.timeout)
            .or_else(|| first(&|rank| self.gather.lacks_sum(bucket, rank), self.timeout * 3 / 2))
            .expect("an incomplete bucket lacks something from another rank")
    }
}
