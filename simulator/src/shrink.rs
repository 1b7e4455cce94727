//! From a run that fails to a short one that fails by the same promise: faults are left out, halves of them first, then ever
//! smaller parts, then single ones (delta debugging: Zeller and Hildebrandt, IEEE TSE 28(2), 2002); then workers and epochs.

use crate::checker::{Invariant, Violation};
use crate::faults::Schedule;
use crate::world::{Plan, replay};

/// A run that fails, as small as it was made.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub plan: Plan,
    pub schedule: Schedule,
    pub violation: Violation,
}

impl Failure {
    /// Still fails when some of the faults, workers or epochs are left out? Then without them, as often as that goes on.
    pub fn shrink(mut self) -> Failure {
        self.plan.trace = false;
        // What happens after the violation doesn't matter.
        let at = self.violation.at;
        self.tries(|failure| failure.schedule.0.retain(|mishap| mishap.at <= at));
        loop {
            let before = (self.schedule.clone(), self.plan);
            self.leave_out_faults();
            while self.plan.fewer > 0 && self.tries(|failure| failure.plan.fewer -= 1) {}
            while self.plan.workers > 1 + self.plan.fewer
                && self.tries(|failure| failure.plan.workers -= 1)
            {}
            while self.plan.epochs > 1 && self.tries(|failure| failure.plan.epochs /= 2) {}
            if before == (self.schedule.clone(), self.plan) {
                return self;
            }
        }
    }

    /// Without halves, quarters, ... of the faults, until no single one can be left out.
    fn leave_out_faults(&mut self) {
        let mut size = self.schedule.0.len().div_ceil(2);
        while size > 0 {
            let mut start = 0;
            while start < self.schedule.0.len() {
                let end = (start + size).min(self.schedule.0.len());
                // What follows moves up into the place of what was left out.
                if !self.tries(|failure| drop(failure.schedule.0.drain(start..end))) {
                    start = end;
                }
            }
            size /= 2;
        }
    }

    /// Keeps the change if the run still fails by the same promise.
    fn tries(&mut self, change: impl FnOnce(&mut Failure)) -> bool {
        let mut smaller = self.clone();
        change(&mut smaller);
        let same = |violation: &Violation, invariant: Invariant| violation.invariant == invariant;
        match replay(smaller.seed, &smaller.plan, &smaller.schedule) {
            Err(violation) if same(&violation, self.violation.invariant) => {
                *self = Failure { violation, ..smaller };
                true
            }
            _ => false,
        }
    }
}
