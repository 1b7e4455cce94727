//! What goes wrong, as chance has it: a seed turns some kinds of faults on and others off (swarm testing: Groce et al., ISSTA
//! 2012), so that rare mixtures are met, too.

use dataset::Draws;

use crate::time::Millis;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A worker process dies; it is started again after a while.
    Kill,
    /// A worker process stands still.
    Pause,
    /// The stream between a worker and the coordinator breaks.
    BreakStream,
    /// An edge between two members breaks.
    BreakEdge,
    /// A worker is asked to end.
    Leave,
    /// Another worker joins.
    Join,
    /// The coordinator dies; it is started again after a while.
    KillCoordinator,
    /// The coordinator dies at its next durable write, before or after it, or between two of the actions that follow.
    KillAtWrite,
    /// Every worker dies.
    KillAll,
    /// Every process stands still.
    PauseAll,
}

const ALL: [Fault; 10] = [
    Fault::Kill,
    Fault::Pause,
    Fault::BreakStream,
    Fault::BreakEdge,
    Fault::Leave,
    Fault::Join,
    Fault::KillCoordinator,
    Fault::KillAtWrite,
    Fault::KillAll,
    Fault::PauseAll,
];

/// Faults of one run, counted.
#[derive(Clone, Debug)]
pub struct Faults {
    kinds: Vec<Fault>,
    left: u32,
    pub injected: u32,
}

impl Faults {
    pub(crate) fn new(count: u32, draws: &mut Draws) -> Faults {
        let mut kinds: Vec<Fault> = ALL.into_iter().filter(|_| draws.below(3) > 0).collect();
        if kinds.is_empty() {
            kinds.push(Fault::Kill);
        }
        Faults { kinds, left: count, injected: 0 }
    }

    /// The next fault; `None` when there were enough.
    pub(crate) fn draw(&mut self, draws: &mut Draws) -> Option<Fault> {
        self.left = self.left.checked_sub(1)?;
        self.injected += 1;
        Some(self.kinds[draws.below(self.kinds.len() as u64) as usize])
    }

    /// From one fault to the next: mostly seconds, sometimes right into what the last one caused.
    pub(crate) fn pause(draws: &mut Draws) -> Millis {
        match draws.below(4) {
            0 => draws.below(60),
            1 => draws.below(600),
            _ => draws.below(4000),
        }
    }
}
