//! A worker: it decides by the real one's `Conduct`, and carries out in simulated time what a session, a training thread
//! and an uploader would.

use coordinator::core::Digest;
use proto::identity::{Generation, Incarnation, Name};
use proto::mutant::{Mutant, active};
use proto::wire::v1::{self, Phase, TroubleKind, plan, report::Kind};
use worker::conduct::{Action, Conduct, Mark, NotHeld, Origin};

use crate::checker::{
    Check, Invariant, Violation, digest_after, ensure, first_digest, next_digest,
};
use crate::faults::Fault;
use crate::time::Millis;
use crate::world::{Down, Happening, Up, World};

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) name: Name,
    /// Process starts so far; what belongs to an older one is dropped.
    pub(crate) life: u64,
    pub(crate) alive: bool,
    pub(crate) paused_until: Millis,
    /// It can't read the dataset any more.
    pub(crate) unreadable: bool,
    /// Its stream breaks under the next plan that this fault is about.
    pub(crate) deaf_to: Option<Fault>,
    /// The coordinator's tick in which it was heard of last.
    pub(crate) heard_at: u64,
    /// Time for a slice.
    pub(crate) pace: Millis,
    pub(crate) session: Option<u64>,
    pub(crate) welcomed: bool,
    conduct: Conduct,
    pub(crate) member: Option<Member>,
    held: Option<Mark>,
    step: u64,
}

#[derive(Debug)]
pub(crate) struct Member {
    generation: Generation,
    form: v1::Form,
    pub(crate) rank: usize,
    stage: Stage,
    stop: bool,
    /// The last state was uploaded, or is being uploaded.
    last: Option<(u64, Digest)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Preparing,
    Ready,
    /// In this step.
    Training(u64),
    /// An edge broke; nothing can be done but wait.
    Broken,
    /// Nothing more is contributed or applied.
    GivenUp,
    /// Every step is done.
    Ended,
}

/// A piece of a worker's own work that takes time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    Prepared,
    HandedOver,
    Computed {
        step: u64,
    },
    Apply {
        step: u64,
        stop: bool,
    },
    /// Evaluation and snapshot after a step.
    FollowUp {
        step: u64,
        evaluation: bool,
        checkpoint: bool,
        end: bool,
    },
    EdgeBroke,
    AnswerSeal {
        attempt: u64,
    },
}

impl Worker {
    pub(crate) fn new(name: Name, pace: Millis) -> Worker {
        Worker {
            name,
            life: 0,
            alive: false,
            paused_until: 0,
            unreadable: false,
            deaf_to: None,
            heard_at: 0,
            pace,
            session: None,
            welcomed: false,
            conduct: Conduct::default(),
            member: None,
            held: None,
            step: 0,
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.incarnation_of(self.life)
    }

    /// That of one of its process starts.
    pub(crate) fn incarnation_of(&self, life: u64) -> Incarnation {
        let mut bytes = [0; 16];
        let name = xxhash_rust::xxh3::xxh3_64(self.name.as_str().as_bytes());
        bytes[..8].copy_from_slice(&name.to_le_bytes());
        bytes[8..].copy_from_slice(&life.to_le_bytes());
        Incarnation(bytes)
    }

    /// A new process: nothing of the old one is left.
    pub(crate) fn start(&mut self) {
        let (name, pace, life) = (self.name.clone(), self.pace, self.life + 1);
        *self = Worker { life, alive: true, ..Worker::new(name, pace) };
    }

    pub(crate) fn pause(&mut self, until: Millis) {
        self.paused_until = self.paused_until.max(until);
    }

    pub(crate) fn generation(&self) -> Generation {
        self.conduct.generation()
    }

    pub(crate) fn hello(&self) -> Kind {
        Kind::Hello(v1::Hello {
            worker: self.name.to_string(),
            incarnation: self.incarnation().0.to_vec(),
            software_version: "0".to_owned(),
            exchange_address: "127.0.0.1:9".to_owned(),
            device_kind: "cpu".to_owned(),
            threads: 1,
            generation: self.conduct.hello().0,
        })
    }

    pub(crate) fn heartbeat(&self) -> v1::Report {
        let phase = match self.member.as_ref().map(|member| member.stage) {
            None => Phase::Idle,
            Some(Stage::Preparing | Stage::Ready) => Phase::Prepare,
            Some(_) => Phase::Compute,
        };
        let kind = Kind::Heartbeat(v1::Heartbeat { step: self.step, phase: phase.into() });
        v1::Report { generation: self.generation().0, kind: Some(kind) }
    }
}

impl World {
    /// A message of the coordinator arrives.
    pub(crate) fn hear(&mut self, index: usize, message: Down) -> Check {
        let worker = &mut self.workers[index];
        let Down::Plan(plan) = message else {
            (worker.session, worker.welcomed) = (None, false);
            self.reconnect(index);
            return Ok(());
        };
        let actions = match (&plan.kind, worker.welcomed) {
            (Some(plan::Kind::Welcome(welcome)), false) => {
                worker.welcomed = true;
                Ok(worker.conduct.welcome(Generation(welcome.generation)))
            }
            (_, true) => worker.conduct.follow(*plan).map_err(|error| error.to_string()),
            (_, false) => Err("the first plan of a stream is the welcome".to_owned()),
        };
        let actions =
            actions.map_err(|what| broken(Invariant::I10, format!("w{index}: {what}")))?;
        self.flush(index);
        actions.into_iter().try_for_each(|action| self.carry_out_of(index, action))
    }

