//! Scripts: events in, actions out. No sleeping, no sockets: time is a number.

mod jobs;
mod growth;
mod guards;
mod losses;
mod quarantine;
mod lives;
mod running;

use std::collections::BTreeSet;

use proto::wire::v1::{Phase, PhaseTimes, TroubleKind};
use proto::{Incarnation, Name};

use super::*;
use crate::fixtures::{TEST_LEN, spec};

/// A cluster and the events that have been told to it.
struct Script {
    core: Cluster,
    now: Duration,
    joined: u64,
    /// Live workers that send heartbeats while time goes by.
    beating: BTreeSet<SessionId>,
    /// Every action so far.
    done: Vec<Action>,
}

impl Script {
    fn new() -> Script {
        let mut core = Cluster::default();
        let done = core.boot();
        Script { core, now: Duration::ZERO, joined: 0, beating: BTreeSet::new(), done }
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        let actions = self.core.apply(self.now, event);
        self.done.extend(actions.clone());
        actions
    }

    fn join(&mut self, worker: &str) -> SessionId {
        self.join_as(worker, "cpu").0
    }

    fn join_as(&mut self, worker: &str, device_kind: &str) -> (SessionId, Vec<Action>) {
        self.joined += 1;
        let session = SessionId(self.joined);
        self.beating.insert(session);
        let actions = self.tell(Event::Joined(Candidate {
            session,
            name: name(worker),
            incarnation: Incarnation([self.joined as u8; 16]),
            generation: Generation(0),
            address: format!("10.0.0.{}:9", self.joined),
            device_kind: device_kind.to_owned(),
            threads: 1,
            software_version: "0".to_owned(),
        }));
        (session, actions)
    }

    fn submit(&mut self, workers: u32) -> Vec<Action> {
        self.submit_with(waiting(workers))
    }

    fn submit_with(&mut self, submission: Submission) -> Vec<Action> {
        let ticket = Ticket(self.done.len() as u64);
        self.tell(Event::Submitted { ticket, submission: Box::new(submission) })
    }

    fn report(&mut self, session: SessionId, report: Report) -> Vec<Action> {
        let generation = self.generation();
        self.tell(Event::Reported { session, generation, report })
    }

    /// The generation that workers speak of: while one is being sealed, the number of the next is drawn already.
    fn generation(&self) -> Generation {
        let current = self.core.membership.as_ref().map(|membership| membership.generation);
        current.unwrap_or(self.core.generation())
    }

    /// These members give their generation up and hold the state after `step`.
    fn seal(&mut self, sessions: &[SessionId], step: u64) -> Vec<Action> {
        let held = Held { generation: self.generation(), step, digest: digest(step) };
        self.seal_with(sessions, Some(held))
    }

    fn seal_with(&mut self, sessions: &[SessionId], held: Option<Held>) -> Vec<Action> {
        let attempt = self.core.generation();
        let report = Report::Sealed { attempt, held };
        sessions.iter().flat_map(|&session| self.report(session, report.clone())).collect()
    }

    fn ready(&mut self, sessions: &[SessionId], step: u64) -> Vec<Action> {
        let report = Report::Ready { step, digest: digest(step) };
        sessions.iter().flat_map(|&session| self.report(session, report.clone())).collect()
    }

    /// All members report the step.
    fn step(&mut self, sessions: &[SessionId], step: u64) -> Vec<Action> {
        sessions.iter().flat_map(|&session| self.report(session, done(step))).collect()
    }

    /// All members report the step, behind which they wait.
    fn pause(&mut self, sessions: &[SessionId], step: u64) -> Vec<Action> {
        let Report::StepDone(done) = done(step) else { unreachable!("it is a step") };
        let report = Report::StepDone(StepDone { paused: true, ..done });
        sessions.iter().flat_map(|&session| self.report(session, report.clone())).collect()
    }

    /// All members report their share of a perfect evaluation but for `wrong` images.
    fn evaluate(&mut self, sessions: &[SessionId], step: u64, wrong: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        for (rank, &session) in sessions.iter().enumerate() {
            let samples = if rank == 0 { TEST_LEN - sessions.len() as u64 + 1 } else { 1 };
            let correct = if rank == 0 { samples - wrong } else { samples };
            let tally = Tally { samples, correct, correct_top5: samples, loss_fixed: 1 << 20 };
            actions.extend(self.report(session, Report::Evaluated { step, tally }));
        }
        actions
    }

    fn assembled(&mut self, job: &str, step: u64) -> Vec<Action> {
        let generation = self.generation();
        self.tell(Event::CheckpointAssembled { job: name(job), generation, step })
    }

    fn finish(&mut self, sessions: &[SessionId], step: u64) -> Vec<Action> {
        let model_sha256 = format!("{step:064x}");
        let report = Report::Finished { step, model_sha256 };
        sessions.iter().flat_map(|&session| self.report(session, report.clone())).collect()
    }

