//! Reads ahead: one thread that prepares the slices of this worker in the order in which it computes them, out of samples
//! that decode threads make where that takes time.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::batch::{Batch, Quarantined, Source};
use super::lanes::Lanes;

/// Batches of a worker's slices, step after step, endlessly.
#[derive(Debug)]
pub struct Loader {
    current: Batch,
    batches: Option<Receiver<Batch>>,
    /// A batch that was used goes back: the next one is made in its memory.
    used: SyncSender<Batch>,
    thread: Option<JoinHandle<()>>,
}

/// Which part of the stream a worker reads.
#[derive(Clone, Debug)]
pub struct Share {
    /// First step, counted from 1.
    pub first_step: u64,
    /// Samples of a step, over all workers.
    pub batch: u64,
    /// Samples of a slice.
    pub slice_len: u64,
    /// This worker's slices.
    pub slices: Range<u64>,
}

impl Share {
    /// Positions of one slice of one step.
    pub fn positions(&self, step: u64, slice: u64) -> Range<u64> {
        let start = (step - 1) * self.batch + slice * self.slice_len;
        start..start + self.slice_len
    }

    /// Position of the `number`-th sample that this worker computes.
    fn position(&self, number: u64) -> u64 {
        let of_step = (self.slices.end - self.slices.start) * self.slice_len;
        let first = self.positions(self.first_step + number / of_step, self.slices.start).start;
        first + number % of_step
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    #[error("read the next slice: the loader thread ended early")]
    Ended,
    #[error("read the next slice: {}, which the dataset lists, {cause}", .path.display())]
    Unreadable { path: PathBuf, cause: String },
}

impl Loader {
    /// Starts to read.
    pub fn start(source: Source, share: Share) -> std::io::Result<Loader> {
        let (sender, receiver) = sync_channel(PREFETCH_SLICES);
        let (used, spare) = sync_channel(PREFETCH_SLICES);
        let positions = share.clone();
        let lanes = source.clone().train_lanes(move |number| positions.position(number))?;
        let thread = std::thread::Builder::new()
            .name("loader".to_owned())
            .spawn(move || read_ahead(lanes, &source, &share, &Ends { sender, spare }))?;
        let current = Batch::default();
        Ok(Loader { current, batches: Some(receiver), used, thread: Some(thread) })
    }

    /// The next slice, in the place of the last.
    pub fn next_batch(&mut self) -> Result<&mut Batch, LoaderError> {
        // Before the thread can look for one. If it has ended, there is nobody to use it.
        self.used.try_send(std::mem::take(&mut self.current)).ok();
        let batch = self.batches.as_ref().and_then(|batches| batches.recv().ok());
        self.current = batch.ok_or(LoaderError::Ended)?;
        match self.current.unreadable.take() {
            Some(Quarantined { path, cause, .. }) => Err(LoaderError::Unreadable { path, cause }),
            None => Ok(&mut self.current),
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Without a receiver the thread's next send fails, which ends it.
        self.batches = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the loader thread panicked");
        }
    }
}

/// What the thread has of the channels.
struct Ends {
    sender: SyncSender<Batch>,
    spare: Receiver<Batch>,
}

fn read_ahead(mut lanes: Lanes, source: &Source, share: &Share, ends: &Ends) {
    let mut read = 0;
    loop {
        let mut slice = ends.spare.try_recv().unwrap_or_default();
        lanes.next_batch(share.slice_len as usize, &mut slice);
        // A short slice is what a decode thread that panicked leaves.
        if slice.labels.len() < share.slice_len as usize {
            return;
        }
        slice.replace_quarantined();
        source.mix(share.position(read), &mut slice);
        read += share.slice_len;
        if ends.sender.send(slice).is_err() {
            return;
        }
    }
}

/// Slices ready and waiting. Preparing one is far cheaper than computing it, so a few even out every hiccup.
const PREFETCH_SLICES: usize = 4;
