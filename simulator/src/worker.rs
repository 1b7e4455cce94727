//! What a worker does by the protocol, apart from computing: it keeps its state across generations, promises when it is told
//! to seal, repeats its reports after a break.

use coordinator::core::{Digest, Formation, Held, Plan, Report, StepDone, Tally, Trouble};
use proto::identity::{Generation, Incarnation, Name};
use proto::mutant::{Mutant, active};
use proto::wire::v1::{Phase, PhaseTimes, TroubleKind};

use crate::checker::{Check, Invariant, digest_after, ensure, first_digest, next_digest};
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
    pub(crate) member: Option<Member>,
    held: Option<Held>,
    /// Reports of the generation that the coordinator may not have.
    kept: Vec<(Generation, Report)>,
    step: u64,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) formation: Formation,
    pub(crate) rank: usize,
    pub(crate) stage: Stage,
    stop: bool,
    /// The last state was uploaded, or is being uploaded.
    last: Option<(u64, Digest)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Preparing,
    Ready,
    /// In this step.
    Training(u64),
    /// An edge broke; nothing can be done but wait.
    Broken,
    Sealed,
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
        attempt: Generation,
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
            member: None,
            held: None,
            kept: Vec::new(),
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
        self.member.as_ref().map_or(Generation(0), |member| member.formation.generation)
    }

    pub(crate) fn heartbeat(&self) -> Report {
        let phase = match self.member.as_ref().map(|member| member.stage) {
            None => Phase::Idle,
            Some(Stage::Preparing | Stage::Ready) => Phase::Prepare,
            Some(_) => Phase::Compute,
        };
        Report::Heartbeat { step: self.step, phase }
    }
}

impl World {
    /// A message of the coordinator arrives.
    pub(crate) fn hear(&mut self, index: usize, message: Down) -> Check {
        let greeted = self.workers[index].welcomed;
        ensure(
            Invariant::I10,
            greeted != matches!(message, Down::Welcome { .. }) || matches!(message, Down::Broken),
            || format!("w{index} hears {message:?}, but the first plan of a stream is the welcome"),
        )?;
        match message {
            Down::Broken => {
                self.workers[index].session = None;
                self.workers[index].welcomed = false;
                self.reconnect(index);
                Ok(())
            }
            Down::Welcome { generation } => {
                let worker = &mut self.workers[index];
                worker.welcomed = true;
                if worker.generation() != generation {
                    self.give_up(index);
                    let worker = &mut self.workers[index];
                    (worker.member, worker.held) = (None, None);
                    worker.kept.clear();
                }
                for (generation, report) in self.workers[index].kept.clone() {
                    if active(Mutant::OutboxForgotten) {
                        break;
                    }
                    self.send_up(index, Up::Report(generation, report));
                }
                let last = self.workers[index].member.as_ref().and_then(|member| member.last);
                if let Some((step, digest)) = last
                    && !active(Mutant::LastUploadNotRepeated)
                {
                    self.upload(index, step, digest, true);
                }
                Ok(())
            }
            Down::Form { formation, rank } => self.form(index, *formation, rank),
            Down::Warm { job } => {
                let report = match self.workers[index].unreadable {
                    false => Report::Warm { job },
                    true => Report::Trouble(unreadable()),
                };
                self.send_up_later(index, Generation(0), report);
                Ok(())
            }
            Down::Plan { generation, plan } => self.follow(index, generation, plan),
        }
    }

    fn follow(&mut self, index: usize, generation: Generation, plan: Plan) -> Check {
        let worker = &mut self.workers[index];
        let current = worker.generation() == generation;
        let Some(member) = worker.member.as_mut().filter(|_| current) else {
            if matches!(plan, Plan::Goodbye { .. }) {
                self.end_process(index);
            }
            return Ok(());
        };
        match plan {
            Plan::Run if member.stage == Stage::Ready => {
                let (base, redo) = (member.formation.base.step, member.formation.redo);
                let end = base == self.total;
                member.stage = Stage::Training(base);
                let (evaluation, checkpoint) = (redo.evaluation, redo.checkpoint || end);
                self.work(index, 1, Work::FollowUp { step: base, evaluation, checkpoint, end });
            }
            Plan::Run => {}
            Plan::Stop => member.stop = true,
            Plan::Seal { attempt } => {
                if !active(Mutant::TrainsAfterSealing) {
                    self.give_up(index);
                    if let Some(member) = &mut self.workers[index].member {
                        member.stage = Stage::Sealed;
                    }
                }
                let delay = self.draws.below(20);
                self.work(index, delay, Work::AnswerSeal { attempt });
            }
            Plan::Committed { step } => worker.kept.retain(|(_, report)| match report {
                Report::StepDone(done) => done.step > step,
                _ => !active(Mutant::AcknowledgementForgetsAll),
            }),
            Plan::Abandon { .. } | Plan::Release => {
                self.give_up(index);
                let worker = &mut self.workers[index];
                (worker.member, worker.held) = (None, None);
                worker.kept.clear();
            }
            Plan::Goodbye { .. } => self.end_process(index),
        }
        Ok(())
    }

