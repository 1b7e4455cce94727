//! How long each fault held the run up: from the fault to the next step on record that could not have been under way already.
//! And how long it stood still to take workers in. Pure: times are arguments.

use std::time::Duration;

use serde::Serialize;

use super::plan::Fault;
use super::watch::Seen;

/// A fault that was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Injected {
    pub fault: Fault,
    /// Since the storm began.
    pub at_ms: u64,
    /// A worker's name; none for the coordinator.
    pub victim: Option<String>,
    /// How long it was stopped, or away.
    pub length_ms: u64,
    /// The victim was needed for the step at hand: only then there is something to recover from.
    pub member: bool,
    /// No other fault was being recovered from.
    pub alone: bool,
    pub recovery_ms: Option<f64>,
}

/// All faults so far.
#[derive(Debug, Default)]
pub struct Recoveries {
    pub faults: Vec<Injected>,
    /// Milliseconds from the last step without a worker that came to the first one with it, that step's own time included.
    pub taken_in_ms: Vec<f64>,
    /// Milliseconds between steps of one generation, one after the other.
    pub step_ms: Vec<f64>,
    last_commit: Duration,
    last_generation: u64,
    /// A generation with such a worker.
    grown: Option<u64>,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    index: usize,
    since: Duration,
    until: Until,
}

/// What ends a recovery.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// A step of a newer generation: one without the victim.
    Generation { after: u64 },
    /// That, or a step that the victim was still needed for.
    Step { from: u64, after: u64 },
}

/// Where a run stands when a fault hits it.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub now: Duration,
    pub generation: u64,
    pub step: u64,
}

impl Recoveries {
    /// `settled` says that nothing else is out of order.
    pub fn inject(&mut self, standing: Standing, mut injected: Injected, settled: bool) {
        let Standing { now, generation, step } = standing;
        injected.alone &= settled && self.waiting.is_empty();
        for waiting in &self.waiting {
            self.faults[waiting.index].alone = false;
        }
        let until = match injected.fault {
            Fault::Kill | Fault::Leave => Until::Generation { after: generation },
            // The step after the newest on record may be complete, its report on its way; no later one is.
            Fault::Pause => Until::Step { from: step + 2, after: generation },
            Fault::Coordinator => Until::Step { from: step + 1, after: generation },
        };
        if injected.member {
            self.waiting.push(Waiting { index: self.faults.len(), since: now, until });
        }
        self.faults.push(injected);
    }

    pub fn take(&mut self, now: Duration, seen: &Seen) {
        let (generation, step) = match *seen {
            Seen::Committed { generation, step } => (generation, step),
            Seen::Formed { generation, grown } => {
                self.grown = grown.then_some(generation);
                return;
            }
            Seen::Ended(_) => return,
        };
        let gap = now.saturating_sub(std::mem::replace(&mut self.last_commit, now));
        let gap_ms = gap.as_secs_f64() * 1e3;
        if std::mem::replace(&mut self.last_generation, generation) == generation {
            self.step_ms.push(gap_ms);
        }
        if self.grown.take_if(|grown| *grown == generation).is_some() {
            self.taken_in_ms.push(gap_ms);
        }
        let faults = &mut self.faults;
        self.waiting.retain(|waiting| {
            let over = match waiting.until {
                Until::Generation { after } => generation > after,
                Until::Step { from, after } => generation > after || step >= from,
            };
            if over {
                let spent = now.saturating_sub(waiting.since);
                faults[waiting.index].recovery_ms = Some(spent.as_secs_f64() * 1e3);
            }
            !over
        });
    }

    /// The run has recovered from everything.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }
}
