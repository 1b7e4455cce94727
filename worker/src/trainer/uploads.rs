//! The training thread's way to the uploader: a short queue, at which training waits for a checkpoint that is being sent, but
//! for no coordinator that is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Permit, Receiver, Sender, channel};

use super::GenerationError;
use crate::checkpoint::Snapshot;
use crate::collective::Abort;

/// What goes to the uploader, in this order.
#[derive(Debug)]
pub enum Upload {
    Checkpoint {
        snapshot: Box<Snapshot>,
        /// It is the state that the generation ends with.
        last: bool,
    },
    /// Report `finished` once everything before is uploaded.
    Finished { step: u64 },
    /// The coordinator was away: the last state of all may have to be uploaded once more.
    Again,
}

/// The training thread's end of the queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Uploads {
    queue: Sender<Upload>,
    stall: Stall,
}

/// Whether checkpoints get through: no longer, once one has not, until one has.
#[derive(Clone, Debug, Default)]
pub struct Stall(Arc<AtomicBool>);

impl Stall {
    pub fn set(&self, stalled: bool) {
        self.0.store(stalled, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Uploads {
    /// The uploader takes from the queue, and says in `stall` whether it gets through.
    pub fn new(stall: Stall) -> (Uploads, Receiver<Upload>) {
        let (queue, receiver) = channel(UPLOAD_QUEUE);
        (Uploads { queue, stall }, receiver)
    }

    /// Asks for the last state once more. A full queue holds a newer one.
    pub fn again(&self) {
        match self.queue.try_send(Upload::Again) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {}
        }
    }

    /// Room for one upload, before a snapshot is taken for it. What must be sent waits until there is some, or the generation
    /// is abandoned. Any other checkpoint is left out, with `None`, when earlier ones don't get through: the next one will be
    /// as good, and the peers wait in the next step's exchange.
    pub(super) fn room(
        &self,
        abort: &Abort,
        must: bool,
    ) -> Result<Option<Permit<'_, Upload>>, GenerationError> {
        let since = Instant::now();
        loop {
            match self.queue.try_reserve() {
                Ok(room) => return Ok(Some(room)),
                Err(TrySendError::Closed(())) => return Err(GenerationError::SessionEnded),
                Err(TrySendError::Full(())) => {}
            }
            if abort.is_aborted() {
                return Err(GenerationError::Abandoned);
            }
            if !must && since.elapsed() > UPLOAD_PATIENCE {
                self.stall.set(true);
            }
            if !must && self.stall.is_set() {
                tracing::warn!("earlier checkpoints are still on their way: this one is left out");
                return Ok(None);
            }
            std::thread::sleep(UPLOAD_POLL);
        }
    }
}

/// Snapshots waiting while one is on its way.
const UPLOAD_QUEUE: usize = 1;
/// How long the training thread waits for one on its way, once: far less than peers wait for this worker.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(5);
const UPLOAD_POLL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_waits_for_no_coordinator_that_is_away_but_with_the_last_state() {
        let (stall, abort) = (Stall::default(), Abort::new());
        let (uploads, mut queue) = Uploads::new(stall.clone());
        let room = |must: bool| uploads.room(&abort, must).map(|room| room.is_some());
        uploads.room(&abort, false).unwrap().unwrap().send(Upload::Finished { step: 1 });
        stall.set(true);
        assert!(!room(false).unwrap());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| room(true).unwrap());
            // There is no telling that it waits; it gets room in any case.
            assert!(matches!(queue.blocking_recv(), Some(Upload::Finished { step: 1 })));
            assert!(waiting.join().unwrap());
        });
        assert!(room(false).unwrap(), "there is room, whoever is away");
        uploads.again();
        abort.abort("it is over");
        assert!(matches!(room(true), Err(GenerationError::Abandoned)));
        drop(queue);
        assert!(matches!(room(true), Err(GenerationError::SessionEnded)));
    }
}
