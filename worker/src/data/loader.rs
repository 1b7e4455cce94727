//! Reads ahead: one thread that prepares the slices of this worker in the order in which it computes them.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::batch::{Batch, Source};

/// Batches of a worker's slices, step after step, endlessly.
#[derive(Debug)]
pub struct Loader {
    batches: Option<Receiver<Batch>>,
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
}

#[derive(Debug, thiserror::Error)]
#[error("read the next slice: the loader thread ended early")]
pub struct LoaderError;

impl Loader {
    /// Starts to read.
    pub fn start(source: Source, share: Share) -> std::io::Result<Loader> {
        let (sender, receiver) = sync_channel(PREFETCH_SLICES);
        let thread = std::thread::Builder::new()
            .name("loader".to_owned())
            .spawn(move || read_ahead(&source, &share, &sender))?;
        Ok(Loader { batches: Some(receiver), thread: Some(thread) })
    }

    /// The next slice.
    pub fn next_batch(&mut self) -> Result<Batch, LoaderError> {
        self.batches.as_ref().and_then(|batches| batches.recv().ok()).ok_or(LoaderError)
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

fn read_ahead(source: &Source, share: &Share, sender: &SyncSender<Batch>) {
    for step in share.first_step.. {
        for slice in share.slices.clone() {
            if sender.send(source.train(share.positions(step, slice))).is_err() {
                return;
            }
        }
    }
}

/// Slices ready and waiting. Preparing one is far cheaper than computing it, so a few even out every hiccup.
const PREFETCH_SLICES: usize = 4;