    /// What the real worker's session, training thread and uploader do.
    fn carry_out_of(&mut self, index: usize, action: Action) -> Check {
        let worker = &mut self.workers[index];
        match action {
            Action::GiveUp { .. } => {
                self.give_up(index);
                if let Some(member) = &mut self.workers[index].member {
                    member.stage = Stage::GivenUp;
                }
            }
            Action::Part { .. } => {
                self.give_up(index);
                self.workers[index].member = None;
            }
            Action::Form { generation, form } => return self.form(index, generation, *form),
            Action::Run(_) => self.run(index),
            Action::Stop(_) => {
                if let Some(member) = &mut worker.member {
                    member.stop = true;
                }
            }
            Action::Seal { attempt, .. } => {
                let delay = self.draws.below(20);
                self.work(index, delay, Work::AnswerSeal { attempt });
            }
            Action::Forget(_) => worker.held = None,
            Action::UploadAgain => {
                if let Some((step, digest)) = worker.member.as_ref().and_then(|member| member.last)
                {
                    self.upload(index, step, digest, true);
                }
            }
            Action::Warm(warm) => {
                let kind = match worker.unreadable {
                    false => Kind::Warmed(v1::Warmed { job_id: warm.job_id }),
                    true => unreadable(),
                };
                let report = v1::Report { generation: 0, kind: Some(kind) };
                let (life, delay) = (worker.life, 50 + self.draws.below(500));
                self.agenda.after(delay, Happening::Later { worker: index, life, report });
            }
            Action::Leave { .. } => self.end_process(index),
        }
        Ok(())
    }

    fn run(&mut self, index: usize) {
        let Some(member) = &mut self.workers[index].member else { return };
        if member.stage != Stage::Ready {
            return;
        }
        let v1::Form { base_step: step, evaluate_base, checkpoint_base, .. } = member.form;
        let end = step == self.total;
        member.stage = Stage::Training(step);
        let (evaluation, checkpoint) = (evaluate_base, checkpoint_base || end);
        self.work(index, 1, Work::FollowUp { step, evaluation, checkpoint, end });
    }

    fn form(&mut self, index: usize, generation: Generation, form: v1::Form) -> Check {
        let worker = &mut self.workers[index];
        let origin = Origin::of(&form, worker.held).map_err(|NotHeld| {
            let (name, held, holders) = (&worker.name, worker.held, &form.holders);
            let base = format!("step {} from {holders:?}", form.base_step);
            broken(
                Invariant::I2,
                format!("generation {generation} takes {base}, {name} holds {held:?}"),
            )
        })?;
        if origin != Origin::Own {
            worker.held = None;
        }
        worker.step = form.base_step;
        let rank = form.rank as usize;
        let (stage, stop, last) = (Stage::Preparing, false, None);
        worker.member = Some(Member { generation, form, rank, stage, stop, last });
        let delay = if self.draws.below(30) == 0 { 3000 } else { 5 + self.draws.below(80) };
        self.work(index, delay, Work::Prepared);
        Ok(())
    }

