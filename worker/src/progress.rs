//! What the training thread is doing, for heartbeats: written by one thread, read by another, never waited for.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use proto::wire::v1::Phase;

#[derive(Debug, Default)]
pub struct Progress {
    step: AtomicU64,
    phase: AtomicI32,
}

impl Progress {
    /// Newest applied step.
    pub fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    /// The step being worked on; 0 while preparing or without a job.
    pub fn current_step(&self) -> u64 {
        match self.phase() {
            Phase::Idle | Phase::Prepare => 0,
            // These follow the step they belong to.
            Phase::Evaluate | Phase::Checkpoint => self.step(),
            Phase::Compute | Phase::Exchange => self.step() + 1,
        }
    }

    pub fn phase(&self) -> Phase {
        Phase::try_from(self.phase.load(Ordering::Relaxed)).unwrap_or(Phase::Idle)
    }

    pub fn applied(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as i32, Ordering::Relaxed);
    }
}
