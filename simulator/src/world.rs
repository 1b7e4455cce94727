//! The world that coordinator and workers live in: carries out what the core asks for, delivers messages late and in order,
//! and lets things go wrong. Every choice is drawn from the seed.

use std::collections::BTreeMap;
use std::time::Duration;

use coordinator::core::{
    Action, BaseSearch, CheckpointEntry, Cluster, Digest, Event, Formation, Metric, Outcome,
    Plan as Order, Report as Said, SessionId, Shortage, Submission, TICK, Ticket,
};
use dataset::Draws;
use proto::Timeline;
use proto::identity::{Generation, JobId};

use crate::checker::{Check, Checker, Violation, ensure};
use crate::disk::Disk;
use crate::exchange::Exchange;
use crate::faults::Faults;
use crate::job::{SLICES, policy, sha256, spec, worker};
use crate::streams::Stream;
use crate::time::{Agenda, Millis};
use crate::uploads::Uploads;
use crate::worker::{Work, Worker};

/// The size of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub workers: usize,
    pub epochs: u32,
    pub faults: u32,
    /// Tell what happens, on standard error.
    pub trace: bool,
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
}

/// To a worker.
#[derive(Debug)]
pub(crate) enum Down {
    Welcome {
        generation: Generation,
    },
    Form {
        formation: Box<Formation>,
        rank: usize,
    },
    Warm {
        job: JobId,
    },
    Plan {
        generation: Generation,
        plan: Order,
    },
    /// The stream has ended.
    Broken,
}

/// To the coordinator.
#[derive(Debug)]
pub(crate) enum Up {
    Hello {
        generation: Generation,
    },
    Report(Generation, Said),
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
        generation: Generation,
        report: Said,
    },
    /// The coordinator's disk has done something.
    Stored {
        life: u64,
        event: Event,
    },
    /// A worker that wanted to leave has waited long enough.
    Leave {
        worker: usize,
        life: u64,
    },
    Fault,
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
    pub(crate) faults: Faults,
    pub(crate) quiet_since: Option<Millis>,
    /// The next durable write kills the coordinator; where exactly is drawn then.
    pub(crate) doomed: bool,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) events: u64,
    pub(crate) trace: bool,
}

/// One run, from start to the job's end.
pub fn run(seed: u64, plan: &Plan) -> Result<Report, Violation> {
    let mut world = World::new(seed, plan);
    while world.outcome.is_none() {
        let happening = world.agenda.next().expect("ticks never end");
        world.events += 1;
        world.happen(happening)?;
        let late = |since: &Millis| world.agenda.now() > since + PATIENCE;
        if world.quiet_since.as_ref().is_some_and(late) {
            let state = world.core.as_ref().map(|core| {
                core.job_statuses()
                    .into_iter()
                    .map(|job| (job.reason, job.step))
                    .collect::<Vec<_>>()
            });
            let what = format!("I10: not finished {PATIENCE} ms after the last fault: {state:?}");
            return Err(Violation(what));
        }
    }
    ensure(matches!(world.outcome, Some(Outcome::Finished { .. })), || {
        format!("the job ended with {:?}", world.outcome)
    })?;
    world.checker.finished(world.total, &world.disk.metrics)?;
    Ok(Report {
        faults: world.faults.injected,
        generations: world.checker.formed,
        rewinds: world.checker.rewinds,
        events: world.events,
        millis: world.agenda.now(),
    })
}