    /// A piece of work is done; of the generation that it belongs to.
    pub(crate) fn worked(&mut self, index: usize, generation: Generation, work: Work) -> Check {
        let worker = &mut self.workers[index];
        if worker.generation() != generation {
            return Ok(());
        }
        let Some(member) = worker.member.as_mut() else { return Ok(()) };
        let rank = member.rank;
        match (work, member.stage) {
            (Work::Prepared, Stage::Preparing) if worker.unreadable => {
                member.stage = Stage::Broken;
                self.say(index, unreadable());
            }
            (Work::Prepared, Stage::Preparing) => self.connect(index, generation),
            (Work::HandedOver, Stage::Preparing) => return self.take_over(index),
            (Work::Computed { step }, Stage::Training(current)) if step == current => {
                let stop = member.stop;
                let Some(held) = worker.held else { return Ok(()) };
                self.checker.contributes(worker.incarnation(), generation.0)?;
                let Some(exchange) = self.exchanges.get_mut(&generation) else { return Ok(()) };
                let reduced = exchange.contribute(step, rank, Digest(held.digest), stop);
                let members = exchange.members.clone();
                if let Some(reduced) = reduced {
                    self.checker.reduced(generation.0, step, &reduced.from)?;
                    for (other, life) in members {
                        if self.workers[other].life == life {
                            let (delay, stop) = (1 + self.draws.below(15), reduced.stop);
                            self.work_of(other, generation, delay, Work::Apply { step, stop });
                        }
                    }
                }
            }
            (Work::Apply { step, stop }, Stage::Training(current)) if step == current => {
                self.apply(index, generation, step, stop);
            }
            (Work::FollowUp { step, evaluation, checkpoint, end }, Stage::Training(_)) => {
                self.follow_up(index, step, (evaluation, checkpoint, end));
            }
            (Work::EdgeBroke, Stage::Preparing | Stage::Ready | Stage::Training(_)) => {
                member.stage = Stage::Broken;
                let culprit = self.exchanges.get(&generation).and_then(|e| e.broken_by);
                let culprit = culprit.map(|rank| member.form.members[rank].worker.clone());
                let culprit = culprit.filter(|name| name != worker.name.as_str());
                let trouble = v1::Trouble {
                    kind: TroubleKind::TroublePeer.into(),
                    step: worker.step + 1,
                    phase: Phase::Exchange.into(),
                    culprit: culprit.unwrap_or_default(),
                    message: "connection closed".to_owned(),
                };
                self.say(index, Kind::Trouble(trouble));
            }
            (Work::AnswerSeal { attempt }, _) => {
                let held = worker.held.filter(|_| !active(Mutant::SealedWithoutState));
                self.checker.promises(worker.incarnation(), generation.0);
                let held = held.map(Mark::on_wire);
                self.say(index, Kind::Sealed(v1::Sealed { attempt, held }));
            }
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, index: usize, generation: Generation) {
        let Some(member) = &self.workers[index].member else { return };
        let (rank, world) = (member.rank, member.form.members.len());
        let Some(exchange) = self.exchanges.get_mut(&generation) else { return };
        exchange.connected.insert(rank);
        if exchange.broken_by.is_some() {
            return self.work(index, 5, Work::EdgeBroke);
        }
        if !exchange.is_connected() {
            return;
        }
        for rank in 0..world {
            let (other, life) = self.exchanges[&generation].members[rank];
            if self.workers[other].life == life {
                let delay = 2 + self.draws.below(60);
                self.work_of(other, generation, delay, Work::HandedOver);
            }
        }
    }

    /// The base state is here: held all along, from a peer, from a checkpoint, or made from the seed.
    fn take_over(&mut self, index: usize) -> Check {
        let worker = &self.workers[index];
        let Some(member) = &worker.member else { return Ok(()) };
        let (generation, step) = (worker.generation(), member.form.base_step);
        let digest = match (member.form.holders.first(), worker.held) {
            (Some(_), Some(held)) => Digest(held.digest),
            (Some(&holder), None) => {
                let (from, life) = self.exchanges[&generation].members[holder as usize];
                let there = self.workers[from]
                    .held
                    .filter(|held| self.workers[from].life == life && held.step == step);
                // It died, or was sealed and went on: the edge to it breaks, and that is noticed.
                let Some(held) = there else { return Ok(()) };
                Digest(held.digest)
            }
            (None, _) if step == 0 => first_digest(),
            (None, _) => {
                let there = self.disk.checkpoints.iter().any(|entry| entry.step == step);
                // A worker that stood still for long may ask for what is no longer kept.
                let late = self.checker.newest_generation() > generation.0;
                ensure(Invariant::I8, there || late, || {
                    format!("the checkpoint of step {step} is gone")
                })?;
                digest_after(step)
            }
        };
        let worker = &mut self.workers[index];
        worker.held = Some(Mark { generation, step, digest: digest.0 });
        if let Some(member) = &mut worker.member {
            member.stage = Stage::Ready;
        }
        self.checker.says_ready(worker.incarnation(), generation.0);
        self.say(index, Kind::Ready(v1::Ready { step, digest: digest.0.to_vec() }));
        if active(Mutant::TrainsUntold) {
            self.run(index);
        }
        Ok(())
    }

    fn apply(&mut self, index: usize, generation: Generation, step: u64, stop: bool) {
        let worker = &mut self.workers[index];
        let Some(held) = &mut worker.held else { return };
        let digest = next_digest(Digest(held.digest), step).0;
        *held = Mark { generation, step, digest };
        worker.step = step;
        let forward_ns = worker.pace * 1_000_000;
        let done = v1::StepDone {
            step,
            digest: digest.to_vec(),
            loss: 0.5,
            correct: 1,
            gradient_norm: 1.0,
            skipped: None,
            times: Some(v1::PhaseTimes { forward_ns, ..v1::PhaseTimes::default() }),
        };
        self.say(index, Kind::StepDone(done));
        let end = stop || step == self.total;
        let evaluation = self.timeline.evaluates_after(step);
        let checkpoint = self.timeline.checkpoints_after(step) || end;
        let delay = if evaluation { 1 + self.draws.below(40) } else { 0 };
        self.work(index, delay, Work::FollowUp { step, evaluation, checkpoint, end });
    }

    fn follow_up(
        &mut self,
        index: usize,
        step: u64,
        (evaluation, checkpoint, end): (bool, bool, bool),
    ) {
        let (Some(held), Some(member)) = (self.workers[index].held, &self.workers[index].member)
        else {
            return;
        };
        let (rank, world) = (member.rank as u64, member.form.members.len() as u64);
        let slices = member.form.members[member.rank].slice_count;
        if evaluation {
            let len = self.test_len;
            let samples = len * (rank + 1) / world - len * rank / world;
            // The accuracy goes up and down, so that the best checkpoint is not always the newest.
            let correct = samples - samples * (step * 7 % 5) / 10;
            let (correct_top5, loss_fixed) = (samples, 0);
            let evaluated = v1::Evaluated { step, samples, correct, correct_top5, loss_fixed };
            self.say(index, Kind::Evaluated(evaluated));
        }
        if checkpoint {
            self.upload(index, step, Digest(held.digest), end);
        }
        let worker = &mut self.workers[index];
        let pace = worker.pace;
        let Some(member) = &mut worker.member else { return };
        if end {
            member.stage = Stage::Ended;
            member.last = Some((step, Digest(held.digest)));
            return;
        }
        member.stage = Stage::Training(step + 1);
        let delay = pace * u64::from(slices) + self.draws.below(5);
        self.work(index, delay, Work::Computed { step: step + 1 });
    }

    /// A worker's half of the current generation's connections closes.
    pub(crate) fn give_up(&mut self, index: usize) {
        let worker = &self.workers[index];
        let Some(member) = &worker.member else { return };
        if member.stage == Stage::Ended {
            return;
        }
        self.break_exchange(member.generation, member.rank);
    }

    pub(crate) fn break_exchange(&mut self, generation: Generation, rank: usize) {
        let Some(exchange) = self.exchanges.get_mut(&generation) else { return };
        if exchange.broken_by.is_some() {
            return;
        }
        exchange.broken_by = Some(rank);
        for (other, life) in exchange.members.clone() {
            if self.workers[other].life == life {
                let delay = 1 + self.draws.below(30);
                self.work_of(other, generation, delay, Work::EdgeBroke);
            }
        }
    }

    /// Says something of the current generation.
    pub(crate) fn say(&mut self, index: usize, kind: Kind) {
        let generation = self.workers[index].generation().0;
        self.report(index, v1::Report { generation, kind: Some(kind) });
    }

    pub(crate) fn report(&mut self, index: usize, report: v1::Report) {
        self.workers[index].conduct.outbox.push(report);
        self.flush(index);
    }

    /// A stream takes what there is to say; without one it waits.
    fn flush(&mut self, index: usize) {
        while self.workers[index].welcomed
            && let Some(report) = self.workers[index].conduct.outbox.next()
        {
            self.send_up(index, Up::Report(report));
        }
    }

    fn work(&mut self, index: usize, delay: Millis, work: Work) {
        let generation = self.workers[index].generation();
        self.work_of(index, generation, delay, work);
    }

    fn work_of(&mut self, index: usize, generation: Generation, delay: Millis, work: Work) {
        let life = self.workers[index].life;
        self.agenda.after(delay, Happening::Work { worker: index, life, generation, work });
    }
}

fn broken(invariant: Invariant, what: String) -> Violation {
    Violation { invariant, at: 0, what }
}

/// What a process says that can't read the dataset.
fn unreadable() -> Kind {
    let (kind, phase) = (TroubleKind::TroubleDatasetUnreadable.into(), Phase::Prepare.into());
    let message = "no such file".to_owned();
    Kind::Trouble(v1::Trouble { kind, phase, message, ..v1::Trouble::default() })
}
