//! The coordinator's brain: a pure state machine. Events in, actions out; no tokio, clock, randomness, socket or file, and
//! only ordered collections, so that equal events give equal actions.
//!
//! In reading order: `event` and `action` (its language), `job` and `roster` and `membership` (what it remembers), `submit` (jobs come
//! and go), `progress` (steps are committed, checkpoints sealed), `loss` (what went wrong, and whose fault it was), `guard` (what must not go on silently), `recovery`
//! (what is done about it), `quarantine` (images that can't be decoded), `ledger` (what proves how it went), `record`
//! (what outlives the process), `view` (what people see).
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
mod guard;
mod quarantine;
mod recovery;
mod ledger;
mod record;
mod view;

use std::collections::VecDeque;
use std::time::Duration;

use proto::identity::{Generation, JobId};
use proto::mutant::{Mutant, active};

pub use action::*;
pub use event::*;
pub use job::{
    CheckpointEntry, DatasetFacts, JobSpec, Mark, OnLoss, Policy, Shortage, Submission,
    WeightsFacts, best_checkpoint, differing_keys,
};
pub use membership::share_slices;
pub use quarantine::BadCounts;
pub use record::{End, MemberRecord, Parting, Record, ReplayError};
pub use view::JobView;

use job::{JobRun, Stage};
use membership::{Membership, joined};
use roster::{Roster, Worker};

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
        let open = |job: &&JobRun| !matches!(job.stage, Stage::Ended(_));
        // Jobs whose workers live on their own go on.
        let runs = |job: &&JobRun| job.stage == Stage::Active;
        let outlives = |job: &&JobRun| open(job) && job.shortage == Shortage::Wait;
        let lasting: Vec<&JobRun> = self.jobs.iter().filter(outlives).collect();
        let first = lasting.iter().copied().filter(runs);
        let others = lasting.iter().copied().filter(|job| !runs(job));
        let lasting: Vec<(JobId, u64)> =
            first.chain(others).map(|job| (job.id.clone(), job.watermark.step)).collect();
        self.queue = lasting.iter().map(|(id, _)| id.clone()).collect();
        for (job, step) in lasting {
            // It may have ended between going back to a checkpoint and forgetting what came after it.
            if !active(Mutant::RewoundMetricsKeptAtBoot) {
                self.push(Action::CutHistory { job, step });
            }
        }
        self.reopen();
        let ended = |job: &&JobRun| open(job) && job.shortage == Shortage::Fail;
        let open: Vec<(JobId, u64)> = self
            .jobs
            .iter()
            .filter(ended)
            .map(|job| (job.id.clone(), job.watermark.step))
            .collect();
        for (job, step) in open {
            let reason = format!(
                "the coordinator ended while this job stood at step {step}; the same job, run again, goes on"
            );
            self.log(Some(&job), Level::Warn, format!("job {job}: {reason}"));
            self.conclude(&job, Outcome::Failed { cause: Cause::Interrupted, reason });
        }
        std::mem::take(&mut self.actions)
    }

    /// The generation of an earlier life is over, or goes on: that depends on whether its members come back.
    fn reopen(&mut self) {
        let Some(membership) = &self.membership else { return };
        let (id, generation) = (membership.job.clone(), membership.generation);
        let members = membership.seats.len() as u32;
        if self.queue.front() != Some(&id) {
            self.membership = None;
            return;
        }
        let Some(job) = self.job(&id) else { return };
        let (spec, step) = (Box::new(job.spec.clone()), job.watermark.step);
        self.push(Action::Reopen { job: id.clone(), spec, step });
        self.push(Action::OpenUploads { job: id.clone(), generation, members });
        let seconds = RETURN_WITHIN.as_secs();
        let text = format!(
            "job {id} stood at step {step} in generation {generation}; its workers have {seconds} s to come back"
        );
        self.log(Some(&id), Level::Info, text);
    }

    /// Published metrics reach up to this step of the job whose generation goes on: later steps that were committed are
    /// published when its members report them again. Call between `boot` and the first event.
    pub fn published_up_to(&mut self, step: u64) {
        let Some(membership) = &mut self.membership else { return };
        let job = self.jobs.iter().find(|job| job.id == membership.job);
        membership.committed = job.map_or(0, |job| job.watermark.step);
        membership.published = step.max(membership.base_step);
        for seat in &mut membership.seats {
            if !active(Mutant::UnpublishedForgotten) {
                seat.applied = seat.applied.min(membership.published);
            }
        }
    }

    /// Advances the cluster by one event. Reads no clock: `now` belongs to the caller and never runs backwards.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.clock += now.saturating_sub(self.now).min(GAP_MAX);
        self.now = now;
        match event {
            Event::Joined(candidate) => self.admit(candidate),
            Event::Reported { session, generation, report: beat @ Report::Heartbeat { .. } } => {
                // By far the most frequent event. It makes nothing possible; what time alone decides is decided on ticks.
                self.record(session, generation, beat);
                return std::mem::take(&mut self.actions);
            }
            Event::Reported { session, generation, report } => {
                self.record(session, generation, report);
            }
            Event::StreamEnded { session, cause } => self.stream_ended(session, &cause),
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
        let (generation, plans) = self.seat_again(&candidate);
        self.push(Action::Admit { session, generation });
        for plan in plans {
            self.push(Action::Send { session, generation, plan });
        }
        if generation == Generation(0) {
            self.lose_seat_of(&candidate);
        }
        let Candidate { name, device_kind, threads, address, software_version, .. } = candidate;
        if generation != Generation(0) {
            return self.log(None, Level::Info, format!("worker {name} is back"));
        }
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

    /// What may have become possible: the next generation of the job at hand, or the first of the oldest job that waits.
    fn schedule(&mut self) {
        match &self.membership {
            Some(membership) if membership.sealing().is_some() => return self.reform(),
            Some(_) => return self.grow(),
            None => {}
        }
        let Some(head) = self.queue.front() else { return };
        let Some(job) = self.jobs.iter().find(|job| job.id == *head) else { return };
        if job.stage != Stage::Queued {
            return;
        }
        let crew = self.roster.crew(job.device_kind.as_deref(), &job.excluded);
        let (least, most) = job.crew_bounds();
        // A job that lost workers on its way goes on with what its policy allows.
        let needed = if job.went_back { least.max(1) } else { job.workers };
        if crew.len() < needed as usize {
            // Nobody else comes to a run that brought its own workers.
            if job.went_back && job.shortage == Shortage::Fail {
                let id = head.clone();
                self.fail_waiting(&id);
            }
            return;
        }
        let crew = crew.iter().take(most as usize).map(|worker| worker.session).collect::<Vec<_>>();
        let (id, base) = (head.clone(), job.base);
        self.generation = self.generation.next();
        self.form(&id, base, &[], &crew);
    }

    /// Forms the generation whose number was drawn last, from a state that the holders have in memory. Without holders it
    /// comes from a checkpoint, or from the job's seed.
    fn form(&mut self, id: &JobId, base: Mark, holders: &[SessionId], crew: &[SessionId]) {
        let (generation, clock) = (self.generation, self.clock);
        let workers: Vec<&Worker> = crew.iter().filter_map(|one| self.roster.get(*one)).collect();
        let Some(job) = self.jobs.iter_mut().find(|job| job.id == *id) else { return };
        let paces: Vec<Option<u64>> = workers.iter().map(|worker| worker.pace_ns).collect();
        let slices = share_slices(job.slices(), &paces);
        let members: Vec<Member> = workers.iter().copied().zip(slices).map(Member::new).collect();
        let device_kind = workers[0].device_kind.clone();
        job.stage = Stage::Active;
        job.generation = generation;
        job.said_waiting = false;
        job.device_kind = Some(device_kind.clone());
        let spec = job.spec.clone();
        let holds = |member: &Member| {
            holders.contains(&member.session) && !active(Mutant::HoldersForgotten)
        };
        let ranks = members.iter().enumerate().filter(|(_, member)| holds(member));
        let holders: Vec<u32> = ranks.map(|(rank, _)| rank as u32).collect();
        let carried = !holders.is_empty() || active(Mutant::HoldersForgotten);
        let membership =
            Membership::new(generation, id.clone(), base, carried, members.clone(), clock);
        let redo = self.job(id).map(|job| self.left_undone(job, base)).unwrap_or_default();
        if redo.checkpoint
            && let (Some(job), Some(digest)) = (self.job_mut(id), base.digest)
        {
            job.unsealed.insert(base.step, digest);
        }
        let seats: Vec<MemberRecord> = membership.seats.iter().map(MemberRecord::from).collect();
        if let Some(job) = self.job_mut(id) {
            job.chain.form(generation.0, base.step, &seats);
        }
        self.push(Action::Journal(Record::Formed {
            job: id.to_string(),
            generation: generation.0,
            device_kind,
            base_step: base.step,
            base_digest: base.digest.map(|digest| digest.to_string()),
            carried,
            members: seats,
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
        self.log(Some(id), Level::Info, text);
        let formation =
            Formation { job: id.clone(), spec, generation, base, members, holders, redo };
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

/// How often the driver sends `Event::Tick`. A death is told by a broken stream or a peer; what ticks decide, such as silence,
/// takes seconds, and each tick takes processor time from those who train on the same machine.
pub const TICK: Duration = Duration::from_millis(250);
/// Longest time that counts between two events: if more passed, the driver was late, not the workers.
pub const GAP_MAX: Duration = Duration::from_millis(750);
/// Workers that have had nothing else to report for so long send a heartbeat: four of them fit into `LOST_AFTER`.
pub const HEARTBEAT: Duration = Duration::from_millis(500);
/// How often members are told which reports they need not keep: what they keep longer costs memory, and is said again to a
/// coordinator that was away.
pub const ACKNOWLEDGE_EVERY: Duration = TICK;
/// A worker silent for this long is lost.
pub const LOST_AFTER: Duration = Duration::from_millis(2000);
/// When no member is left, or the coordinator was restarted, members have this long to come back with the state they hold.
pub const RETURN_WITHIN: Duration = Duration::from_secs(15);
/// A generation must be ready within this time: reading data, fetching a checkpoint, connecting.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// When all members have finished, their last checkpoint is here within this time.
pub const LAST_CHECKPOINT_WITHIN: Duration = Duration::from_secs(120);
/// A generation that runs hears of progress within this time: a step, an evaluation, or, after the last step, the end of the
/// last upload.
pub const PROGRESS_WITHIN: Duration = Duration::from_secs(20 * 60);
/// A member that is alive gives its generation up within this time: it looks up between slices.
pub const SEAL_WITHIN: Duration = Duration::from_secs(60);
/// A generation runs at least this long before it is given up to take in more workers, so that those who come together are
/// taken in together.
pub const GROW_AFTER: Duration = Duration::from_millis(500);
/// A worker that wants to leave waits this long for the end of the step at hand; then the others begin it anew. It goes by
/// itself after 1.8 s.
pub const PAUSE_TO_LEAVE: Duration = Duration::from_millis(800);
/// Others that have just joined are waited for this long before a newcomer that is ready is taken in.
pub const WARM_TOGETHER: Duration = Duration::from_secs(5);
/// An edge between live workers that broke is tried again this often, without a step in between.
pub const EDGE_RETRIES: u32 = 3;
/// So many steps in a row that nobody could apply end the job.
pub const SKIPPED_IN_A_ROW_MAX: u32 = 3;
/// A job goes back to a checkpoint this often because its members' states differed and nobody knew who was right.
pub const DISPUTES_MAX: u32 = 3;
/// A generation has run for this long before its members' speeds are compared in the log.
pub const PACE_AFTER: Duration = Duration::from_secs(30);
/// A member that needs this multiple of the median time for a slice is named.
pub const STRAGGLER_FROM: f64 = 1.5;

#[cfg(test)]
mod tests;