    /// A job on two workers that runs, at step `steps`.
    fn running(steps: u64) -> (Script, [SessionId; 2]) {
        Script::running_as(local(2), steps)
    }

    fn running_as(submission: Submission, steps: u64) -> (Script, [SessionId; 2]) {
        let mut script = Script::new();
        script.submit_with(submission);
        let members = [script.join("w1"), script.join("w2")];
        script.ready(&members, 0);
        for step in 1..=steps {
            script.step(&members, step);
        }
        (script, members)
    }

    /// Time goes by in ticks, more than there would be, with the heartbeats of the live workers.
    fn pass(&mut self, milliseconds: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        for tick in 1..=milliseconds / 100 {
            self.now += Duration::from_millis(100);
            if tick % 5 == 0 {
                for session in self.beating.clone() {
                    actions.extend(self.beat(session, 0, Phase::Compute));
                }
            }
            actions.extend(self.tell(Event::Tick));
        }
        actions
    }

    fn beat(&mut self, session: SessionId, step: u64, phase: Phase) -> Vec<Action> {
        let report = Report::Heartbeat { step, phase };
        self.report(session, report)
    }

    fn end_stream(&mut self, session: SessionId) -> Vec<Action> {
        self.beating.remove(&session);
        self.tell(Event::StreamEnded { session, cause: "connection closed".to_owned() })
    }

    fn complain(&mut self, session: SessionId, culprit: &str, step: u64) -> Vec<Action> {
        self.report(session, trouble(TroubleKind::TroublePeer, step, Some(culprit)))
    }

    fn stop(&mut self, job: &str) -> Vec<Action> {
        self.tell(Event::StopRequested { ticket: Ticket(1), job: name(job) })
    }

    fn state(&self, job: &str) -> (proto::wire::v1::JobState, String) {
        let found = self.core.job_statuses().into_iter().find(|found| found.job_id == job);
        let found = found.unwrap();
        (found.state(), found.reason)
    }
}

/// A job that waits for workers to come.
fn waiting(workers: u32) -> Submission {
    let (policy, shortage) = (Policy::default(), Shortage::Wait);
    Submission { spec: spec(), workers, policy, fresh: false, shortage }
}

/// A job whose workers are all that will ever come.
fn local(workers: u32) -> Submission {
    Submission { shortage: Shortage::Fail, ..waiting(workers) }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn digest(step: u64) -> Digest {
    Digest(u128::from(step).to_be_bytes())
}

fn done(step: u64) -> Report {
    let times = PhaseTimes::default();
    Report::StepDone(StepDone {
        step,
        digest: digest(step),
        loss: 0.25,
        correct: 9,
        gradient_norm: 1.5,
        skipped: None,
        paused: false,
        times,
    })
}

fn trouble(kind: TroubleKind, step: u64, culprit: Option<&str>) -> Report {
    Report::Trouble(Trouble {
        kind,
        step,
        phase: Phase::Exchange,
        culprit: culprit.map(name),
        message: "connection reset".to_owned(),
    })
}

/// Log lines of at least this level.
fn lines(actions: &[Action], least: Level) -> Vec<&str> {
    let texts = actions.iter().filter_map(|action| match action {
        Action::Log { level, text, .. } if *level >= least => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

fn formation(actions: &[Action]) -> Option<&Formation> {
    actions.iter().find_map(|action| match action {
        Action::Form(formation) => Some(formation.as_ref()),
        _ => None,
    })
}

fn plans(actions: &[Action], wanted: &Plan) -> Vec<SessionId> {
    let sent = actions.iter().filter_map(|action| match action {
        Action::Send { session, plan, .. }
            if std::mem::discriminant(plan) == std::mem::discriminant(wanted) =>
        {
            Some(*session)
        }
        _ => None,
    });
    sent.collect()
}

fn abandoned(actions: &[Action]) -> Vec<SessionId> {
    plans(actions, &Plan::Abandon { reason: String::new() })
}

fn answer(actions: &[Action]) -> Option<&Answer> {
    actions.iter().find_map(|action| match action {
        Action::Answer { answer, .. } => Some(answer),
        _ => None,
    })
}

fn outcome(actions: &[Action]) -> Option<&Outcome> {
    actions.iter().find_map(|action| match action {
        Action::Finish { outcome, .. } => Some(outcome),
        _ => None,
    })
}

fn records(actions: &[Action]) -> Vec<&Record> {
    let records = actions.iter().filter_map(|action| match action {
        Action::Journal(record) => Some(record),
        _ => None,
    });
    records.collect()
}

fn seals(actions: &[Action]) -> Vec<u64> {
    let sealed = actions.iter().filter_map(|action| match action {
        Action::Seal(order) => Some(order.step),
        _ => None,
    });
    sealed.collect()
}
