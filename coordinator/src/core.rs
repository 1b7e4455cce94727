//! The coordinator's brain: a pure state machine. Events in, actions out; no tokio, clock, randomness, socket or file, and
//! only ordered collections, so that equal events give equal actions.
//!
//! In reading order: `event` and `action` (its language), `job` and `roster` and `membership` (what it remembers), `submit` (jobs come
//! and go), `progress` (steps are committed, checkpoints sealed), `loss` (what went wrong, and whose fault it was),
//! `quarantine` (images that can't be decoded), `record` (what outlives the process), `view` (what people see).
//!
//! A job outlives its generations: `Membership` is dropped as a whole, and the next one is formed by `schedule`.

mod event;
mod action;
mod job;
mod roster;
mod membership;
mod submit;
mod progress;
mod loss;
mod quarantine;
mod record;
mod view;

use std::collections::VecDeque;
use std::time::Duration;

use proto::identity::{Generation, JobId};

pub use action::*;
pub use event::*;
pub use job::{
    CheckpointEntry, DatasetFacts, JobSpec, Shortage, Submission, WeightsFacts, best_checkpoint,
    differing_keys,
};
pub use membership::share_slices;
pub use quarantine::BadCounts;
pub use record::{End, MemberRecord, Record, ReplayError};
pub use view::JobView;

use job::{JobRun, Stage};
use membership::{Membership, joined};
use roster::Roster;

/// Everything the coordinator knows.
#[derive(Debug, Default)]
pub struct Cluster {
    roster: Roster,
    /// Oldest first.
    jobs: Vec<JobRun>,
    /// Jobs that have not ended, in the order in which they run. Only the first one does.
    queue: VecDeque<JobId>,
    /// The current generation, if any.
    membership: Option<Membership>,
    /// Newest generation number used or burned.
    generation: Generation,
    /// Starts of the coordinator, this one included.
    boot: u64,
    /// The caller's time of the event in hand.
    now: Duration,
    /// Time that silence is measured on: stands still while the driver itself is late.
    clock: Duration,
    actions: Vec<Action>,
}

impl Cluster {
    /// Begins this process's life after the last `replay`: burns a generation number, so that one whose record was torn
    /// is not used again, and ends jobs that the previous process left behind.
    pub fn boot(&mut self) -> Vec<Action> {
        self.boot += 1;
        self.generation = Generation(self.generation.0 + 1);
        let (boot, generation) = (self.boot, self.generation.0);
        self.push(Action::Journal(Record::Booted { boot, generation }));
        let open = self.jobs.iter().filter(|job| !matches!(job.stage, Stage::Ended(_)));
        let open: Vec<(JobId, u64)> =
            open.map(|job| (job.id.clone(), job.watermark.step)).collect();
        for (job, step) in open {
            let reason = format!(
                "the coordinator ended while this job stood at step {step}; the same job, run again, goes on"
            );
            self.log(Some(&job), Level::Warn, format!("job {job}: {reason}"));
            self.conclude(&job, Outcome::Failed { cause: Cause::Interrupted, reason });
        }
        std::mem::take(&mut self.actions)
    }

