//! What goes wrong, and whose fault it was. One line names the culprit; what follows from a loss is not reported as another
//! cause: an edge that broke waits a moment for the death that explains it.

use proto::identity::Name;
use proto::wire::v1::{Phase, TroubleKind};

use super::action::{Action, Level, Outcome, Plan};
use super::event::{SessionId, Trouble};
use super::job::{Shortage, Stage};
use super::membership::{Complaint, Membership, Progress};
use super::roster::Worker;
use super::{Cause, Cluster, GRACE, HEARTBEAT, LOST_AFTER, PROGRESS_WITHIN, READY_WITHIN};

impl Cluster {
    /// A stream ended or went silent.
    pub(super) fn lose(&mut self, session: SessionId, cause: &str) {
        let Some(worker) = self.roster.remove(session) else { return };
        self.push(Action::Disconnect { session, reason: cause.to_owned() });
        let name = &worker.name;
        if worker.dismissed {
            return self.log(None, Level::Info, format!("worker {name} ended"));
        }
        match self.membership.as_ref().and_then(|membership| membership.rank_of(session)) {
            None => self.log(None, Level::Warn, format!("worker {name} lost while idle: {cause}")),
            Some(_) => {
                let place = self.last_place(&worker);
                self.part_with(&worker, format!("worker {name} lost {place}: {cause}"));
            }
        }
    }

    /// A worker ends on purpose.
    pub(super) fn leave(&mut self, session: SessionId, reason: &str) {
        let Some(worker) = self.roster.remove(session) else { return };
        let name = &worker.name;
        match self.membership.as_ref().and_then(|membership| membership.rank_of(session)) {
            None => self.log(None, Level::Info, format!("worker {name} left: {reason}")),
            Some(_) => {
                let place = self.last_place(&worker);
                self.part_with(&worker, format!("worker {name} left {place}: {reason}"));
            }
        }
    }

    /// A process that was started for the job at hand will not join, and nobody else will come.
    pub(super) fn miss(&mut self, name: &Name, cause: &str) {
        if self.roster.is_here(name) {
            return;
        }
        let waiting = self.jobs.iter().find(|job| {
            job.shortage == Shortage::Fail && matches!(job.stage, Stage::Queued | Stage::Active)
        });
        let Some(id) = waiting.filter(|job| job.stage == Stage::Queued).map(|job| job.id.clone())
        else {
            return;
        };
        let reason = format!("worker {name} never joined: {cause}");
        self.log(Some(&id), Level::Error, reason.clone());
        self.conclude(&id, Outcome::Failed { cause: Cause::Worker, reason });
    }

    /// A member is gone. While a generation forms nothing is lost but time, so others may take its place.
    fn part_with(&mut self, worker: &Worker, line: String) {
        let Some(membership) = &self.membership else { return };
        let id = membership.job.clone();
        let waits = self.job(&id).is_some_and(|job| job.shortage == Shortage::Wait);
        if membership.is_forming() && waits {
            self.log(Some(&id), Level::Warn, format!("{line}; waiting for another worker"));
            self.requeue(&format!("worker {} is gone", worker.name));
        } else {
            self.fail(Cause::Worker, line);
        }
    }

    /// A member can't go on.
    pub(super) fn complain(&mut self, rank: usize, trouble: Trouble) {
        let Some(membership) = &mut self.membership else { return };
        let name = membership.name(rank).clone();
        let place = place(trouble.phase, trouble.step.saturating_sub(1));
        let message = &trouble.message;
        match trouble.kind {
            TroubleKind::TroublePeer => {
                let at = self.clock;
                if !membership.complaints.iter().any(|complaint| complaint.from == rank) {
                    membership.complaints.push(Complaint { from: rank, trouble, at });
                }
            }
            TroubleKind::TroubleDatasetUnreadable | TroubleKind::TroubleDatasetDiffers => {
                self.exclude(rank, message);
            }
            TroubleKind::TroubleCheckpoint => {
                self.fail(
                    Cause::Checkpoint,
                    format!("worker {name} refused the checkpoint: {message}"),
                );
            }
            TroubleKind::TroubleNotFinite => {
                self.fail(Cause::Worker, format!("worker {name} gave up {place}: {message}"));
            }
            TroubleKind::TroubleInternal => {
                self.fail(Cause::Worker, format!("worker {name} failed {place}: {message}"));
            }
        }
    }

    /// The worker's dataset is missing or another one: it can't take part in this job.
    fn exclude(&mut self, rank: usize, message: &str) {
        let Some(membership) = &self.membership else { return };
        let (name, id) = (membership.name(rank).clone(), membership.job.clone());
        let incarnation = membership.seats[rank].member.incarnation;
        let line = format!("worker {name} refused for job {id}: {message}");
        let forming = membership.is_forming();
        let Some(job) = self.job_mut(&id) else { return };
        job.excluded.insert(incarnation);
        if job.shortage == Shortage::Wait && forming {
            self.log(Some(&id), Level::Warn, format!("{line}; waiting for another worker"));
            self.requeue(&format!("worker {name} can't take part"));
        } else {
            self.fail(Cause::Data, line);
        }
    }

    /// Everything that is due because time went by.
    pub(super) fn expire(&mut self) {
        for session in self.roster.silent(self.clock, LOST_AFTER) {
            self.lose(session, &format!("silent for {} ms", LOST_AFTER.as_millis()));
        }
        if let Some(line) = self.overdue() {
            return self.fail(Cause::Worker, line);
        }
        let broken_edge = self.membership.as_ref().and_then(|m| self.verdict(m));
        if let Some(line) = broken_edge {
            self.fail(Cause::Worker, line);
        }
    }