    fn form(&mut self, index: usize, formation: Formation, rank: usize) -> Check {
        self.give_up(index);
        let generation = formation.generation;
        let worker = &mut self.workers[index];
        worker.kept.retain(|(of, _)| *of >= generation);
        let holds = formation.holders.contains(&(rank as u32));
        let base = formation.base;
        let held = worker.held;
        if holds {
            let stands =
                held.is_some_and(|held| held.step == base.step && Some(held.digest) == base.digest);
            ensure(Invariant::I2, stands, || {
                format!(
                    "generation {generation} counts on {} to hold {base:?}, it holds {held:?}",
                    worker.name
                )
            })?;
        } else {
            worker.held = None;
        }
        worker.step = base.step;
        let (stage, stop, last) = (Stage::Preparing, false, None);
        worker.member = Some(Member { formation, rank, stage, stop, last });
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
                self.report(index, generation, Report::Trouble(unreadable()));
            }
            (Work::Prepared, Stage::Preparing) => self.connect(index, generation),
            (Work::HandedOver, Stage::Preparing) => return self.take_over(index),
            (Work::Computed { step }, Stage::Training(current)) if step == current => {
                let stop = member.stop;
                let Some(held) = worker.held else { return Ok(()) };
                self.checker.contributes(worker.incarnation(), generation.0)?;
                let Some(exchange) = self.exchanges.get_mut(&generation) else { return Ok(()) };
                let reduced = exchange.contribute(step, rank, held.digest, stop);
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
                self.follow_up(index, generation, step, (evaluation, checkpoint, end));
            }
            (Work::EdgeBroke, Stage::Preparing | Stage::Ready | Stage::Training(_)) => {
                member.stage = Stage::Broken;
                let culprit = self.exchanges.get(&generation).and_then(|e| e.broken_by);
                let culprit = culprit.map(|rank| member.formation.members[rank].name.clone());
                let kind = TroubleKind::TroublePeer;
                let (step, message) = (worker.step + 1, "connection closed".to_owned());
                let culprit = culprit.filter(|name| *name != worker.name);
                let trouble = Trouble { kind, step, phase: Phase::Exchange, culprit, message };
                self.report(index, generation, Report::Trouble(trouble));
            }
            (Work::AnswerSeal { attempt }, stage)
                if stage == Stage::Sealed || active(Mutant::TrainsAfterSealing) =>
            {
                let held = worker.held.filter(|_| !active(Mutant::SealedWithoutState));
                self.checker.promises(worker.incarnation(), generation.0);
                self.report(index, generation, Report::Sealed { attempt, held });
            }
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, index: usize, generation: Generation) {
        let Some(member) = &self.workers[index].member else { return };
        let (rank, members) = (member.rank, member.formation.members.clone());
        let Some(exchange) = self.exchanges.get_mut(&generation) else { return };
        exchange.connected.insert(rank);
        if exchange.broken_by.is_some() {
            return self.work(index, 5, Work::EdgeBroke);
        }
        if !exchange.is_connected() {
            return;
        }
        for rank in 0..members.len() {
            let (other, life) = self.exchanges[&generation].members[rank];
            if self.workers[other].life == life {
                let delay = 2 + self.draws.below(60);
                self.work_of(other, generation, delay, Work::HandedOver);
            }
        }
    }

    /// The base state is here: held all along, from a peer, from a checkpoint, or made from the seed.
    fn take_over(&mut self, index: usize) -> Check {
        let Some(member) = &self.workers[index].member else { return Ok(()) };
        let Formation { generation, base, holders, .. } = member.formation.clone();
        let digest = match (holders.first(), self.workers[index].held) {
            (Some(_), Some(held)) => held.digest,
            (Some(&holder), None) => {
                let (from, life) = self.exchanges[&generation].members[holder as usize];
                let there = self.workers[from]
                    .held
                    .filter(|held| self.workers[from].life == life && held.step == base.step);
                // It died, or was sealed and went on: the edge to it breaks, and that is noticed.
                let Some(held) = there else { return Ok(()) };
                held.digest
            }
            (None, _) if base.step == 0 => first_digest(),
            (None, _) => {
                let there = self.disk.checkpoints.iter().any(|entry| entry.step == base.step);
                // A worker that stood still for long may ask for what is no longer kept.
                let late = self.checker.newest_generation() > generation.0;
                ensure(Invariant::I8, there || late, || {
                    format!("the checkpoint of step {} is gone", base.step)
                })?;
                digest_after(base.step)
            }
        };
        let step = base.step;
        let worker = &mut self.workers[index];
        worker.held = Some(Held { generation, step, digest });
        if let Some(member) = &mut worker.member {
            member.stage = Stage::Ready;
        }
        self.checker.says_ready(worker.incarnation(), generation.0);
        self.report(index, generation, Report::Ready { step, digest });
        if active(Mutant::TrainsUntold) {
            return self.follow(index, generation, Plan::Run);
        }
        Ok(())
    }

    fn apply(&mut self, index: usize, generation: Generation, step: u64, stop: bool) {
        let worker = &mut self.workers[index];
        let Some(held) = &mut worker.held else { return };
        let digest = next_digest(held.digest, step);
        *held = Held { generation, step, digest };
        worker.step = step;
        let times = PhaseTimes { forward_ns: worker.pace * 1_000_000, ..PhaseTimes::default() };
        let (loss, correct, gradient_norm) = (0.5, 1, 1.0);
        let skipped = None;
        let done = StepDone { step, digest, loss, correct, gradient_norm, skipped, times };
        self.report(index, generation, Report::StepDone(done));
        let end = stop || step == self.total;
        let evaluation = self.timeline.evaluates_after(step);
        let checkpoint = self.timeline.checkpoints_after(step) || end;
        let delay = if evaluation { 1 + self.draws.below(40) } else { 0 };
        self.work(index, delay, Work::FollowUp { step, evaluation, checkpoint, end });
    }

    fn follow_up(
        &mut self,
        index: usize,
        generation: Generation,
        step: u64,
        (evaluation, checkpoint, end): (bool, bool, bool),
    ) {
        let (Some(held), Some(member)) = (self.workers[index].held, &self.workers[index].member)
        else {
            return;
        };
        let (rank, world) = (member.rank as u64, member.formation.members.len() as u64);
        let slices = member.formation.members[member.rank].slices.clone();
        if evaluation {
            let len = self.test_len;
            let samples = len * (rank + 1) / world - len * rank / world;
            // The accuracy goes up and down, so that the best checkpoint is not always the newest.
            let correct = samples - samples * (step * 7 % 5) / 10;
            let (correct_top5, loss_fixed) = (samples, 0);
            let tally = Tally { samples, correct, correct_top5, loss_fixed };
            self.report(index, generation, Report::Evaluated { step, tally });
        }
        if checkpoint {
            self.upload(index, step, held.digest, end);
        }
        let worker = &mut self.workers[index];
        let pace = worker.pace;
        let Some(member) = &mut worker.member else { return };
        if end {
            member.stage = Stage::Ended;
            member.last = Some((step, held.digest));
            return;
        }
        member.stage = Stage::Training(step + 1);
        let delay = pace * u64::from(slices.end - slices.start) + self.draws.below(5);
        self.work(index, delay, Work::Computed { step: step + 1 });
    }

    /// A worker's half of the current generation's connections closes.
    pub(crate) fn give_up(&mut self, index: usize) {
        let worker = &self.workers[index];
        let Some(member) = &worker.member else { return };
        if member.stage == Stage::Ended {
            return;
        }
        let (generation, rank) = (member.formation.generation, member.rank);
        self.break_exchange(generation, rank);
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

    /// Says something of a generation, and keeps it in case nobody listens.
    pub(crate) fn report(&mut self, index: usize, generation: Generation, report: Report) {
        let worker = &mut self.workers[index];
        worker.kept.push((generation, report.clone()));
        if worker.welcomed {
            self.send_up(index, Up::Report(generation, report));
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

/// What a process says that can't read the dataset.
fn unreadable() -> Trouble {
    let (kind, phase) = (TroubleKind::TroubleDatasetUnreadable, Phase::Prepare);
    Trouble { kind, step: 0, phase, culprit: None, message: "no such file".to_owned() }
}
