//! Checkpoints: which are on disk, which the coordinator knows of, which have to stay, and when one is owed.

use std::collections::{BTreeMap, BTreeSet};

use coordinator::core::{CheckpointEntry, Formation, SealOrder};

use super::{Check, Checker, Invariant, ensure};

#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// Whole on disk.
    on_disk: BTreeSet<u64>,
    /// On record as kept.
    recorded: BTreeMap<u64, CheckpointEntry>,
    /// Being written.
    ordered: BTreeSet<u64>,
}

impl Shelf {
    pub(super) fn newest_on_disk(&self) -> u64 {
        self.on_disk.last().copied().unwrap_or(0)
    }

    pub(super) fn booted(&mut self) {
        self.ordered.clear();
    }

    pub(super) fn recorded(&mut self, entry: &CheckpointEntry) {
        self.recorded.insert(entry.step, entry.clone());
    }

    /// The job goes back to the newest of these. Returns its step.
    pub(super) fn resumed(
        &mut self,
        checkpoints: &[CheckpointEntry],
    ) -> Result<u64, super::Violation> {
        let newest = checkpoints.last().map_or(0, |entry| entry.step);
        let on_disk = self.newest_on_disk();
        ensure(Invariant::I8, newest == on_disk, || {
            format!(
                "the job went back to step {newest}, but the checkpoint of step {on_disk} is on disk"
            )
        })?;
        self.recorded = checkpoints.iter().map(|entry| (entry.step, entry.clone())).collect();
        Ok(newest)
    }

    /// The newest ones as many as asked for, and the best.
    fn owed(&self, keep: usize) -> BTreeSet<u64> {
        let accuracy = |entry: &CheckpointEntry| {
            entry.evaluation.map(|found| found.correct as f64 / found.samples as f64)
        };
        let best = self.recorded.values().filter(|entry| entry.evaluation.is_some());
        let best = best.max_by(|a, b| accuracy(a).partial_cmp(&accuracy(b)).expect("finite"));
        let newest = self.recorded.keys().rev().take(keep).copied();
        newest.chain(best.map(|entry| entry.step)).collect()
    }
}

impl Checker {
    /// The checkpoint of this step is to be made final.
    pub(crate) fn ordered(&mut self, order: &SealOrder) -> Check {
        let (step, generation) = (order.step, order.generation.0);
        ensure(Invariant::I4, step <= self.watermark, || {
            format!("the checkpoint of step {step} is made final, which is not committed")
        })?;
        ensure(Invariant::I7, generation == self.generation, || {
            format!(
                "the checkpoint of step {step} comes from generation {generation}, which is over"
            )
        })?;
        self.shelf.ordered.insert(step);
        Ok(())
    }

    /// A checkpoint is whole on disk.
    pub(crate) fn sealed(&mut self, entry: &CheckpointEntry) -> Check {
        self.shelf.on_disk.insert(entry.step);
        self.is_true(entry.step, &entry.digest, "a checkpoint")
    }

    /// Older checkpoints than the newest of these are removed unless they are among them.
    pub(crate) fn retained(&mut self, kept: &[u64]) -> Check {
        let had = !self.shelf.on_disk.is_empty();
        let keep = self.submission.spec.job.checkpoint.keep as usize;
        let missing = self.shelf.owed(keep).into_iter().find(|step| !kept.contains(step));
        ensure(Invariant::I8, missing.is_none(), || {
            format!("of the checkpoints to be kept that of step {missing:?} goes")
        })?;
        let newest = kept.iter().max().copied().unwrap_or(0);
        self.shelf.on_disk.retain(|step| *step > newest || kept.contains(step));
        self.shelf.recorded.retain(|step, _| kept.contains(step));
        ensure(Invariant::I8, !had || !self.shelf.on_disk.is_empty(), || {
            "the last checkpoint was removed".to_owned()
        })
    }

    /// A generation that begins after a checkpoint was lost makes another one.
    pub(super) fn owes_no_checkpoint(&self, formation: &Formation) -> Check {
        let base = formation.base.step;
        let Some(due) = (1..=base).rev().find(|&step| self.timeline.checkpoints_after(step)) else {
            return Ok(());
        };
        let newest =
            self.shelf.ordered.last().copied().unwrap_or(0).max(self.shelf.newest_on_disk());
        ensure(Invariant::I8, newest >= due || formation.redo.checkpoint, || {
            format!(
                "generation {} starts from step {base} and makes no checkpoint, that of step {due} was lost",
                formation.generation
            )
        })
    }
}
