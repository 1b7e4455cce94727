//! How a generation's exchange ends: in good order, or with a verdict that every member is told so that all name the
//! same worker. Continues `engine`, and knows no more than it.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::CollectiveError;
use super::engine::{Engine, Event};
use super::frame::{Header, Kind, NOBODY, Verdict};
use super::link::{Link, Outgoing, Payload};

/// The end of a generation: for the trainer an error, for the peers who accuses whom of what.
pub(super) struct Failure {
    error: CollectiveError,
    accuser: u32,
    culprit: u32,
    cause: String,
}

impl Engine {
    /// Sends what is queued and a `Bye`, then closes.
    pub(super) fn finish(mut self) -> Result<(), CollectiveError> {
        for link in self.links.iter_mut().flatten() {
            let header = Header::control(Kind::Bye, self.generation, 0);
            // A full queue shows in the result of the writer.
            drop(link.send(Outgoing { header, payload: Payload::Bytes(Vec::new()) }));
            link.finish();
        }
        let result = self.flush();
        // All sums are here, so nothing unread is lost with the sockets but a peer's own goodbye.
        self.close();
        result
    }

    /// Waits until the writers have sent everything. Where one can't, the peer must have left: then it has everything.
    fn flush(&mut self) -> Result<(), CollectiveError> {
        let mut unwritten: Vec<usize> = self.layout.others().collect();
        let mut broken = vec![false; self.layout.world()];
        let deadline = Instant::now() + self.timeout;
        while let Some(&first) = unwritten.first() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(event) = self.events.recv_timeout(left) else {
                return Err(self.lost(first, "it did not take the last sums").error);
            };
            if self.abort.is_aborted() {
                return Err(self.aborted().error);
            }
            match event {
                Event::Left { peer } => self.left[peer] = true,
                Event::Written { peer, result: Ok(()), .. } => {
                    unwritten.retain(|rank| *rank != peer);
                }
                Event::Written { peer, result: Err(cause), stalled: true } if !self.left[peer] => {
                    return Err(self.lost(peer, &cause).error);
                }
                // The reader of this connection tells next whether the peer left.
                Event::Written { peer, .. } => broken[peer] = true,
                Event::Lost { peer, cause } | Event::BadFrame { peer, what: cause }
                    if unwritten.contains(&peer) =>
                {
                    return Err(self.lost(peer, &cause).error);
                }
                Event::Poisoned { from, verdict } => {
                    return Err(self.poisoned(from, verdict).error);
                }
                _ => {}
            }
            // Not on a goodbye alone: our own may still be on its way to a peer that waits for it.
            unwritten.retain(|rank| !(broken[*rank] && self.left[*rank]));
        }
        Ok(())
    }

    /// Releases the trainer, tells every peer why, and closes.
    pub(super) fn give_up(mut self, failure: Failure) -> CollectiveError {
        let Failure { error, accuser, culprit, cause } = failure;
        tracing::debug!(%error, "the exchange ends");
        // The trainer's wait ends here: the error first, then the end of the queue that makes it look for it.
        self.failure.get_or_init(|| error.clone());
        let (closed, _) = mpsc::sync_channel(0);
        self.summed = closed;

        let payload = Verdict { accuser, culprit, cause }.encode();
        let header = Header::control(Kind::Poison, self.generation, payload.len() as u32);
        for link in self.links.iter_mut().flatten() {
            link.hurry();
            drop(link.send(Outgoing { header, payload: Payload::Bytes(payload.clone()) }));
            link.finish();
        }
        // The culprit is told as well, if it still listens, but not waited for.
        let waited_for = |rank: &usize| *rank as u32 != culprit;
        let mut unwritten: Vec<usize> = self.layout.others().filter(waited_for).collect();
        let deadline = Instant::now() + POISON_LIMIT;
        while !unwritten.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Written { peer, .. }) => unwritten.retain(|rank| *rank != peer),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        self.close();
        error
    }

    fn close(self) {
        let Engine { events, links, .. } = self;
        // Threads that wait for room in the events' queue are let go before they are waited for.
        drop(events);
        links.into_iter().flatten().for_each(Link::close);
    }

    pub(super) fn lost(&self, peer: usize, cause: &str) -> Failure {
        let (step, bucket) = self.place();
        let name = self.names[peer].clone();
        let error = CollectiveError::PeerLost { peer: name, step, bucket, cause: cause.to_owned() };
        self.accuse(peer, error, cause.to_owned())
    }

    pub(super) fn silent(
        &self,
        bucket: usize,
        peer: usize,
        silence: Duration,
        limit: Duration,
    ) -> Failure {
        let (step, _) = self.place();
        let name = self.names[peer].clone();
        let error = CollectiveError::PeerSilent { peer: name, step, bucket, silence, limit };
        self.accuse(peer, error, format!("silent for {silence:?}, limit {limit:?}"))
    }

    pub(super) fn bad_frame(&self, peer: usize, what: String) -> Failure {
        let name = self.names[peer].clone();
        let cause = format!("sent a frame that can't be used: {what}");
        self.accuse(peer, CollectiveError::BadFrame { peer: name, what }, cause)
    }

    fn accuse(&self, culprit: usize, error: CollectiveError, cause: String) -> Failure {
        Failure { error, accuser: self.layout.rank as u32, culprit: culprit as u32, cause }
    }

    /// Another worker ended the generation. It is passed on as it came, so that all name the same worker.
    pub(super) fn poisoned(&self, from: usize, verdict: Verdict) -> Failure {
        let Verdict { accuser, culprit, cause } = verdict;
        let name = |rank: u32| self.names.get(rank as usize).map_or("?", String::as_str);
        if culprit == NOBODY {
            let reason = format!("worker {} gave it up: {cause}", self.names[from]);
            let error = CollectiveError::Aborted { reason };
            return Failure { error, accuser, culprit, cause };
        }
        // The edge is between accuser and culprit; this worker names the end of it that is not itself.
        let (blamed, told) = if culprit as usize == self.layout.rank {
            (accuser, format!("it gave this worker up: {cause}"))
        } else if culprit == accuser {
            (culprit, format!("it gave up: {cause}"))
        } else {
            (culprit, format!("reported by worker {}: {cause}", name(accuser)))
        };
        // Ranks that do not exist are the messenger's own fault.
        let blamed = Some(blamed as usize)
            .filter(|rank| *rank < self.names.len() && *rank != self.layout.rank)
            .unwrap_or(from);
        Failure { error: self.lost(blamed, &told).error, accuser, culprit, cause }
    }

    pub(super) fn aborted(&self) -> Failure {
        let reason = self.abort.reason().unwrap_or_default().to_owned();
        let error = CollectiveError::Aborted { reason: reason.clone() };
        Failure { error, accuser: self.layout.rank as u32, culprit: NOBODY, cause: reason }
    }

    /// The trainer dropped the exchange: its own trouble, which the peers are told of.
    pub(super) fn gave_up(&self) -> Failure {
        let reason = "its training stopped".to_owned();
        let error = CollectiveError::Aborted { reason: reason.clone() };
        self.accuse(self.layout.rank, error, reason)
    }

    /// Step and bucket to name in an error.
    fn place(&self) -> (u64, usize) {
        let awaited = self.awaited.map(|awaited| awaited.bucket);
        let bucket = awaited.or_else(|| self.gather.first_incomplete()).unwrap_or(0);
        (self.gather.current().unwrap_or(0), bucket)
    }
}

/// For telling peers that a generation is lost. They always read, so it takes milliseconds; whoever does not is not worth
/// delaying the next generation for.
const POISON_LIMIT: Duration = Duration::from_millis(500);