    /// Advances the cluster by one event. Reads no clock: `now` belongs to the caller and never runs backwards.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.clock += now.saturating_sub(self.now).min(GAP_MAX);
        self.now = now;
        match event {
            Event::Joined(candidate) => self.admit(candidate),
            Event::Reported { session, generation, report } => {
                self.record(session, generation, report);
            }
            Event::StreamEnded { session, cause } => self.lose(session, &cause),
            Event::NeverJoined { worker, cause } => self.miss(&worker, &cause),
            Event::Submitted { ticket, submission } => self.submit(ticket, *submission),
            Event::BaseFound { job, search } => self.resume(&job, search),
            Event::StopRequested { ticket, job } => self.stop(ticket, &job),
            Event::CheckpointAssembled { job, generation, step } => {
                self.assemble(&job, generation, step);
            }
            Event::CheckpointSealed { job, entry } => self.seal(&job, entry),
            Event::CheckpointFailed { job, generation, step, problem } => {
                self.give_up(&job, generation, step, problem);
            }
            Event::Dismissed { reason } => self.dismiss(&reason),
            Event::Tick => self.expire(),
        }
        self.schedule();
        std::mem::take(&mut self.actions)
    }

    fn admit(&mut self, candidate: Candidate) {
        let session = candidate.session;
        if let Err(refusal) = self.roster.admit(self.clock, &candidate) {
            self.log(None, Level::Warn, format!("worker {} refused: {refusal}", candidate.name));
            self.push(Action::Refuse { session, refusal });
            return;
        }
        let Candidate { name, device_kind, threads, address, software_version, .. } = candidate;
        self.push(Action::Admit(session));
        let text = format!(
            "worker {name} joined: {device_kind}, threads {threads}, exchange {address}, version {software_version}"
        );
        self.log(None, Level::Info, text);
    }

    fn dismiss(&mut self, reason: &str) {
        let sessions: Vec<SessionId> = self.roster.iter().map(|worker| worker.session).collect();
        for session in sessions {
            if let Some(worker) = self.roster.get_mut(session) {
                worker.dismissed = true;
            }
            let plan = Plan::Goodbye { reason: reason.to_owned() };
            self.push(Action::Send { session, generation: Generation(0), plan });
        }
    }

    /// Starts a generation for the oldest job that has not ended, if nothing is running and enough workers are idle.
    fn schedule(&mut self) {
        if self.membership.is_some() {
            return;
        }
        let Some(head) = self.queue.front() else { return };
        let Some(job) = self.jobs.iter().find(|job| job.id == *head) else { return };
        if job.stage != Stage::Queued {
            return;
        }
        let crew = self.roster.crew(job.device_kind.as_deref(), &job.excluded);
        if crew.len() < job.workers as usize {
            return;
        }
        let crew = &crew[..crew.len().min(job.slices() as usize)];
        let slices = share_slices(job.slices(), crew.len() as u32);
        let members = crew.iter().zip(slices).map(|(worker, slices)| Member {
            session: worker.session,
            name: worker.name.clone(),
            incarnation: worker.incarnation,
            address: worker.address.clone(),
            slices,
        });
        let (device_kind, members) = (crew[0].device_kind.clone(), members.collect());
        self.form(head.clone(), device_kind, members);
    }

    fn form(&mut self, id: JobId, device_kind: String, members: Vec<Member>) {
        self.generation = Generation(self.generation.0 + 1);
        let (generation, clock) = (self.generation, self.clock);
        let Some(job) = self.job_mut(&id) else { return };
        job.stage = Stage::Active;
        job.generation = generation;
        job.device_kind = Some(device_kind.clone());
        let (base, spec) = (job.base, job.spec.clone());
        let place = (base.step, base.digest);
        let membership = Membership::new(generation, id.clone(), place, members.clone(), clock);
        self.push(Action::Journal(Record::Formed {
            job: id.to_string(),
            generation: generation.0,
            device_kind,
            base_step: base.step,
            base_digest: base.digest.map(|digest| digest.to_string()),
            members: membership.seats.iter().map(MemberRecord::from).collect(),
        }));
        let count = members.len() as u32;
        self.push(Action::OpenUploads { job: id.clone(), generation, members: count });
        let places = members.iter().map(|member| {
            format!("{} (slices {}-{})", member.name, member.slices.start, member.slices.end - 1)
        });
        let text = format!(
            "generation {generation}: job {id} from step {} on {}",
            base.step,
            joined(places)
        );
        self.log(Some(&id), Level::Info, text);
        let base_step = base.step;
        let formation = Formation { job: id, spec, generation, base_step, members };
        self.push(Action::Form(Box::new(formation)));
        self.membership = Some(membership);
    }

    /// The newest generation number in use.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    fn job(&self, id: &JobId) -> Option<&JobRun> {
        self.jobs.iter().find(|job| job.id == *id)
    }

    fn job_mut(&mut self, id: &JobId) -> Option<&mut JobRun> {
        self.jobs.iter_mut().find(|job| job.id == *id)
    }

    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn log(&mut self, job: Option<&JobId>, level: Level, text: String) {
        self.push(Action::Log { job: job.cloned(), level, text });
    }
}

/// How often the driver sends `Event::Tick`.
pub const TICK: Duration = Duration::from_millis(100);
/// Longest time that counts between two events: if more passed, the driver was late, not the workers.
pub const GAP_MAX: Duration = Duration::from_millis(300);
/// How often workers send heartbeats.
pub const HEARTBEAT: Duration = Duration::from_millis(250);
/// A worker silent for this long is lost.
pub const LOST_AFTER: Duration = Duration::from_millis(2000);
/// A generation must be ready within this time: reading data, fetching a checkpoint, connecting.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// A generation that runs hears of progress within this time: a step, an evaluation, or, after the last step, the end of the
/// last upload.
pub const PROGRESS_WITHIN: Duration = Duration::from_secs(20 * 60);
/// A broken edge waits this long for the death that explains it.
pub const GRACE: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests;
