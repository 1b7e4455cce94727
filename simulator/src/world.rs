//! The world that coordinator and workers live in: what happens, one thing after the other. Every choice is drawn from the seed.

use std::collections::BTreeMap;

use coordinator::core::{
    Cluster, Digest, Event, HEARTBEAT, Outcome, Shortage, Submission, TICK, Ticket,
};
use dataset::Draws;
use proto::Timeline;
use proto::identity::{Generation, JobId};
use proto::wire::v1::{self, plan};

use crate::checker::{Check, Checker, Invariant, Violation, ensure};
use crate::disk::Disk;
use crate::exchange::Exchange;
use crate::faults::{Fault, Mishap, Schedule};
use crate::job::{policy, spec, worker};
use crate::streams::Stream;
use crate::time::{Agenda, Millis};
use crate::uploads::Uploads;
use crate::worker::{Work, Worker};

/// The size of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub workers: usize,
    /// A seed may have up to this many workers less.
    pub fewer: usize,
    pub epochs: u32,
    pub faults: u32,
    /// Slices of a step.
    pub slices: usize,
    /// Longest time that a worker computes a slice in, milliseconds.
    pub pace: u64,
    /// Tell what happens, on standard error.
    pub trace: bool,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { workers: 4, fewer: 2, epochs: 40, faults: 50, slices: 8, pace: 6, trace: false }
    }
}

/// How a run went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub faults: u32,
    pub generations: u64,
    /// Times that the job had to go back to a checkpoint.
    pub rewinds: u64,
    pub events: u64,
    /// Simulated time.
    pub millis: u64,
    /// Workers that were greeted, counted each time.
    pub admitted: u64,
    /// Longest simulated time without a fault in which no step was committed.
    pub stood: u64,
}

/// To a worker.
#[derive(Debug)]
pub(crate) enum Down {
    Plan(Box<v1::Plan>),
    /// The stream has ended.
    Broken,
}

impl Down {
    pub(crate) fn is_broken_by(&self, fault: Fault) -> bool {
        let Down::Plan(plan) = self else { return false };
        match &plan.kind {
            Some(plan::Kind::Form(_)) => fault == Fault::BreakAtForm,
            Some(plan::Kind::Run(_)) => fault == Fault::BreakAtRun,
            Some(plan::Kind::Seal(_)) => fault == Fault::BreakAtSeal,
            _ => false,
        }
    }
}

/// To the coordinator.
#[derive(Debug)]
pub(crate) enum Up {
    Report(v1::Report),
    /// The stream has ended.
    Broken,
}

#[derive(Debug)]
pub(crate) enum Happening {
    Tick {
        life: u64,
    },
    Beat {
        worker: usize,
        life: u64,
    },
    Up {
        session: u64,
        message: Up,
    },
    Down {
        session: u64,
        message: Down,
    },
    Connect {
        worker: usize,
        life: u64,
    },
    Work {
        worker: usize,
        life: u64,
        generation: Generation,
        work: Work,
    },
    Upload {
        worker: usize,
        life: u64,
        generation: Generation,
        step: u64,
        digest: Digest,
        last: bool,
    },
    /// A report of a worker that takes its time.
    Later {
        worker: usize,
        life: u64,
        report: v1::Report,
    },
    /// The coordinator's disk has done something.
    Stored {
        life: u64,
        event: Event,
    },
    /// A process ends: it wanted to leave and has waited long enough, or somebody looks after it.
    End {
        worker: usize,
        life: u64,
    },
    /// The mishap of this number.
    Fault {
        number: usize,
    },
    StartWorker {
        worker: usize,
    },
    StartCoordinator,
    Submit,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) draws: Draws,
    pub(crate) agenda: Agenda<Happening>,
    pub(crate) disk: Disk,
    pub(crate) workers: Vec<Worker>,
    pub(crate) exchanges: BTreeMap<Generation, Exchange>,
    pub(crate) checker: Checker,
    pub(crate) timeline: Timeline,
    /// Steps of the job.
    pub(crate) total: u64,
    pub(crate) test_len: u64,
    pub(crate) submission: Submission,
    pub(crate) job: JobId,
    pub(crate) core: Option<Cluster>,
    /// Process starts of the coordinator.
    pub(crate) life: u64,
    pub(crate) paused_until: Millis,
    pub(crate) streams: Vec<Stream>,
    pub(crate) uploads: Vec<Uploads>,
    pub(crate) schedule: Vec<Mishap>,
    /// How many of them have happened.
    pub(crate) mishaps: usize,
    /// The last of what went wrong so far is over then.
    pub(crate) calm_from: Millis,
    /// When the watermark moved last.
    pub(crate) advanced_at: Millis,
    /// Longest time in calm in which it did not.
    pub(crate) stood: Millis,
    pub(crate) admitted: u64,
    /// Ticks of the coordinator, over all its lives.
    pub(crate) ticks: u64,
    pub(crate) pace: Millis,
    pub(crate) workers_max: usize,
    /// The next durable write kills the coordinator; where exactly is drawn then.
    pub(crate) doomed: bool,
    /// So does the next checkpoint, before it is whole.
    pub(crate) doomed_at_seal: bool,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) events: u64,
    pub(crate) trace: bool,
}

