//! What outlives the coordinator's process: journal, metrics, sealed checkpoints.

use coordinator::core::{CheckpointEntry, Record};

#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) journal: Vec<Record>,
    /// Steps with a published metric, in file order.
    pub(crate) metrics: Vec<u64>,
    /// Oldest first.
    pub(crate) checkpoints: Vec<CheckpointEntry>,
}

impl Disk {
    pub(crate) fn last_metric(&self) -> u64 {
        self.metrics.last().copied().unwrap_or(0)
    }

    pub(crate) fn cut_metrics(&mut self, step: u64) {
        self.metrics.retain(|&published| published <= step);
    }

    pub(crate) fn keep_checkpoint(&mut self, entry: CheckpointEntry) {
        self.checkpoints.retain(|other| other.step != entry.step);
        self.checkpoints.push(entry);
        self.checkpoints.sort_by_key(|entry| entry.step);
    }
}
