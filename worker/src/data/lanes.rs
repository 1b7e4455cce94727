//! A list of samples, made ahead by several threads and handed out in order.
//!
//! Thread `t` of `n` makes samples t, t + n, t + 2n, ... and has a bounded channel of its own; the
//! reader takes from one channel after another. So order needs no bookkeeping, no thread waits for
//! another while its channel has room, and what lies ready is bounded.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use dataset::{Preparation, Preparer};

use super::batch::{Batch, Tag};

/// Makes the sample of this number: appends its pixels and returns the rest; `None` behind the end.
type Make = dyn FnMut(u64, &mut Preparer, &mut Vec<u8>) -> Option<Tag> + Send;

/// The samples that are still to come.
pub struct Lanes {
    number: u64,
    /// Makes the samples of a list without threads.
    make: Box<Make>,
    preparer: Preparer,
    lanes: Vec<Lane>,
    threads: Vec<JoinHandle<()>>,
}

/// The reader's ends of a thread's channels.
struct Lane {
    samples: Receiver<(Vec<u8>, Tag)>,
    /// Pixels that were copied go back: the next ones are made in their memory.
    used: SyncSender<Vec<u8>>,
}

/// The thread's ends of them.
struct Ends {
    sender: SyncSender<(Vec<u8>, Tag)>,
    spare: Receiver<Vec<u8>>,
}

impl Lanes {
    /// With 0 threads, samples are made when they are asked for.
    pub(super) fn start(
        preparation: Preparation,
        threads: usize,
        make: impl FnMut(u64, &mut Preparer, &mut Vec<u8>) -> Option<Tag> + Clone + Send + 'static,
    ) -> std::io::Result<Lanes> {
        let mut lanes = Lanes {
            number: 0,
            make: Box::new(make.clone()),
            preparer: Preparer::new(preparation),
            lanes: Vec::new(),
            threads: Vec::new(),
        };
        for first in 0..threads {
            let (sender, samples) = sync_channel(PREFETCH_SAMPLES);
            let (used, spare) = sync_channel(PREFETCH_SAMPLES);
            let (make, preparer) = (make.clone(), Preparer::new(preparation));
            let thread = std::thread::Builder::new().name(format!("decode-{first}"));
            let numbers = (first as u64..).step_by(threads);
            let thread =
                thread.spawn(move || fill(numbers, make, preparer, &Ends { sender, spare }))?;
            lanes.threads.push(thread);
            lanes.lanes.push(Lane { samples, used });
        }
        Ok(lanes)
    }

    /// Puts the next `len` samples, or as many as are left, in the place of what is in `batch`. False when none is left.
    pub fn next_batch(&mut self, len: usize, batch: &mut Batch) -> bool {
        batch.clear();
        for _ in 0..len {
            let Some(tag) = self.next_into(&mut batch.pixels) else { break };
            if batch.labels.is_empty() {
                // All samples have the size of the first.
                batch.pixels.reserve_exact(batch.pixels.len() * (len - 1));
            }
            batch.add(tag);
        }
        !batch.labels.is_empty()
    }

    fn next_into(&mut self, pixels: &mut Vec<u8>) -> Option<Tag> {
        let number = self.number;
        self.number += 1;
        if self.lanes.is_empty() {
            return (self.make)(number, &mut self.preparer, pixels);
        }
        let lane = &self.lanes[(number % self.lanes.len() as u64) as usize];
        let (sample, tag) = lane.samples.recv().ok()?;
        pixels.extend_from_slice(&sample);
        // The thread may have ended.
        lane.used.try_send(sample).ok();
        Some(tag)
    }
}

/// Until the list ends, or nobody reads it any more.
fn fill(
    numbers: impl Iterator<Item = u64>,
    mut make: impl FnMut(u64, &mut Preparer, &mut Vec<u8>) -> Option<Tag>,
    mut preparer: Preparer,
    ends: &Ends,
) {
    for number in numbers {
        let mut pixels = ends.spare.try_recv().unwrap_or_default();
        pixels.clear();
        let Some(tag) = make(number, &mut preparer, &mut pixels) else { return };
        if ends.sender.send((pixels, tag)).is_err() {
            return;
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // Without a receiver a thread's next send fails, which ends it.
        self.lanes.clear();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a decode thread panicked");
            }
        }
    }
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (number, threads) = (self.number, self.threads.len());
        f.debug_struct("Lanes").field("number", &number).field("threads", &threads).finish()
    }
}

/// Samples ready and waiting in each thread's channel: enough to even out that some images take
/// several times as long as others.
const PREFETCH_SAMPLES: usize = 8;

#[cfg(test)]
mod tests;