/// One run with the faults that the seed draws, from start to the job's end.
pub fn run(seed: u64, plan: &Plan) -> Result<Report, Violation> {
    replay(seed, plan, &Schedule::draw(seed, plan.faults, plan.workers))
}

/// One run with these faults.
pub fn replay(seed: u64, plan: &Plan, schedule: &Schedule) -> Result<Report, Violation> {
    let mut world = World::new(seed, plan, schedule);
    let result = world.live();
    result.map_err(|violation| Violation { at: world.now(), ..violation })?;
    Ok(Report {
        faults: world.mishaps as u32,
        generations: world.checker.formed,
        rewinds: world.checker.rewinds,
        events: world.events,
        millis: world.agenda.now(),
        admitted: world.admitted,
        stood: world.stood,
    })
}

impl World {
    /// To the end of the job.
    fn live(&mut self) -> Check {
        while self.outcome.is_none() {
            let happening = self.agenda.next().expect("ticks never end");
            self.events += 1;
            self.happen(happening)?;
            self.goes_on()?;
        }
        ensure(Invariant::I10, matches!(self.outcome, Some(Outcome::Finished { .. })), || {
            format!("the job ended with {:?}", self.outcome)
        })?;
        self.checker.finished(&self.disk.metrics)
    }

    fn new(seed: u64, plan: &Plan, schedule: &Schedule) -> World {
        let mut draws = Draws::new(seed, 0);
        let spec = spec(plan);
        let timeline = Timeline::new(&spec.job, spec.dataset.train_len);
        let present = plan.workers - draws.below(plan.fewer as u64 + 1) as usize;
        let started = present.min(spec.job.train.slices) as u64;
        let wanted = (1 + draws.below(started)) as u32;
        let policy = policy(&mut draws, present as u32, wanted);
        let workers = (0..present).map(|number| worker(number, plan.pace, &mut draws)).collect();
        let submission =
            Submission { spec, workers: wanted, policy, fresh: false, shortage: Shortage::Wait };
        let mut world = World {
            draws,
            agenda: Agenda::new(),
            disk: Disk::default(),
            workers,
            exchanges: BTreeMap::new(),
            checker: Checker::new(&submission),
            total: timeline.total_steps(),
            timeline,
            test_len: submission.spec.dataset.test_len,
            submission,
            job: "sim-1".parse().expect("a valid name"),
            core: None,
            life: 0,
            paused_until: 0,
            streams: Vec::new(),
            uploads: Vec::new(),
            schedule: schedule.0.clone(),
            mishaps: 0,
            calm_from: 0,
            advanced_at: 0,
            stood: 0,
            admitted: 0,
            ticks: 0,
            pace: plan.pace,
            workers_max: present + NEWCOMERS_MAX,
            doomed: false,
            doomed_at_seal: false,
            outcome: None,
            events: 0,
            trace: plan.trace,
        };
        world.agenda.after(0, Happening::StartCoordinator);
        world.agenda.after(20, Happening::Submit);
        for worker in 0..present {
            let delay = world.draws.below(500);
            world.agenda.after(delay, Happening::StartWorker { worker });
        }
        for (number, mishap) in schedule.0.iter().enumerate() {
            world.agenda.at(mishap.at, Happening::Fault { number });
        }
        world
    }

    /// Once everything that goes wrong has gone wrong, nothing holds the job up for long.
    fn goes_on(&mut self) -> Check {
        if self.mishaps < self.schedule.len() {
            return Ok(());
        }
        let stands = self.now().saturating_sub(self.advanced_at.max(self.calm_from));
        self.stood = self.stood.max(stands);
        ensure(Invariant::I10, stands <= PATIENCE, || {
            let state = self.core.as_ref().map(|core| {
                core.job_statuses()
                    .into_iter()
                    .map(|job| (job.reason, job.step))
                    .collect::<Vec<_>>()
            });
            format!("nothing was committed for {PATIENCE} ms, and nothing went wrong: {state:?}")
        })
    }