    fn overdue(&self) -> Option<String> {
        let membership = self.membership.as_ref()?;
        let Progress::Forming { since } = membership.progress else { return self.stalled() };
        let late = self.clock.saturating_sub(since) > READY_WITHIN;
        let (generation, unready) = (membership.generation, membership.unready());
        let limit = READY_WITHIN.as_secs();
        late.then(|| format!("generation {generation} was not ready within {limit} s: {unready}"))
    }

    /// All members are alive, but nothing gets done.
    fn stalled(&self) -> Option<String> {
        let membership = self.membership.as_ref()?;
        if self.clock.saturating_sub(membership.last_progress) <= PROGRESS_WITHIN {
            return None;
        }
        let minutes = PROGRESS_WITHIN.as_secs() / 60;
        let (applied, names) = membership.hindmost();
        let total = self.job(&membership.job)?.total_steps();
        Some(if applied == total {
            format!("all {total} steps are done, but not finished within {minutes} min: {names}")
        } else {
            format!("no progress after step {applied} within {minutes} min: {names}")
        })
    }

    /// Names the edge once its grace is over and nobody's death explained it.
    fn verdict(&self, membership: &Membership) -> Option<String> {
        let first = membership.complaints.first()?;
        if self.clock.saturating_sub(first.at) <= GRACE {
            return None;
        }
        // Somebody who has missed heartbeats is probably about to be lost: then that is the cause.
        let hushed = |worker: &Worker| self.clock.saturating_sub(worker.last_heard) > 3 * HEARTBEAT;
        let seats = membership.seats.iter();
        if seats.filter_map(|seat| self.roster.get(seat.member.session)).any(hushed) {
            return None;
        }
        // Closing one's own edges makes innocent peers complain too. Whoever is blamed and blames nobody is the end of
        // the chain of consequences.
        let complains = |name: &Name| {
            membership.complaints.iter().any(|other| membership.name(other.from) == name)
        };
        let root = membership.complaints.iter().find(|complaint| {
            complaint.trouble.culprit.as_ref().is_some_and(|culprit| !complains(culprit))
        });
        let Complaint { from, trouble, .. } = root.unwrap_or(first);
        let (name, place) =
            (membership.name(*from), place(trouble.phase, trouble.step.saturating_sub(1)));
        let peer = trouble.culprit.as_ref().map_or("a peer", Name::as_str);
        let message = &trouble.message;
        Some(format!("worker {name} could not exchange with {peer} {place}: {message}"))
    }

    /// The job fails: one line says why, and what is left.
    pub(super) fn fail(&mut self, cause: Cause, line: String) {
        let Some(id) = self.membership.as_ref().map(|m| m.job.clone()) else { return };
        let newest = self.job(&id).map(|job| job.newest_checkpoint_words()).unwrap_or_default();
        self.log(Some(&id), Level::Error, format!("{line}; stopping; {newest}"));
        self.dissolve(&line);
        self.end(&id, Outcome::Failed { cause, reason: line });
    }

    /// Gives the generation up; its job waits for the next one.
    fn requeue(&mut self, reason: &str) {
        let Some(id) = self.membership.as_ref().map(|m| m.job.clone()) else { return };
        self.dissolve(reason);
        if let Some(job) = self.job_mut(&id) {
            job.stage = Stage::Queued;
        }
    }

    /// Gives the generation up, whatever becomes of its job.
    pub(super) fn dissolve(&mut self, reason: &str) {
        self.count_training();
        let Some(membership) = self.membership.take() else { return };
        let generation = membership.generation;
        for seat in &membership.seats {
            let session = seat.member.session;
            if self.roster.get(session).is_some() {
                let plan = Plan::Abandon { reason: reason.to_owned() };
                self.push(Action::Send { session, generation, plan });
            }
        }
        self.push(Action::CloseUploads { generation });
        if let Some(job) = self.job_mut(&membership.job) {
            job.assembled.clear();
        }
    }

    /// Where a member was when it was last heard of. A peer that felt the edge break knows it better than the last
    /// heartbeat.
    fn last_place(&self, worker: &Worker) -> String {
        let complaints = self.membership.iter().flat_map(|membership| &membership.complaints);
        let seen = complaints
            .filter(|complaint| complaint.trouble.culprit.as_ref() == Some(&worker.name))
            .map(|complaint| (complaint.trouble.phase, complaint.trouble.step.saturating_sub(1)))
            .next();
        let running = self.membership.as_ref().is_some_and(|membership| !membership.is_forming());
        let heard = match worker.phase {
            // From a heartbeat before the generation ran.
            Phase::Idle | Phase::Prepare if running => Phase::Compute,
            Phase::Idle => Phase::Prepare,
            phase => phase,
        };
        let (phase, applied) = seen.unwrap_or((heard, worker.step));
        place(phase, applied)
    }
}

/// "in step 812 during exchange": `applied` is the newest step it has applied.
fn place(phase: Phase, applied: u64) -> String {
    match phase {
        Phase::Idle => "between steps".to_owned(),
        Phase::Prepare => "while preparing".to_owned(),
        Phase::Compute => format!("in step {} during computation", applied + 1),
        Phase::Exchange => format!("in step {} during exchange", applied + 1),
        Phase::Evaluate => format!("during evaluation after step {applied}"),
        Phase::Checkpoint => format!("during the checkpoint after step {applied}"),
    }
}
