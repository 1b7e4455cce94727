//! What goes wrong: a schedule, drawn from the seed before anything happens, so that it can be cut down and replayed. A seed
//! turns some kinds of faults on and others off (swarm testing: Groce et al., ISSTA 2012), so that rare mixtures are met, too.

use std::fmt;
use std::str::FromStr;

use dataset::Draws;
use proto::wire::v1::{self, report::Kind};

use crate::job::worker;
use crate::time::Millis;
use crate::world::{Happening, World};

/// One kind of thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A worker process dies; it is started again after a while.
    Kill,
    /// A worker's machine dies: nobody closes its connections.
    Vanish,
    /// A worker process stands still.
    Pause,
    /// The stream between a worker and the coordinator breaks.
    BreakStream,
    /// It breaks under the next plan of this kind that the coordinator sends.
    BreakAtForm,
    BreakAtRun,
    BreakAtSeal,
    /// What a worker says is on its way for long.
    Stall,
    /// An edge between two members breaks.
    BreakEdge,
    /// A worker is asked to end.
    Leave,
    /// Another worker joins.
    Join,
    /// A worker's process can't read the dataset any more; it is started again after a while.
    Unreadable,
    /// The coordinator dies; it is started again after a while.
    KillCoordinator,
    /// The coordinator dies at its next durable write, before or after it, or between two of the actions that follow.
    KillAtWrite,
    /// The coordinator dies with the next checkpoint in its hands.
    KillAtSeal,
    /// Every worker dies.
    KillAll,
    /// Every process stands still.
    PauseAll,
}

const ALL: [(Fault, &str); 17] = [
    (Fault::Kill, "kill"),
    (Fault::Vanish, "vanish"),
    (Fault::Pause, "pause"),
    (Fault::BreakStream, "break-stream"),
    (Fault::BreakAtForm, "break-at-form"),
    (Fault::BreakAtRun, "break-at-run"),
    (Fault::BreakAtSeal, "break-at-seal"),
    (Fault::Stall, "stall"),
    (Fault::BreakEdge, "break-edge"),
    (Fault::Leave, "leave"),
    (Fault::Join, "join"),
    (Fault::Unreadable, "unreadable"),
    (Fault::KillCoordinator, "kill-coordinator"),
    (Fault::KillAtWrite, "kill-at-write"),
    (Fault::KillAtSeal, "kill-at-seal"),
    (Fault::KillAll, "kill-all"),
    (Fault::PauseAll, "pause-all"),
];

/// A fault with its time and victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mishap {
    pub at: Millis,
    pub fault: Fault,
    /// Whom it hits: an even number a member of the newest generation, if one is alive, an odd one anybody.
    pub worker: usize,
    /// How long it lasts, where that is not left to chance.
    pub span: Millis,
}

/// Everything that goes wrong in a run, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule(pub Vec<Mishap>);

impl Schedule {
    /// `count` faults, from one to the next mostly seconds, sometimes right into what the last one caused. Of a quarter of the
    /// seeds fewer: what hangs is helped on by the next fault, and shows when there is none.
    pub fn draw(seed: u64, count: u32, workers: usize) -> Schedule {
        let mut draws = Draws::new(seed, 1);
        let drawn = ALL.into_iter().map(|(fault, _)| fault).filter(|_| draws.below(3) > 0);
        let mut kinds: Vec<Fault> = drawn.collect();
        if kinds.is_empty() {
            kinds.push(Fault::Kill);
        }
        let fewer = draws.below(4) == 0 && count > 0;
        let count = if fewer { 1 + draws.below(u64::from(count)) as u32 } else { count };
        let mut at = 800;
        let mishap = |_| {
            let fault = kinds[draws.below(kinds.len() as u64) as usize];
            let worker = draws.below(4 * workers as u64) as usize;
            let span = match fault {
                Fault::Pause | Fault::Stall => 50 + draws.below(6000),
                Fault::PauseAll => 1000 + draws.below(60_000),
                _ => 0,
            };
            let mishap = Mishap { at, fault, worker, span };
            at += match draws.below(4) {
                0 => draws.below(60),
                1 => draws.below(600),
                _ => draws.below(4000),
            };
            mishap
        };
        Schedule((0..count).map(mishap).collect())
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mishap) in self.0.iter().enumerate() {
            let Mishap { at, fault, worker, span } = mishap;
            let word = ALL.iter().find(|(kind, _)| kind == fault).map_or("", |(_, word)| word);
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{at} {word} {worker} {span}")?;
        }
        Ok(())
    }
}

impl FromStr for Schedule {
    type Err = String;