impl World {
    fn new(seed: u64, plan: &Plan) -> World {
        let mut draws = Draws::new(seed, 0);
        let spec = spec(plan.epochs);
        let timeline = Timeline::new(&spec.job, spec.dataset.train_len);
        let policy = policy(&mut draws, plan.workers as u32);
        let workers = (0..plan.workers).map(|number| worker(number, &mut draws)).collect();
        let started = plan.workers.min(SLICES) as u64;
        let submission = Submission {
            spec: spec.clone(),
            workers: (1 + draws.below(started)) as u32,
            policy,
            fresh: false,
            shortage: Shortage::Wait,
        };
        let mut world = World {
            faults: Faults::new(plan.faults, &mut draws),
            draws,
            agenda: Agenda::new(),
            disk: Disk::default(),
            workers,
            exchanges: BTreeMap::new(),
            checker: Checker::default(),
            total: timeline.total_steps(),
            timeline,
            test_len: spec.dataset.test_len,
            submission,
            job: "sim-1".parse().expect("a valid name"),
            core: None,
            life: 0,
            paused_until: 0,
            streams: Vec::new(),
            uploads: Vec::new(),
            quiet_since: None,
            doomed: false,
            outcome: None,
            events: 0,
            trace: plan.trace,
        };
        world.agenda.after(0, Happening::StartCoordinator);
        world.agenda.after(20, Happening::Submit);
        for worker in 0..plan.workers {
            let delay = world.draws.below(500);
            world.agenda.after(delay, Happening::StartWorker { worker });
        }
        world.agenda.after(800, Happening::Fault);
        world
    }

