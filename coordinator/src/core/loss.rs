//! What goes wrong, and whose fault it was. One line names the culprit, where it was, why, and what happens next; what follows
//! from a loss is not reported as another cause. What is then done about it is `recovery`'s.

use proto::identity::Name;
use proto::mutant::{Mutant, active};
use proto::wire::v1::{Phase, TroubleKind};

use super::action::{Action, Level, Outcome, Plan};
use super::event::{Candidate, SessionId, Trouble};
use super::job::{Shortage, Stage};
use super::membership::{Away, Complaint, Membership, Progress, Seat, Standing};
use super::record::Parting;
use super::roster::{Warmth, Worker};
use super::{Cause, Cluster, Generation, LOST_AFTER, PROGRESS_WITHIN, READY_WITHIN, SEAL_WITHIN};

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
            Some(rank) => {
                let place = self.last_place(&worker);
                self.part_with(rank, format!("worker {name} lost {place}: {cause}"));
            }
        }
    }

    /// A stream broke. Its worker may be dead, or train on and come back: a peer's complaint or time will tell.
    pub(super) fn stream_ended(&mut self, session: SessionId, cause: &str) {
        let until = self.clock + LOST_AFTER;
        let Some(membership) = &self.membership else { return self.lose(session, cause) };
        let (rank, job) = (membership.rank_of(session), self.job(&membership.job));
        let may_come_back = job.is_some_and(|job| job.shortage == Shortage::Wait);
        let worker = self.roster.get(session).filter(|worker| !worker.leaving && !worker.dismissed);
        let (Some(rank), true, Some(worker)) = (rank, may_come_back, worker.cloned()) else {
            return self.lose(session, cause);
        };
        self.roster.remove(session);
        self.push(Action::Disconnect { session, reason: cause.to_owned() });
        if let Some(membership) = &mut self.membership {
            membership.seats[rank].away = Some(Away { until, cause: cause.to_owned(), worker });
        }
        self.settle_absences();
    }

    /// Members without a stream that are known to be gone, or were waited for long enough.
    fn settle_absences(&mut self) {
        let clock = self.clock;
        let gone = |membership: &Membership| {
            let blamed = |name: &Name| {
                let culprits = membership.complaints.iter().map(|c| c.trouble.culprit.as_ref());
                culprits.flatten().any(|culprit| culprit == name)
            };
            membership.seats.iter().position(|seat| {
                seat.standing != Standing::Lost
                    && !active(Mutant::AbsenceWithoutEnd)
                    && seat
                        .away
                        .as_ref()
                        .is_some_and(|away| away.until < clock || blamed(&seat.member.name))
            })
        };
        while let Some(rank) = self.membership.as_ref().and_then(gone) {
            let Some(membership) = &mut self.membership else { return };
            let Some(Away { cause, worker, .. }) = membership.seats[rank].away.clone() else {
                return;
            };
            let (name, place) = (worker.name.clone(), self.last_place(&worker));
            self.part_with(rank, format!("worker {name} lost {place}: {cause}"));
        }
    }

    /// A member of the current generation on a new stream takes its seat again. Returns the generation, 0 when it has no
    /// seat any more, and the plans that may have been on their way when its stream broke.
    pub(super) fn seat_again(&mut self, candidate: &Candidate) -> (Generation, Vec<Plan>) {
        let nowhere = (Generation(0), Vec::new());
        let Some(membership) = &mut self.membership else { return nowhere };
        let (generation, attempt) = (membership.generation, membership.sealing());
        let by_name = active(Mutant::NameIsIdentity);
        let own = |seat: &&mut Seat| {
            seat.member.incarnation == candidate.incarnation
                || by_name && seat.member.name == candidate.name
        };
        let seat = membership.seats.iter_mut().find(own);
        let Some(seat) = seat.filter(|_| candidate.generation == generation || by_name) else {
            return nowhere;
        };
        (seat.member.session, seat.away) = (candidate.session, None);
        membership.orphaned_since = None;
        if seat.standing == Standing::Lost {
            // Given up already, but nothing was formed without it yet.
            seat.standing = Standing::Active;
        }
        let seals = seat.standing == Standing::Active && !active(Mutant::SealNotRepeated);
        let running = matches!(membership.progress, Progress::Running { .. });
        let plans = [
            (running && !active(Mutant::RunNotRepeated), Plan::Run),
            (running && membership.pausing.is_some(), Plan::Pause),
            (running && membership.stopping, Plan::Stop),
            (seals && attempt.is_some(), Plan::Seal { attempt: attempt.unwrap_or(generation) }),
        ];
        let due = plans.into_iter().filter(|(due, _)| *due);
        (generation, due.map(|(_, plan)| plan).collect())
    }

    /// A member came back that had not heard of its generation: its stream broke under the plan that told it. It can't take its
    /// seat, and nobody else is going to.
    pub(super) fn lose_seat_of(&mut self, candidate: &Candidate) {
        let Some(membership) = &self.membership else { return };
        let own = |seat: &Seat| {
            seat.member.incarnation == candidate.incarnation && seat.standing != Standing::Lost
        };
        if let Some(rank) = membership.seats.iter().position(own) {
            let (name, generation) = (&candidate.name, membership.generation);
            let line =
                format!("worker {name} lost its stream before it heard of generation {generation}");
            self.part_with(rank, line);
        }
    }

    /// A worker wants to end. A member is let go when its generation is sealed, since until then the others need it.
    pub(super) fn leave(&mut self, session: SessionId, reason: &str) {
        let Some(worker) = self.roster.get_mut(session) else { return };
        if std::mem::replace(&mut worker.leaving, true) {
            return;
        }
        let worker = worker.clone();
        let name = &worker.name;
        let Some(membership) = self.membership.as_ref().filter(|m| m.rank_of(session).is_some())
        else {
            self.log(None, Level::Info, format!("worker {name} left: {reason}"));
            return self.let_go(session);
        };
        let id = membership.job.clone();
        let place = self.last_place(&worker);
        let line = format!("worker {name} leaves {place}: {reason}");
        if let Some(rank) = self.membership.as_ref().and_then(|m| m.rank_of(session)) {
            self.record_parting(rank, Parting::Left, &line);
        }
        self.say_loss(&id, Level::Info, line);
        self.pause_generation();
    }

    /// Ends the session of a worker that wants to leave.
    pub(super) fn let_go(&mut self, session: SessionId) {
        if self.roster.remove(session).is_none() {
            return;
        }
        let plan = Plan::Goodbye { reason: "left in good order".to_owned() };
        self.push(Action::Send { session, generation: Generation(0), plan });
    }

    /// One of the members is gone: the others give the generation up, and go on without it.
    fn part_with(&mut self, rank: usize, line: String) {
        let Some(membership) = &mut self.membership else { return };
        membership.seats[rank].standing = Standing::Lost;
        let id = membership.job.clone();
        self.record_parting(rank, Parting::Lost, &line);
        self.say_loss(&id, Level::Warn, line);
        self.seal_generation();
    }

    /// The line that names a loss, with what happens next.
    fn say_loss(&mut self, id: &super::JobId, level: Level, line: String) {
        let next = self.what_next(id);
        let fatal = next.starts_with("stopping");
        let level = if fatal { Level::Error } else { level };
        self.log(Some(id), level, format!("{line}; {next}"));
        if let Some(job) = self.job_mut(id) {
            job.last_loss = Some(line);
        }
    }

    /// What will be done about the members that were lost so far.
    fn what_next(&self, id: &super::JobId) -> String {
        let (Some(job), Some(membership)) = (self.job(id), &self.membership) else {
            return String::new();
        };
        let crew = self.roster.crew(job.device_kind.as_deref(), &job.excluded);
        let is_member = |worker: &&&Worker| membership.rank_of(worker.session).is_some();
        let left = crew.iter().filter(is_member).count();
        let (least, _) = job.crew_bounds();
        let newest = job.newest_checkpoint_words();
        let plural = |count: usize| if count == 1 { "worker" } else { "workers" };
        // Before anybody has taken the state over, the job waits for the crew that it was to begin with.
        let beginning = membership.is_forming() && !membership.carried;
        let least = if beginning && job.shortage == Shortage::Wait { job.workers } else { least };
        let only_few = crew.len() < (least as usize).max(1);
        match (left, job.shortage) {
            (0, Shortage::Fail) => format!("stopping; {newest}"),
            _ if only_few && job.shortage == Shortage::Fail => format!("stopping; {newest}"),
            (0, Shortage::Wait)
                if membership.carried || membership.base_step < job.watermark.step =>
            {
                format!("no worker holds the state any more; {newest}")
            }
            (_, Shortage::Wait) if only_few => {
                let more = least as usize - crew.len();
                format!("waiting for {more} more {}", plural(more))
            }
            _ => {
                let count = left.max(least as usize).min(crew.len());
                format!("continuing with {count} {}", plural(count))
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

    /// A member can't go on.
    pub(super) fn complain(&mut self, rank: usize, trouble: Trouble) {
        let Some(membership) = &mut self.membership else { return };
        let name = membership.name(rank).clone();
        let place = place(trouble.phase, trouble.step.saturating_sub(1));
        let message = &trouble.message;
        match trouble.kind {
            TroubleKind::TroublePeer if active(Mutant::ComplaintIgnored) => {}
            TroubleKind::TroublePeer => {
                if !membership.complaints.iter().any(|complaint| complaint.from == rank) {
                    membership.complaints.push(Complaint { from: rank, trouble });
                }
                // Whoever is to blame, the exchange is broken.
                self.seal_generation();
                self.settle_absences();
            }
            TroubleKind::TroubleDatasetUnreadable | TroubleKind::TroubleDatasetDiffers => {
                self.exclude(rank, Cause::Data, format!("worker {name} refused: {message}"));
            }
            TroubleKind::TroubleCheckpoint => {
                self.fail(
                    Cause::Checkpoint,
                    format!("worker {name} refused the checkpoint: {message}"),
                );
            }
            // Who is wrong shows when all have said what they hold.
            TroubleKind::TroubleDiverged => self.seal_generation(),
            TroubleKind::TroubleInternal => {
                let line = format!("worker {name} failed {place}: {message}");
                self.exclude(rank, Cause::Worker, line);
            }
        }
    }

    /// This process can't take part in the job, now or later: it sits out while the others go on.
    pub(super) fn exclude(&mut self, rank: usize, cause: Cause, line: String) {
        let Some(membership) = &mut self.membership else { return };
        let id = membership.job.clone();
        let Seat { member, standing, .. } = &mut membership.seats[rank];
        *standing = Standing::Lost;
        let (session, incarnation) = (member.session, member.incarnation);
        let (generation, first) = (membership.generation, !membership.carried);
        let Some(job) = self.job_mut(&id) else { return };
        job.excluded.insert(incarnation);
        let nobody_else = job.shortage == Shortage::Fail;
        self.record_parting(rank, Parting::Lost, &line);
        let plan = Plan::Abandon { reason: "it can't take part".to_owned() };
        self.push(Action::Send { session, generation, plan });
        // On one machine what one process can't read, none can.
        if cause == Cause::Data && first && nobody_else {
            return self.fail(cause, line);
        }
        self.say_loss(&id, Level::Warn, line);
        self.seal_generation();
    }

    /// A worker that was asked to get ready for a job can't take part in it.
    pub(super) fn leave_cold(&mut self, session: SessionId, message: &str) {
        let Some(worker) = self.roster.get_mut(session) else { return };
        let Warmth::Asked(id, _) = std::mem::replace(&mut worker.warmth, Warmth::Cold) else {
            return;
        };
        let (name, incarnation) = (worker.name.clone(), worker.incarnation);
        if let Some(job) = self.job_mut(&id) {
            job.excluded.insert(incarnation);
        }
        self.log(Some(&id), Level::Warn, format!("worker {name} can't take part: {message}"));
    }

    /// Everything that is due because time went by.
    pub(super) fn expire(&mut self) {
        self.settle_absences();
        self.acknowledge_in_time();
        self.end_generation();
        self.end_long_pause();
        for session in self.roster.silent(self.clock, LOST_AFTER) {
            self.lose(session, &format!("silent for {} ms", LOST_AFTER.as_millis()));
        }
        for session in self.overdue() {
            let (what, limit) = match self.membership.as_ref().and_then(Membership::sealing) {
                Some(_) => ("did not give its generation up", SEAL_WITHIN),
                None => ("was not ready", READY_WITHIN),
            };
            self.lose(session, &format!("it {what} within {} s", limit.as_secs()));
        }
        if let Some(line) = self.stalled() {
            self.fail(Cause::Worker, line);
        }
    }

    /// Members that the others have waited for too long, forming or sealing a generation.
    fn overdue(&self) -> Vec<SessionId> {
        let Some(membership) = &self.membership else { return Vec::new() };
        let (since, limit) = match membership.progress {
            Progress::Forming { since } => (since, READY_WITHIN),
            Progress::Sealing { since, .. } => (since, SEAL_WITHIN),
            Progress::Running { .. } => return Vec::new(),
        };
        if self.clock.saturating_sub(since) <= limit {
            return Vec::new();
        }
        let sealing = membership.sealing().is_some();
        let late = membership.here().filter(|seat| match seat.standing {
            Standing::Active => sealing || seat.ready.is_none(),
            Standing::Sealed(_) | Standing::Lost => false,
        });
        late.map(|seat| seat.member.session).collect()
    }

    /// All members are alive, but nothing gets done.
    fn stalled(&self) -> Option<String> {
        let membership = self.membership.as_ref()?;
        let running = matches!(membership.progress, Progress::Running { .. });
        if !running || self.clock.saturating_sub(membership.last_progress) <= PROGRESS_WITHIN {
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

    /// Of complaints that nobody's death explains: the edge that broke, from the rank that saw it.
    pub(super) fn broken_edge<'a>(&self, membership: &'a Membership) -> Option<&'a Complaint> {
        if membership.seats.iter().any(|seat| seat.standing == Standing::Lost) {
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
        root.or(membership.complaints.first())
    }

    /// "worker w1 could not exchange with w2 in step 7 during exchange: connection reset".
    pub(super) fn edge_words(membership: &Membership, complaint: &Complaint) -> String {
        let Complaint { from, trouble } = complaint;
        let (name, place) =
            (membership.name(*from), place(trouble.phase, trouble.step.saturating_sub(1)));
        let peer = trouble.culprit.as_ref().map_or("a peer", Name::as_str);
        let message = &trouble.message;
        format!("worker {name} could not exchange with {peer} {place}: {message}")
    }

    /// The job fails: one line says why, and what is left.
    pub(super) fn fail(&mut self, cause: Cause, line: String) {
        let Some(id) = self.membership.as_ref().map(|m| m.job.clone()) else { return };
        let newest = self.job(&id).map(|job| job.newest_checkpoint_words()).unwrap_or_default();
        self.log(Some(&id), Level::Error, format!("{line}; stopping; {newest}"));
        self.dissolve(&line);
        self.end(&id, Outcome::Failed { cause, reason: line });
    }

    /// Gives the generation up, whatever becomes of its job.
    pub(super) fn dissolve(&mut self, reason: &str) {
        let Some(membership) = self.close_generation() else { return };
        let generation = membership.generation;
        for seat in membership.here() {
            let session = seat.member.session;
            if self.roster.get(session).is_some() {
                let plan = Plan::Abandon { reason: reason.to_owned() };
                self.push(Action::Send { session, generation, plan });
            }
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
