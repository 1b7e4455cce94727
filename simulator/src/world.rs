//! The world that coordinator and workers live in: carries out what the core asks for, delivers messages late and in order,
//! and lets things go wrong. Every choice is drawn from the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coordinator::core::{
    Action, BaseSearch, Candidate, CheckpointEntry, Cluster, DatasetFacts, Digest, Event,
    Formation, JobSpec, Metric, Outcome, Plan as Order, Policy, Report as Said, SessionId,
    Shortage, Submission, TICK, Ticket,
};
use dataset::Draws;
use proto::identity::{Generation, JobId};
use proto::manifest::Input;
use proto::{Job, Timeline};

use crate::checker::{Check, Checker, Violation, ensure};
use crate::disk::Disk;
use crate::exchange::Exchange;
use crate::faults::{Fault, Faults};
use crate::time::{Agenda, Millis};
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
#[derive(Clone, Debug, Default)]
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
struct Stream {
    worker: usize,
    worker_life: u64,
    coordinator_life: u64,
    open: bool,
    /// When the last message of each direction arrives: none overtakes another.
    up_at: Millis,
    down_at: Millis,
}

#[derive(Debug)]
struct Uploads {
    generation: Generation,
    job: JobId,
    members: usize,
    parts: BTreeMap<u64, BTreeSet<usize>>,
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
    submission: Submission,
    job: JobId,
    core: Option<Cluster>,
    /// Process starts of the coordinator.
    life: u64,
    paused_until: Millis,
    streams: Vec<Stream>,
    uploads: Vec<Uploads>,
    faults: Faults,
    quiet_since: Option<Millis>,
    /// The next durable write kills the coordinator; where exactly is drawn then.
    doomed: bool,
    outcome: Option<Outcome>,
    events: u64,
    trace: bool,
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

