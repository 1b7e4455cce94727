//! What a worker does by the protocol, as a value: which plans it obeys and which are late, what it says again over a new
//! stream, when it gives a generation up, and when what it holds is of no use any more.
//!
//! Knows no socket, thread or clock. `session` carries its actions out, and so does the simulator.

mod mark;
mod outbox;

use proto::Generation;
use proto::mutant::{Mutant, active};
use proto::wire::v1::{self, plan};

pub use mark::{Mark, NotHeld, Origin};
pub use outbox::Outbox;

/// A worker, from its start to its end: it outlives streams and generations.
#[derive(Debug, Default)]
pub struct Conduct {
    /// The generation that it is a member of.
    membership: Option<Generation>,
    /// Everything that it reports but heartbeats, which nobody needs to hear twice.
    pub outbox: Outbox,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// End the current generation's exchange and every wait of it, wherever it stands. What the worker holds stays.
    GiveUp { reason: String },
    /// Let go of everything that belongs to this generation, of which the worker is no member any more; for the log, why.
    Part { generation: Generation, cause: String },
    /// Become a member: get what the generation starts from, then prepare.
    Form { generation: Generation, form: Box<v1::Form> },
    /// Train, if it is ready and has not begun.
    Run(Generation),
    /// Vote for an end after the current step.
    Stop(Generation),
    /// Vote for a pause behind the current step.
    Pause(Generation),
    /// Train no more, and report what is held.
    Seal { generation: Generation, attempt: u64 },
    /// Train no more, and drop what is held.
    Forget(Generation),
    /// Where training has ended: send the last state once more. A coordinator that was away may have lost what it had.
    UploadAgain,
    /// Get ready for a job.
    Warm(v1::Warm),
    /// End the process.
    Leave { reason: String },
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("follow the coordinator: it sent a plan that this release does not know")]
pub struct UnknownPlan;

impl Conduct {
    /// That this worker is a member of; 0 without one.
    pub fn generation(&self) -> Generation {
        self.membership.unwrap_or_default()
    }

    /// The generation to name when a new stream begins.
    pub fn hello(&self) -> Generation {
        if active(Mutant::RejoinsAsStranger) { Generation(0) } else { self.generation() }
    }

    /// A stream begins; in this generation the worker still counts.
    pub fn welcome(&mut self, generation: Generation) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.generation() != generation && self.membership.is_some() {
            let reason = "the cluster has gone on without this worker".to_owned();
            actions = self.abandon("it is over".to_owned(), reason);
            self.outbox.forget_all();
        }
        self.outbox.rewind();
        if self.membership.is_some() && !active(Mutant::LastUploadNotRepeated) {
            actions.push(Action::UploadAgain);
        }
        actions
    }

    /// A plan that is not the stream's first.
    pub fn follow(&mut self, plan: v1::Plan) -> Result<Vec<Action>, UnknownPlan> {
        let generation = Generation(plan.generation);
        let actions = match plan.kind {
            Some(plan::Kind::Form(form)) => self.form(generation, Box::new(form)),
            Some(plan::Kind::Warm(warm)) => vec![Action::Warm(warm)],
            Some(plan::Kind::Goodbye(goodbye)) => vec![Action::Leave { reason: goodbye.reason }],
            Some(plan::Kind::Welcome(_)) | None => return Err(UnknownPlan),
            // Of another generation: late.
            Some(_) if self.membership != Some(generation) => Vec::new(),
            Some(plan::Kind::Run(_)) => vec![Action::Run(generation)],
            Some(plan::Kind::Stop(_)) => vec![Action::Stop(generation)],
            Some(plan::Kind::Pause(_)) => vec![Action::Pause(generation)],
            Some(plan::Kind::Seal(seal)) => self.seal(generation, seal.attempt),
            Some(plan::Kind::Abandon(abandon)) => {
                self.abandon(format!("abandoned: {}", abandon.reason), abandon.reason)
            }
            Some(plan::Kind::Release(_)) => self.release(generation),
            Some(plan::Kind::Committed(committed)) => {
                self.outbox.acknowledge(generation, committed.step);
                Vec::new()
            }
        };
        Ok(actions)
    }

    fn form(&mut self, generation: Generation, form: Box<v1::Form>) -> Vec<Action> {
        let reason = "a newer generation was formed".to_owned();
        let old = self.membership.replace(generation).map(|_| Action::GiveUp { reason });
        self.outbox.forget_before(generation);
        old.into_iter().chain([Action::Form { generation, form }]).collect()
    }

    /// The worker stays a member, so that a new stream is told of it, and it of what follows.
    fn seal(&self, generation: Generation, attempt: u64) -> Vec<Action> {
        let seal = Action::Seal { generation, attempt };
        if active(Mutant::TrainsAfterSealing) {
            return vec![seal];
        }
        vec![Action::GiveUp { reason: "the generation was sealed".to_owned() }, seal]
    }

    /// Ends the current generation and forgets what is held. What was reported of it stays until another one is formed.
    fn abandon(&mut self, cause: String, reason: String) -> Vec<Action> {
        let Some(generation) = self.membership.take() else { return Vec::new() };
        let part = Action::Part { generation, cause };
        vec![Action::GiveUp { reason }, part, Action::Forget(generation)]
    }

    /// The job is over: nobody asks for what the worker holds any more.
    fn release(&mut self, generation: Generation) -> Vec<Action> {
        self.membership = None;
        self.outbox.forget_before(generation.next());
        let cause = "job ended".to_owned();
        vec![Action::Part { generation, cause }, Action::Forget(generation)]
    }
}

#[cfg(test)]
mod tests;
