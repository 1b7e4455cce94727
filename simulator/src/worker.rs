//! A worker: it decides by the real one's `Conduct`, and carries out in simulated time what a session, a training thread
//! and an uploader would.

mod training;

use coordinator::core::Digest;
use proto::identity::{Generation, Incarnation, Name};
use proto::wire::v1::{self, Phase, TroubleKind, plan, report::Kind};
use worker::conduct::{Action, Conduct, Mark, NotHeld, Origin};

use crate::checker::{Check, Invariant, Violation};
use crate::exchange::Votes;
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
    votes: Votes,
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
        votes: Votes,
    },
    /// Evaluation and snapshot after a step.
    FollowUp {
        step: u64,
        evaluation: bool,
        checkpoint: bool,
        then: Then,
    },
    EdgeBroke,
    AnswerSeal {
        attempt: u64,
    },
}

/// What comes when a step and what follows it are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Train,
    Pause,
    End,
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
                    member.votes.stop = true;
                }
            }
            Action::Pause(_) => {
                if let Some(member) = &mut worker.member {
                    member.votes.pause = true;
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
        let then = if step == self.total { Then::End } else { Then::Train };
        member.stage = Stage::Training(step);
        let (evaluation, checkpoint) = (evaluate_base, checkpoint_base || then == Then::End);
        self.work(index, 1, Work::FollowUp { step, evaluation, checkpoint, then });
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
        let (stage, votes, last) = (Stage::Preparing, Votes::default(), None);
        worker.member = Some(Member { generation, form, rank, stage, votes, last });
        let delay = if self.draws.below(30) == 0 { 3000 } else { 5 + self.draws.below(80) };
        self.work(index, delay, Work::Prepared);
        Ok(())
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