    // long: one arm for each kind of happening
    fn happen(&mut self, happening: Happening) -> Check {
        match happening {
            Happening::Tick { life } if life == self.life && self.core.is_some() => {
                if self.now() < self.paused_until {
                    self.agenda.put_off(self.paused_until, Happening::Tick { life });
                    return Ok(());
                }
                self.ticks += 1;
                self.agenda.after(TICK.as_millis() as Millis, Happening::Tick { life });
                self.tell(Event::Tick)
            }
            Happening::Beat { worker, life } => {
                if self.delayed(worker, life, |worker, life| Happening::Beat { worker, life }) {
                    return Ok(());
                }
                self.agenda
                    .after(HEARTBEAT.as_millis() as Millis, Happening::Beat { worker, life });
                if self.workers[worker].welcomed {
                    self.send_up(worker, Up::Report(self.workers[worker].heartbeat()));
                }
                Ok(())
            }
            Happening::Up { session, message } => self.arrive_up(session, message),
            Happening::Down { session, message } => self.arrive_down(session, message),
            Happening::Connect { worker, life } => {
                if !self.delayed(worker, life, |worker, life| Happening::Connect { worker, life }) {
                    self.connect_stream(worker);
                }
                Ok(())
            }
            Happening::Work { worker, life, generation, work } => {
                let again = |worker, life| Happening::Work { worker, life, generation, work };
                if self.delayed(worker, life, again) {
                    return Ok(());
                }
                self.worked(worker, generation, work)
            }
            Happening::Upload { worker, life, generation, step, digest, last } => {
                let again = |worker, life| Happening::Upload {
                    worker,
                    life,
                    generation,
                    step,
                    digest,
                    last,
                };
                if self.delayed(worker, life, again) {
                    return Ok(());
                }
                self.uploaded(worker, generation, step, digest, last)
            }
            Happening::Later { worker, life, report } => {
                if self.workers[worker].alive && self.workers[worker].life == life {
                    self.report(worker, report);
                }
                Ok(())
            }
            Happening::End { worker, life } => {
                if !self.delayed(worker, life, |worker, life| Happening::End { worker, life }) {
                    self.end_process(worker);
                }
                Ok(())
            }
            Happening::Stored { life, event } if life == self.life && self.core.is_some() => {
                self.tell(event)
            }
            Happening::Fault { number } => {
                self.fault(number);
                Ok(())
            }
            Happening::StartWorker { worker } => {
                if !self.workers[worker].alive {
                    self.workers[worker].start();
                    let life = self.workers[worker].life;
                    self.agenda.after(10, Happening::Connect { worker, life });
                    self.agenda.after(250, Happening::Beat { worker, life });
                }
                Ok(())
            }
            Happening::StartCoordinator => self.start_coordinator(),
            Happening::Submit => {
                // A person whose submission got no answer repeats it.
                self.agenda.after(5000, Happening::Submit);
                let known = self.core.as_ref().is_some_and(|core| !core.job_statuses().is_empty());
                if known || self.core.is_none() {
                    return Ok(());
                }
                let submission = Box::new(self.submission.clone());
                self.tell(Event::Submitted { ticket: Ticket(1), submission })
            }
            Happening::Tick { .. } | Happening::Stored { .. } => Ok(()),
        }
    }

    pub(crate) fn tell_of(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>8} ms  {}", self.now(), what());
        }
    }

    pub(crate) fn now(&self) -> Millis {
        self.agenda.now()
    }

    /// A process that stands still does everything later; one that is gone, never.
    fn delayed(
        &mut self,
        worker: usize,
        life: u64,
        again: impl Fn(usize, u64) -> Happening,
    ) -> bool {
        let Worker { alive, paused_until, life: current, .. } = self.workers[worker];
        if !alive || life != current {
            return true;
        }
        if self.now() < paused_until {
            self.agenda.put_off(paused_until, again(worker, life));
            return true;
        }
        false
    }
}

/// Simulated time without faults in which a step must be committed, or the job end.
const PATIENCE: Millis = 100_000;
/// Workers that may join in the course of a run.
const NEWCOMERS_MAX: usize = 8;