    // long: one arm for each kind of happening
    fn happen(&mut self, happening: Happening) -> Check {
        match happening {
            Happening::Tick { life } if life == self.life && self.core.is_some() => {
                if self.now() < self.paused_until {
                    self.agenda.put_off(self.paused_until, Happening::Tick { life });
                    return Ok(());
                }
                self.agenda.after(TICK.as_millis() as Millis, Happening::Tick { life });
                self.tell(Event::Tick)
            }
            Happening::Beat { worker, life } => {
                if self.delayed(worker, life, |worker, life| Happening::Beat { worker, life }) {
                    return Ok(());
                }
                self.agenda.after(250, Happening::Beat { worker, life });
                if self.workers[worker].welcomed {
                    let (generation, report) =
                        (self.workers[worker].generation(), self.workers[worker].heartbeat());
                    self.send_up(worker, Up::Report(generation, report));
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
            Happening::Later { worker, life, generation, report } => {
                let alive = self.workers[worker].alive && self.workers[worker].life == life;
                if alive && self.workers[worker].welcomed {
                    self.send_up(worker, Up::Report(generation, report));
                }
                Ok(())
            }
            Happening::Leave { worker, life } => {
                if !self.delayed(worker, life, |worker, life| Happening::Leave { worker, life }) {
                    self.end_process(worker);
                }
                Ok(())
            }
            Happening::Stored { life, event } if life == self.life && self.core.is_some() => {
                self.tell(event)
            }
            Happening::Fault => {
                self.fault();
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

    fn start_coordinator(&mut self) -> Check {
        if self.core.is_some() {
            return Ok(());
        }
        self.life += 1;
        let mut core = Cluster::default();
        for record in &self.disk.journal {
            core.replay(record).map_err(|error| Violation(error.to_string()))?;
        }
        let actions = core.boot();
        // It may have ended between writing down the job's end and telling of it.
        self.outcome = core.view(&self.job).and_then(|view| view.outcome);
        self.core = Some(core);
        self.uploads.clear();
        self.perform(actions)?;
        let life = self.life;
        self.agenda.after(1, Happening::Tick { life });
        Ok(())
    }

    pub(crate) fn crash_coordinator(&mut self) {
        self.tell_of(|| "-- the coordinator dies".to_owned());
        self.core = None;
        self.doomed = false;
        self.uploads.clear();
        for session in 0..self.streams.len() {
            self.end_stream(session as u64);
        }
        let delay = 20 + self.draws.below(4000);
        self.agenda.after(delay, Happening::StartCoordinator);
    }

    pub(crate) fn tell(&mut self, event: Event) -> Check {
        let now = Duration::from_millis(self.now());
        let Some(core) = &mut self.core else { return Ok(()) };
        let actions = core.apply(now, event);
        self.perform(actions)
    }

    /// As the driver does: all records become durable at once, and only then is anything else done.
    fn perform(&mut self, actions: Vec<Action>) -> Check {
        let (mut records, mut rest) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Journal(record) => records.push(record),
                other => rest.push(other),
            }
        }
        let dies = self.doomed && !records.is_empty();
        // 0: before the write; otherwise after this many of the other actions.
        let survives = if dies { self.draws.below(rest.len() as u64 + 2) } else { u64::MAX };
        if survives == 0 {
            self.crash_coordinator();
            return Ok(());
        }
        for record in &records {
            self.checker.journaled(record)?;
        }
        self.disk.journal.extend(records);
        let mut unflushed = Vec::new();
        for (done, action) in rest.into_iter().enumerate() {
            if done as u64 + 1 >= survives {
                self.crash_coordinator();
                return Ok(());
            }
            self.carry_out(action, &mut unflushed)?;
        }
        for step in unflushed {
            self.checker.published(step)?;
            self.disk.metrics.push(step);
        }
        Ok(())
    }

    fn carry_out(&mut self, action: Action, unflushed: &mut Vec<u64>) -> Check {
        match action {
            Action::Admit { session, generation } => {
                self.send_down(session, Down::Welcome { generation });
            }
            Action::Refuse { session, .. } | Action::Disconnect { session, .. } => {
                self.end_stream(session.0);
            }
            Action::Form(formation) => self.form_exchange(&formation),
            Action::Send { session, generation, plan } => {
                self.send_down(session, Down::Plan { generation, plan });
            }
            Action::Warm { session, job, .. } => self.send_down(session, Down::Warm { job }),
            Action::FindBase { job, .. } => {
                let entries = self.disk.checkpoints.clone();
                let set_aside = Vec::new();
                let search = match entries.is_empty() {
                    true => BaseSearch::Nothing { set_aside },
                    false => BaseSearch::Found { entries, set_aside },
                };
                let (life, delay) = (self.life, 20 + self.draws.below(300));
                let event = Event::BaseFound { job, search };
                self.agenda.after(delay, Happening::Stored { life, event });
            }
            Action::CutHistory { step, .. } => self.disk.cut_metrics(step),
            Action::Reopen { .. } => {
                let published = self.disk.last_metric();
                if let Some(core) = &mut self.core {
                    core.published_up_to(published);
                }
            }
            Action::OpenUploads { job, generation, members } => {
                let (members, parts) = (members as usize, BTreeMap::new());
                self.uploads.push(Uploads { generation, job, members, parts });
            }
            Action::CloseUploads { generation } => {
                self.uploads.retain(|uploads| uploads.generation != generation);
            }
            Action::Seal(order) => {
                let entry = CheckpointEntry {
                    step: order.step,
                    bytes: 1,
                    digest: order.digest.to_string(),
                    model_sha256: sha256(order.step),
                    evaluation: order.evaluation,
                };
                self.disk.keep_checkpoint(entry.clone());
                self.checker.sealed(&entry)?;
                let event = Event::CheckpointSealed { job: order.job, entry };
                let (life, delay) = (self.life, 10 + self.draws.below(300));
                self.agenda.after(delay, Happening::Stored { life, event });
            }
            Action::Retain { shelf, .. } => {
                let kept: Vec<u64> = shelf.entries.iter().map(|entry| entry.step).collect();
                let newest = kept.iter().max().copied().unwrap_or(0);
                let stays =
                    |entry: &CheckpointEntry| entry.step > newest || kept.contains(&entry.step);
                self.disk.checkpoints.retain(stays);
                self.checker.removed(&kept)?;
            }
            Action::Publish { metric: Metric::Step { step, .. }, .. } => unflushed.push(step),
            Action::Finish { outcome, .. } => self.outcome = Some(outcome),
            Action::Log { text, .. } => self.tell_of(|| text),
            Action::Publish { .. } | Action::Answer { .. } => {}
            Action::Journal(_) => unreachable!("records were written before"),
        }
        Ok(())
    }

    fn form_exchange(&mut self, formation: &Formation) {
        let index = |session: SessionId| self.streams.get(session.0 as usize);
        let members = formation.members.iter().map(|member| {
            index(member.session)
                .map_or((0, u64::MAX), |stream| (stream.worker, stream.worker_life))
        });
        let exchange = Exchange::new(members.collect());
        self.exchanges.insert(formation.generation, exchange);
        for (rank, member) in formation.members.iter().enumerate() {
            let formation = Box::new(formation.clone());
            self.send_down(member.session, Down::Form { formation, rank });
        }
    }
}

/// Simulated time without faults in which a job of this size must end.
const PATIENCE: Millis = 240_000;
