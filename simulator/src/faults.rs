//! What goes wrong, as chance has it: a seed turns some kinds of faults on and others off (swarm testing: Groce et al., ISSTA
//! 2012), so that rare mixtures are met, too.

use coordinator::core::Report as Said;
use dataset::Draws;
use proto::identity::Generation;

use crate::job::worker;
use crate::time::Millis;
use crate::world::{Happening, Up, World};

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

impl World {
    pub(crate) fn fault(&mut self) {
        let Some(fault) = self.faults.draw(&mut self.draws) else {
            self.quiet_since = Some(self.now());
            return;
        };
        let pause = Faults::pause(&mut self.draws);
        self.agenda.after(pause, Happening::Fault);
        let alive: Vec<usize> =
            (0..self.workers.len()).filter(|&index| self.workers[index].alive).collect();
        let pick = |draws: &mut Draws| {
            (!alive.is_empty()).then(|| alive[draws.below(alive.len() as u64) as usize])
        };
        let Some(victim) = pick(&mut self.draws) else { return };
        self.tell_of(|| format!("-- {fault:?} (of w{victim})"));
        match fault {
            Fault::Kill => self.kill(victim),
            Fault::KillAll => alive.into_iter().for_each(|index| self.kill(index)),
            Fault::Pause => {
                let until = self.now() + 50 + self.draws.below(6000);
                self.workers[victim].pause(until);
            }
            Fault::PauseAll => {
                let until = self.now() + 1000 + self.draws.below(60_000);
                self.workers.iter_mut().for_each(|worker| worker.pause(until));
                self.paused_until = self.paused_until.max(until);
            }
            Fault::BreakStream => {
                if let Some(session) = self.workers[victim].session {
                    self.end_stream(session);
                }
            }
            Fault::BreakEdge => {
                let place = self.workers[victim].member.as_ref();
                let place = place.map(|member| (member.formation.generation, member.rank));
                if let Some((generation, rank)) = place {
                    self.break_exchange(generation, rank);
                }
            }
            Fault::Leave => {
                let reason = "asked to terminate".to_owned();
                self.send_up(victim, Up::Report(Generation(0), Said::Leaving { reason }));
                let life = self.workers[victim].life;
                self.agenda.after(1800, Happening::Leave { worker: victim, life });
            }
            Fault::Join => {
                if self.workers.len() < WORKERS_MAX {
                    let number = self.workers.len();
                    let joining = worker(number, &mut self.draws);
                    self.workers.push(joining);
                    self.agenda.after(0, Happening::StartWorker { worker: number });
                }
            }
            Fault::KillCoordinator if self.core.is_some() => self.crash_coordinator(),
            Fault::KillAtWrite => self.doomed = self.core.is_some(),
            Fault::KillCoordinator => {}
        }
    }

    fn kill(&mut self, index: usize) {
        self.end_process(index);
    }

    /// A process ends; another one is started in its place after a while.
    pub(crate) fn end_process(&mut self, index: usize) {
        self.give_up(index);
        let worker = &mut self.workers[index];
        worker.alive = false;
        worker.member = None;
        if let Some(session) = worker.session.take() {
            self.end_stream(session);
        }
        let delay = 100 + self.draws.below(8000);
        self.agenda.after(delay, Happening::StartWorker { worker: index });
    }
}

const WORKERS_MAX: usize = 12;