    /// As it is displayed: `TIME KIND WORKER SPAN`, milliseconds, separated by commas.
    fn from_str(text: &str) -> Result<Schedule, String> {
        let parse = |mishap: &str| {
            let wrong = || {
                let kinds: Vec<&str> = ALL.iter().map(|(_, word)| *word).collect();
                let kinds = kinds.join(", ");
                format!("fault {mishap:?} is not `TIME KIND WORKER SPAN`; kinds are {kinds}")
            };
            let words: Vec<&str> = mishap.split_whitespace().collect();
            let [at, kind, worker, span] = words[..] else { return Err(wrong()) };
            let fault = ALL.iter().find(|(_, word)| *word == kind).ok_or_else(wrong)?.0;
            let number = |word: &str| word.parse::<u64>().map_err(|_| wrong());
            let (at, worker, span) = (number(at)?, number(worker)? as usize, number(span)?);
            Ok(Mishap { at, fault, worker, span })
        };
        let mishaps = text.split(',').filter(|mishap| !mishap.trim().is_empty());
        mishaps.map(parse).collect::<Result<_, _>>().map(Schedule)
    }
}

impl World {
    pub(crate) fn fault(&mut self, number: usize) {
        let Mishap { fault, worker: wished, span, .. } = self.schedule[number];
        self.mishaps += 1;
        let until = self.now() + span;
        self.calm_from = self.calm_from.max(until);
        let count = self.workers.len();
        let Some(victim) = self.victim(wished) else { return };
        self.tell_of(|| format!("-- {fault:?} (of w{victim})"));
        match fault {
            Fault::Kill => self.end_process(victim),
            Fault::KillAll => {
                let alive: Vec<usize> =
                    (0..count).filter(|&index| self.workers[index].alive).collect();
                alive.into_iter().for_each(|index| self.end_process(index));
            }
            Fault::Vanish => self.vanish(victim),
            Fault::Pause => self.workers[victim].pause(until),
            Fault::PauseAll => {
                self.workers.iter_mut().for_each(|worker| worker.pause(until));
                self.paused_until = self.paused_until.max(until);
            }
            Fault::BreakStream => {
                if let Some(session) = self.workers[victim].session {
                    self.end_stream(session);
                }
            }
            Fault::BreakAtForm | Fault::BreakAtRun | Fault::BreakAtSeal => {
                self.workers[victim].deaf_to = Some(fault);
            }
            Fault::Stall => {
                if let Some(session) = self.workers[victim].session {
                    self.streams[session as usize].stall(until);
                }
            }
            Fault::BreakEdge => {
                let worker = &self.workers[victim];
                if let Some(member) = &worker.member {
                    self.break_exchange(worker.generation(), member.rank);
                }
            }
            Fault::Leave => {
                let reason = "asked to terminate".to_owned();
                let kind = Some(Kind::Leaving(v1::Leaving { reason }));
                self.report(victim, v1::Report { generation: 0, kind });
                let life = self.workers[victim].life;
                self.agenda.after(1800, Happening::End { worker: victim, life });
            }
            Fault::Join => {
                if count < self.workers_max {
                    let joining = worker(count, self.pace, &mut self.draws);
                    self.workers.push(joining);
                    self.agenda.after(0, Happening::StartWorker { worker: count });
                }
            }
            Fault::Unreadable => {
                self.workers[victim].unreadable = true;
                let (life, delay) = (self.workers[victim].life, 1000 + self.draws.below(9000));
                self.agenda.after(delay, Happening::End { worker: victim, life });
            }
            Fault::KillCoordinator if self.core.is_some() => self.crash_coordinator(),
            Fault::KillAtWrite => self.doomed = self.core.is_some(),
            Fault::KillAtSeal => self.doomed_at_seal = self.core.is_some(),
            Fault::KillCoordinator => {}
        }
    }

    fn victim(&self, number: usize) -> Option<usize> {
        let alive = |index: &usize| self.workers[*index].alive;
        let newest = self.exchanges.last_key_value().map(|(_, exchange)| &exchange.members);
        let members = newest.into_iter().flatten().map(|(worker, _)| *worker).filter(alive);
        let mut pool: Vec<usize> = members.filter(|_| number.is_multiple_of(2)).collect();
        if pool.is_empty() {
            pool = (0..self.workers.len()).filter(alive).collect();
        }
        (!pool.is_empty()).then(|| pool[number / 2 % pool.len()])
    }

    /// A process ends; another one is started in its place after a while.
    pub(crate) fn end_process(&mut self, index: usize) {
        self.give_up(index);
        if let Some(session) = self.workers[index].session {
            self.end_stream(session);
        }
        self.vanish(index);
    }

    /// It ends without a sign, and is started again.
    fn vanish(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        worker.alive = false;
        (worker.member, worker.session) = (None, None);
        let delay = 100 + self.draws.below(8000);
        self.agenda.after(delay, Happening::StartWorker { worker: index });
    }
}