    fn tell_of(&self, what: impl FnOnce() -> String) {
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

    // ---- the coordinator --------------------------------------------------------------------------------------------

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

    fn crash_coordinator(&mut self) {
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

    fn tell(&mut self, event: Event) -> Check {
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

    // ---- streams ----------------------------------------------------------------------------------------------------

    pub(crate) fn reconnect(&mut self, worker: usize) {
        let (life, delay) = (self.workers[worker].life, 100 + self.draws.below(900));
        self.agenda.after(delay, Happening::Connect { worker, life });
    }

    fn connect_stream(&mut self, index: usize) {
        if self.workers[index].session.is_some() {
            return;
        }
        if self.core.is_none() || self.now() < self.paused_until {
            return self.reconnect(index);
        }
        let session = self.streams.len() as u64;
        let (worker_life, now) = (self.workers[index].life, self.now());
        self.streams.push(Stream {
            worker: index,
            worker_life,
            coordinator_life: self.life,
            open: true,
            up_at: now,
            down_at: now,
        });
        self.workers[index].session = Some(session);
        let generation = self.workers[index].generation();
        self.send_up(index, Up::Hello { generation });
    }

    /// Both ends notice, each in its own time; what was on its way is lost.
    pub(crate) fn end_stream(&mut self, session: u64) {
        let Some(stream) = self.streams.get_mut(session as usize) else { return };
        if !std::mem::replace(&mut stream.open, false) {
            return;
        }
        let (up, down) = (1 + self.draws.below(40), 1 + self.draws.below(40));
        self.agenda.after(up, Happening::Up { session, message: Up::Broken });
        self.agenda.after(down, Happening::Down { session, message: Down::Broken });
    }

    pub(crate) fn send_up(&mut self, worker: usize, message: Up) {
        let Some(session) = self.workers[worker].session else { return };
        let delay = 1 + self.draws.below(8);
        let now = self.now();
        let stream = &mut self.streams[session as usize];
        if stream.open {
            stream.up_at = stream.up_at.max(now + delay);
            self.agenda.at(stream.up_at, Happening::Up { session, message });
        }
    }

    pub(crate) fn send_up_later(&mut self, worker: usize, generation: Generation, report: Said) {
        let (life, delay) = (self.workers[worker].life, 50 + self.draws.below(500));
        self.agenda.after(delay, Happening::Later { worker, life, generation, report });
    }

    fn send_down(&mut self, session: SessionId, message: Down) {
        let delay = 1 + self.draws.below(8);
        let now = self.now();
        let Some(stream) = self.streams.get_mut(session.0 as usize) else { return };
        if stream.open {
            stream.down_at = stream.down_at.max(now + delay);
            self.agenda.at(stream.down_at, Happening::Down { session: session.0, message });
        }
    }

    fn arrive_up(&mut self, session: u64, message: Up) -> Check {
        let stream = &self.streams[session as usize];
        let broken = matches!(message, Up::Broken);
        if stream.coordinator_life != self.life || self.core.is_none() || stream.open == broken {
            return Ok(());
        }
        if self.now() < self.paused_until {
            self.agenda.put_off(self.paused_until, Happening::Up { session, message });
            return Ok(());
        }
        let worker = &self.workers[stream.worker];
        let id = SessionId(session);
        let event = match message {
            Up::Hello { generation } => Event::Joined(Candidate {
                session: id,
                name: worker.name.clone(),
                incarnation: worker.incarnation(),
                generation,
                address: "127.0.0.1:9".to_owned(),
                device_kind: "cpu".to_owned(),
                threads: 1,
                software_version: "0".to_owned(),
            }),
            Up::Report(generation, report) => {
                if !matches!(report, Said::Heartbeat { .. }) {
                    self.tell_of(|| format!("   {} says {report:?}", worker.name));
                }
                Event::Reported { session: id, generation, report }
            }
            Up::Broken => Event::StreamEnded { session: id, cause: "connection closed".to_owned() },
        };
        self.tell(event)
    }

    fn arrive_down(&mut self, session: u64, message: Down) -> Check {
        let stream = &self.streams[session as usize];
        let (index, life) = (stream.worker, stream.worker_life);
        let broken = matches!(message, Down::Broken);
        let worker = &self.workers[index];
        let current = worker.alive && worker.life == life && worker.session == Some(session);
        if !current || stream.open == broken {
            return Ok(());
        }
        if self.now() < worker.paused_until {
            let at = worker.paused_until;
            self.agenda.put_off(at, Happening::Down { session, message });
            return Ok(());
        }
        self.tell_of(|| format!("   {} hears {message:?}", worker.name));
        self.hear(index, message)
    }

    // ---- checkpoints ------------------------------------------------------------------------------------------------

    pub(crate) fn upload(&mut self, worker: usize, step: u64, digest: Digest, last: bool) {
        let life = self.workers[worker].life;
        let generation = self.workers[worker].generation();
        let delay = 10 + self.draws.below(200);
        let upload = Happening::Upload { worker, life, generation, step, digest, last };
        self.agenda.after(delay, upload);
    }

    fn uploaded(
        &mut self,
        index: usize,
        generation: Generation,
        step: u64,
        digest: Digest,
        last: bool,
    ) -> Check {
        let life = self.workers[index].life;
        if self.core.is_none() {
            let upload = Happening::Upload { worker: index, life, generation, step, digest, last };
            self.agenda.after(500, upload);
            return Ok(());
        }
        let rank = match &self.workers[index].member {
            Some(member) if member.formation.generation == generation => member.rank,
            _ => return Ok(()),
        };
        let open = self.uploads.iter_mut().find(|uploads| uploads.generation == generation);
        let mut assembled = None;
        if let Some(uploads) = open {
            let parts = uploads.parts.entry(step).or_default();
            let new = parts.insert(rank);
            if new && parts.len() == uploads.members {
                let job = uploads.job.clone();
                assembled = Some(Event::CheckpointAssembled { job, generation, step });
            }
        }
        if last {
            let report = Said::Finished { step, model_sha256: sha256(step) };
            self.report(index, generation, report);
        }
        match assembled {
            Some(event) => self.tell(event),
            None => Ok(()),
        }
    }

    // ---- what goes wrong --------------------------------------------------------------------------------------------

    fn fault(&mut self) {
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

fn worker(number: usize, draws: &mut Draws) -> Worker {
    let name = format!("w{number}").parse().expect("a valid name");
    Worker::new(name, 1 + draws.below(6))
}

fn policy(draws: &mut Draws, workers: u32) -> Policy {
    use coordinator::core::OnLoss;
    let on_loss = match draws.below(4) {
        0 => OnLoss::Wait,
        1 => OnLoss::Spare,
        _ => OnLoss::Shrink,
    };
    let min_workers = 1 + draws.below(u64::from(workers.min(2))) as u32;
    Policy { on_loss, min_workers, max_workers: u32::MAX }
}

fn spec(epochs: u32) -> JobSpec {
    let toml = format!(
        "name = \"sim\"\n[data]\nformat = \"idx\"\npath = \"/data\"\n[model]\narch = \"resnet18\"\n\
         [train]\nepochs = {epochs}\nbatch = 16\nslices = {SLICES}\n[optimizer]\nlearning_rate = 0.1\n\
         [checkpoint]\nevery_epochs = 3\n"
    );
    let job = Job::parse(&toml).expect("the simulated job is right");
    let input = Input { channels: 1, height: 8, width: 8, mean: vec![0.3], std: vec![0.4] };
    let dataset = DatasetFacts {
        fingerprint: "ab".repeat(32),
        train_len: 64,
        test_len: 40,
        classes: vec!["zero".to_owned(), "one".to_owned()],
        input,
    };
    JobSpec { toml: job.to_toml(), job, dataset, weights: None }
}

fn sha256(step: u64) -> String {
    format!("{step:064x}")
}

/// Simulated time without faults in which a job of this size must end.
const PATIENCE: Millis = 240_000;
const SLICES: usize = 8;
const WORKERS_MAX: usize = 12;
