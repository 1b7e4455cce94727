//! The thread that owns all state of one generation's exchange. Everything reaches it as an `Event`: the trainer's
//! partials, the readers' frames, failures. It never waits for anything but the next event, which is why nobody who
//! waits for it waits for long. Knows no socket (`link`) and not what the values mean.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::buffer::Buffer;
use super::ending::Failure;
use super::frame::{Header, Kind, Verdict};
use super::gather::{Gather, Partial, Place};
use super::layout::Layout;
use super::link::{Link, Outgoing, Payload};
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
    pub(super) pieces: SyncSender<Piece>,
    pub(super) failure: Arc<OnceLock<CollectiveError>>,
    pub(super) gather: Gather,
    pub(super) awaited: Option<Awaited>,
    /// By rank: when the last frame came.
    pub(super) heard: Vec<Instant>,
    /// By rank: said goodbye.
    pub(super) left: Vec<bool>,
}

/// What the engine is told.
pub(super) enum Event {
    /// One segment of the trainer's own partial, for the chunk of `owner`.
    Contribution {
        owner: usize,
        partial: Partial,
    },
    /// The trainer waits for a bucket of the current step.
    Waiting {
        bucket: usize,
    },
    /// A data frame that `Layout::admit` let in.
    Received {
        from: usize,
        header: Header,
        values: Buffer,
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

/// One segment of a bucket's sum, on its way to the trainer.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bucket: usize,
    pub(super) offset: usize,
    pub(super) values: Arc<Buffer>,
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
        loop {
            let event = self.next_event()?;
            if self.abort.is_aborted() {
                return Err(self.aborted());
            }
            match event {
                Event::Contribution { owner, partial } => {
                    self.enter(partial.place.step)?;
                    self.contribute(owner, partial)?;
                }
                Event::Waiting { bucket } if self.gather.is_complete(bucket) => {}
                Event::Waiting { bucket } => {
                    self.awaited = Some(Awaited { bucket, since: Instant::now() });
                }
                Event::Received { from, header, values } => self.received(from, header, values)?,
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

    fn contribute(&mut self, owner: usize, partial: Partial) -> Result<(), Failure> {
        if owner == self.layout.rank {
            return self.add(partial);
        }
        let Partial { place, node, values } = partial;
        let header = Header { node, ..self.header(Kind::Partial, place, &values) };
        self.send(owner, Outgoing { header, payload: Payload::Values(Arc::new(values)) })
    }

    fn received(&mut self, from: usize, header: Header, values: Buffer) -> Result<(), Failure> {
        self.heard[from] = Instant::now();
        let (bucket, offset) = (header.bucket as usize, header.offset as usize);
        let place = Place { from, step: header.step, bucket, offset };
        if header.kind == Kind::Partial {
            return self.add(Partial { place, node: header.node, values });
        }
        self.gather.sum(place).map_err(|what| self.bad_frame(from, what))?;
        self.deliver(Piece { bucket, offset, values: Arc::new(values) });
        Ok(())
    }

    /// Adds a partial of the own chunk, and sends the sum to everyone when it is complete.
    fn add(&mut self, partial: Partial) -> Result<(), Failure> {
        let place = partial.place;
        let sum = self.gather.partial(partial).map_err(|what| self.bad_frame(place.from, what))?;
        let Some(sum) = sum else {
            return Ok(());
        };
        let header = self.header(Kind::Sum, place, &sum);
        let values = Arc::new(sum);
        for peer in self.layout.others() {
            self.send(peer, Outgoing { header, payload: Payload::Values(Arc::clone(&values)) })?;
        }
        let own = self.gather.sum(Place { from: self.layout.rank, ..place });
        own.expect("sums of the own chunk complete in order, once");
        self.deliver(Piece { bucket: place.bucket, offset: place.offset, values });
        Ok(())
    }

    fn deliver(&mut self, piece: Piece) {
        if self.awaited.is_some_and(|awaited| self.gather.is_complete(awaited.bucket)) {
            self.awaited = None;
        }
        // The queue holds all pieces of a step, and the trainer takes them before it begins the next. It is gone only
        // when the trainer is.
        drop(self.pieces.try_send(piece));
    }

    fn send(&self, peer: usize, frame: Outgoing) -> Result<(), Failure> {
        let link = self.links[peer].as_ref().expect("every other rank has a link");
        link.send(frame).map_err(|cause| self.lost(peer, &cause))
    }

    fn header(&self, kind: Kind, place: Place, values: &[f32]) -> Header {
        Header {
            step: place.step,
            bucket: place.bucket as u32,
            offset: place.offset as u64,
            ..Header::control(kind, self.generation, size_of_val(values) as u32)
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
