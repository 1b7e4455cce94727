//! Which steps a job has, and what follows each: pure functions of the job and the training set's size.
//!
//! Step `s` (counted from 1) consumes positions `[(s-1)*B, s*B)` of the endless sample stream. Epochs of `N` samples
//! need not end where a step ends; what happens "after an epoch" happens after the step in which it ends.

use crate::job::{Job, TrainSize};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    train_len: u64,
    batch: u64,
    epochs: u64,
    checkpoint_every_epochs: u64,
}

impl Timeline {
    /// `train_len`: samples in the training set, at least 1.
    pub fn new(job: &Job, train_len: u64) -> Timeline {
        assert!(train_len > 0, "a training set has samples");
        Timeline {
            train_len,
            batch: job.train.batch as u64,
            epochs: u64::from(job.train.epochs),
            checkpoint_every_epochs: u64::from(job.checkpoint.every_epochs),
        }
    }

    /// Steps of the whole job: the last one completes the last epoch.
    pub fn total_steps(&self) -> u64 {
        (self.epochs * self.train_len).div_ceil(self.batch)
    }

    /// Epochs completed after `step` steps.
    pub fn epochs_done(&self, step: u64) -> u64 {
        step * self.batch / self.train_len
    }

    /// Epochs after `step` steps, with fraction: what schedules are written in.
    pub fn epochs_at(&self, step: u64) -> f64 {
        (step * self.batch) as f64 / self.train_len as f64
    }

    /// The step that consumes a position.
    pub fn step_of(&self, position: u64) -> u64 {
        position / self.batch + 1
    }

    /// Side of all training images of `step`, where the job says one: that of the epoch in which the step's first position
    /// lies. So a step that straddles two epochs has the size of the first.
    pub fn train_size(&self, sizes: &[TrainSize], step: u64) -> Option<usize> {
        let epoch = self.epochs_done(step - 1);
        sizes.iter().rfind(|from| u64::from(from.epoch) <= epoch).map(|from| from.size)
    }

    /// An epoch ends in this step.
    pub fn evaluates_after(&self, step: u64) -> bool {
        step > 0 && self.epochs_done(step) > self.epochs_done(step - 1)
    }

    /// The state after this step is kept.
    pub fn checkpoints_after(&self, step: u64) -> bool {
        let due = |step: u64| self.epochs_done(step) / self.checkpoint_every_epochs;
        step > 0 && (due(step) > due(step - 1) || step == self.total_steps())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(train_len: u64, batch: u64, epochs: u64, every: u64) -> Timeline {
        Timeline { train_len, batch, epochs, checkpoint_every_epochs: every }
    }

    #[test]
    fn every_epoch_is_evaluated_once_and_the_last_step_completes_the_last_epoch() {
        for (train_len, batch, epochs) in
            [(1437, 64, 20), (64, 64, 3), (100, 7, 5), (5, 64, 40), (1, 1, 1)]
        {
            let t = timeline(train_len, batch, epochs, 1);
            let total = t.total_steps();
            assert!(t.epochs_done(total) >= epochs && t.epochs_done(total - 1) < epochs);
            assert!(t.evaluates_after(total));
            let evaluations = (0..=total).filter(|&s| t.evaluates_after(s)).count() as u64;
            assert_eq!(evaluations, epochs.min(total), "{train_len} {batch} {epochs}");
        }
    }

    #[test]
    fn a_step_has_the_size_of_the_epoch_of_its_first_position() {
        let t = timeline(10, 4, 4, 1);
        let sizes = [(0, 32), (1, 48), (3, 64)].map(|(epoch, size)| TrainSize { epoch, size });
        let found: Vec<usize> =
            (1..=t.total_steps()).map(|step| t.train_size(&sizes, step).unwrap()).collect();
        // First positions are 0, 4, 8, 12, ... and epochs 1 and 3 start at 10 and 30.
        assert_eq!(found, [32, 32, 32, 48, 48, 48, 48, 48, 64, 64]);
        assert_eq!(t.train_size(&[], 1), None);
        for position in 0..40 {
            let first = 4 * (t.step_of(position) - 1);
            assert!((first..first + 4).contains(&position));
        }
    }

    #[test]
    fn checkpoints_come_every_nth_epoch_and_at_the_end() {
        let t = timeline(10, 5, 5, 2);
        let steps: Vec<u64> = (0..=t.total_steps()).filter(|&s| t.checkpoints_after(s)).collect();
        assert_eq!(steps, [4, 8, 10]);
    }
}
