//! From one generation to the next without losing a step: seal the members of the old one, find the newest state among what
//! they hold, form the new one from it. (Write-all / seal-one: an exchange needs all members, so one member that promised to
//! contribute no more ends the whole generation, whatever the others do.)
//!
//! `seal_generation` begins it; every event may complete it (`reform`). Growth goes the same way (`grow`).

use proto::identity::{JobId, Name};
use proto::mutant::{Mutant, active};

use super::action::{Action, Level, Plan, Redo};
use super::event::SessionId;
use super::job::{JobRun, Mark, Shortage, Stage};
use super::membership::{Agreed, Membership, Progress, Seat, Standing, joined};
use super::roster::{Warmth, Worker};
use super::{Cause, Cluster, EDGE_RETRIES, GROW_AFTER, Outcome, PAUSE_TO_LEAVE};
use super::{RETURN_WITHIN, WARM_TOGETHER};

impl Cluster {
    /// Tells the members to give the current generation up and to keep what they hold.
    pub(super) fn seal_generation(&mut self) {
        self.count_training();
        let (clock, next) = (self.clock, self.generation.next());
        let Some(membership) = &mut self.membership else { return };
        if membership.sealing().is_some() {
            return;
        }
        membership.progress = Progress::Sealing { attempt: next, since: clock };
        let generation = membership.generation;
        let members: Vec<SessionId> = membership.here().map(|seat| seat.member.session).collect();
        self.generation = next;
        for session in members {
            let plan = Plan::Seal { attempt: next };
            self.push(Action::Send { session, generation, plan });
        }
    }

    /// Has the members wait behind the step at hand, and seals them there: a change of members that is no loss throws nothing
    /// away. All that they owe is a vote, so nothing hangs on it.
    pub(super) fn pause_generation(&mut self) {
        let clock = self.clock;
        let Some(membership) = &mut self.membership else { return };
        if !matches!(membership.progress, Progress::Running { .. }) {
            return self.seal_generation();
        }
        if membership.pausing.is_some() {
            return;
        }
        membership.pausing = Some(clock);
        let generation = membership.generation;
        let members: Vec<SessionId> = membership.here().map(|seat| seat.member.session).collect();
        for session in members {
            self.push(Action::Send { session, generation, plan: Plan::Pause });
        }
    }

    /// Whoever wants to leave does not wait for a long step.
    pub(super) fn end_long_pause(&mut self) {
        let Some(membership) = &self.membership else { return };
        let leaves =
            |seat: &Seat| self.roster.get(seat.member.session).is_some_and(|one| one.leaving);
        let long = |since| self.clock.saturating_sub(since) > PAUSE_TO_LEAVE;
        if membership.pausing.is_some_and(long) && membership.here().any(leaves) {
            self.seal_generation();
        }
    }

    /// Forms the next generation if the old one is sealed and enough workers are here.
    pub(super) fn reform(&mut self) {
        let Some(membership) = self.membership.as_ref().filter(|m| m.is_sealed()) else { return };
        let id = membership.job.clone();
        if !self.settle_divergence() {
            return;
        }
        let (Some(membership), Some(job)) = (self.membership.as_ref(), self.job(&id)) else {
            return;
        };
        let stays = |seat: &Seat| self.stays(job, seat);
        let state = membership.newest_state(stays);
        let (base, holders) = match state {
            Some((base, holders)) => (base, holders),
            // Nobody had taken the base over yet; it is where it was.
            None if !membership.carried && job.watermark.step <= membership.base_step => {
                let digest = membership.base_digest;
                (Mark { step: membership.base_step, digest }, Vec::new())
            }
            None => return self.orphaned(&id),
        };
        let watermark = job.watermark;
        if base.step < watermark.step && !active(Mutant::BaseOfLastGeneration) {
            let (step, held) = (watermark.step, base.step);
            let line = format!(
                "step {step} was committed, but the newest state that a worker holds is that of step {held}"
            );
            return self.fail(Cause::Worker, line);
        }
        let crew = self.next_crew(membership, job);
        if holders.is_empty() && job.shortage == Shortage::Wait {
            let lacking = crew.as_ref().is_none_or(|crew| crew.len() < job.workers as usize);
            if lacking {
                // Nothing is lost by beginning once more, with as many as were asked for.
                return self.requeue(&id);
            }
        }
        let Some(crew) = crew else { return self.wait_for_workers(&id) };
        let edge = self.broken_edge(membership).map(|edge| {
            let blamed = edge.trouble.culprit.clone();
            (
                Self::edge_words(membership, edge),
                blamed.unwrap_or_else(|| membership.name(edge.from).clone()),
            )
        });
        if let Some((line, blamed)) = edge
            && !self.tries_again(&id, &line, &blamed)
        {
            return self.reform();
        }
        self.commit_base(&id, base);
        let base = if active(Mutant::BaseBehindHolders) { watermark } else { base };
        self.close_generation();
        self.form(&id, base, &holders, &crew);
    }

    /// An edge between two live workers broke: perhaps only for a moment. False when it did so too often, and the worker at
    /// its far end is left out now.
    fn tries_again(&mut self, id: &JobId, line: &str, blamed: &Name) -> bool {
        let Some(job) = self.job_mut(id) else { return false };
        job.broken_edges += 1;
        if job.broken_edges <= EDGE_RETRIES {
            self.log(Some(id), Level::Warn, format!("{line}; trying again"));
            return true;
        }
        job.broken_edges = 0;
        let member = self.membership.as_ref().and_then(|membership| {
            membership
                .here()
                .find(|seat| seat.member.name == *blamed)
                .map(|seat| seat.member.session)
        });
        let Some(session) = member else { return true };
        self.lose(session, &format!("its connections to others keep breaking: {line}"));
        false
    }

    /// Who computes next: those of the old generation that stay, and as many others as are needed or ready. `None` when
    /// that is too few.
    fn next_crew(&self, membership: &Membership, job: &JobRun) -> Option<Vec<SessionId>> {
        let (least, most) = job.crew_bounds();
        let (least, most) = (least as usize, most as usize);
        let eligible = self.roster.crew(job.device_kind.as_deref(), &job.excluded);
        let is_member = |worker: &&&Worker| membership.rank_of(worker.session).is_some();
        let members: Vec<&Worker> = eligible.iter().filter(is_member).copied().collect();
        let is_warm = |worker: &Worker| matches!(&worker.warmth, Warmth::Warm(of) if *of == job.id);
        let mut others: Vec<&Worker> =
            eligible.iter().filter(|worker| !is_member(worker)).copied().collect();
        // Those who are ready first; one that still has to read the dataset would hold the others up.
        others.sort_by_key(|worker| !is_warm(worker));
        let ready = others.iter().filter(|worker| is_warm(worker)).count();
        let wanted = ready.max(least.saturating_sub(members.len())).min(others.len());
        let crew: Vec<&Worker> =
            members.into_iter().chain(others.into_iter().take(wanted)).collect();
        if crew.len() < least.max(1) {
            return None;
        }
        let mut crew: Vec<&Worker> = crew.into_iter().take(most).collect();
        crew.sort_by(|a, b| a.name.cmp(&b.name));
        Some(crew.into_iter().map(|worker| worker.session).collect())
    }

    /// A member that will be one of the next generation, too.
    pub(super) fn stays(&self, job: &JobRun, seat: &Seat) -> bool {
        let worker = self.roster.get(seat.member.session);
        seat.standing != Standing::Lost
            && !job.excluded.contains(&seat.member.incarnation)
            && worker.is_some_and(|worker| !worker.leaving)
    }

    /// Every member of the new generation starts from `base`, so its steps count, although some members of the old one may
    /// not have lived to report them.
    fn commit_base(&mut self, id: &JobId, base: Mark) {
        let Some(membership) = &self.membership else { return };
        let generation = membership.generation;
        let Some(job) = self.job(id) else { return };
        let Some(digest) = base.digest else { return };
        let watermark = job.watermark.step;
        // What an earlier life of the coordinator committed may not be published yet.
        let skips = active(Mutant::UnpublishedSkipped);
        let published = if skips { watermark } else { membership.published.min(watermark) };
        let steps = published + 1..=base.step;
        let steps: Vec<(bool, Agreed)> = steps
            .map(|step| {
                // Only the newest can be unknown: steps are applied in lockstep.
                let expected = (step == base.step).then_some(digest);
                let report = membership.reported(step, expected);
                let agreed = report.map(|report| membership.as_if_agreed(report));
                (report.is_some(), agreed.unwrap_or_else(|| Agreed::unreported(step, digest)))
            })
            .collect();
        for (reported, agreed) in steps {
            if agreed.step > watermark {
                self.commit(id, generation, &agreed);
                self.note_skipped(id, &agreed);
                self.note_outcome(id, &agreed);
            }
            if reported {
                self.publish_step(id, agreed);
            }
        }
    }

    /// What followed the base step and did not come to its end.
    pub(super) fn left_undone(&self, job: &JobRun, base: Mark) -> Redo {
        if base.step == 0 {
            return Redo::default();
        }
        let due = job.timeline.evaluates_after(base.step);
        let evaluation = due
            && !job.evaluations.contains_key(&base.step)
            && !active(Mutant::EvaluationNotRedone);
        let lost = job.unsealed.keys().any(|&step| step <= base.step && !job.is_on_disk(step));
        let lost = lost && !active(Mutant::CheckpointNotRedone);
        Redo { evaluation, checkpoint: lost && !job.is_on_disk(base.step) }
    }

    /// The job waits for a crew, as before its first generation.
    fn requeue(&mut self, id: &JobId) {
        self.dissolve("too few workers are left to begin with");
        if let Some(job) = self.job_mut(id) {
            job.stage = Stage::Queued;
        }
    }

    /// Too few workers: what they hold waits with them.
    fn wait_for_workers(&mut self, id: &JobId) {
        let Some(job) = self.job(id) else { return };
        if job.shortage == Shortage::Fail {
            let line = job.last_loss.clone().unwrap_or_else(|| "too few workers".to_owned());
            let newest = job.newest_checkpoint_words();
            self.log(Some(id), Level::Error, format!("job {id} can't go on: {newest}"));
            self.dissolve(&line);
            return self.end(id, Outcome::Failed { cause: Cause::Worker, reason: line });
        }
        if let Some(job) = self.job_mut(id)
            && !std::mem::replace(&mut job.said_waiting, true)
        {
            let text = self.waiting_words(id);
            self.log(Some(id), Level::Warn, text);
        }
    }

    /// "waiting for 1 more worker; w1, w2 hold the state of step 7".
    pub(super) fn waiting_words(&self, id: &JobId) -> String {
        let (Some(job), Some(membership)) = (self.job(id), &self.membership) else {
            return String::new();
        };
        let (least, _) = job.crew_bounds();
        let here = self.roster.crew(job.device_kind.as_deref(), &job.excluded).len() as u32;
        let more = least.saturating_sub(here);
        let plural = if more == 1 { "worker" } else { "workers" };
        let names = membership.here().map(|seat| seat.member.name.to_string());
        match membership.newest_state(|seat| self.stays(job, seat)) {
            Some((mark, _)) => format!(
                "waiting for {more} more {plural}; {} hold the state of step {}",
                joined(names),
                mark.step
            ),
            None => format!("waiting for {more} more {plural}"),
        }
    }

    /// No member is left that holds the state.
    fn orphaned(&mut self, id: &JobId) {
        let Some(job) = self.job(id) else { return };
        let newest = job.newest_checkpoint_words();
        let line = job.last_loss.clone().unwrap_or_else(|| "no worker holds the state".to_owned());
        if job.shortage == Shortage::Fail {
            self.dissolve(&line);
            return self.end(id, Outcome::Failed { cause: Cause::Worker, reason: line });
        }
        // They may be alive, out of reach, and further than any checkpoint.
        let clock = self.clock;
        let Some(membership) = &mut self.membership else { return };
        let since = *membership.orphaned_since.get_or_insert(clock);
        if clock.saturating_sub(since) < RETURN_WITHIN && !active(Mutant::NoTimeToReturn) {
            return;
        }
        let text = format!("no worker is left that holds the state of job {id}: {newest}");
        self.log(Some(id), Level::Warn, text);
        self.dissolve(&line);
        self.go_back(id);
    }

    /// Brings in workers that have joined since, as soon as they are ready.
    pub(super) fn grow(&mut self) {
        let Some(membership) = &self.membership else { return };
        let Progress::Running { since } = membership.progress else { return };
        let Some(job) = self.job(&membership.job) else { return };
        let (_, most) = job.crew_bounds();
        let room = (most as usize).saturating_sub(membership.seats.len());
        let ending = membership
            .seats
            .iter()
            .any(|seat| seat.finished.is_some() || seat.applied + 1 >= job.total_steps());
        let changing = membership.stopping || membership.pausing.is_some();
        if room == 0 || changing || job.stop_wanted || ending {
            return;
        }
        let eligible = self.roster.crew(job.device_kind.as_deref(), &job.excluded);
        let outside = |worker: &&&Worker| membership.rank_of(worker.session).is_none();
        let newcomers: Vec<&Worker> = eligible.iter().filter(outside).take(room).copied().collect();
        let cold: Vec<SessionId> = newcomers
            .iter()
            .filter(|worker| !worker.warmth.is_about(&job.id))
            .map(|worker| worker.session)
            .collect();
        let mut warm = newcomers.iter().filter_map(|worker| match &worker.warmth {
            Warmth::Warm(of) if *of == job.id => Some(worker.name.to_string()),
            _ => None,
        });
        let first = warm.next();
        let settled = self.now.saturating_sub(since) >= GROW_AFTER;
        // Those who come together are taken in together, but nobody waits long for one that reads a large dataset.
        let clock = self.clock;
        let soon = |worker: &&&Worker| match &worker.warmth {
            Warmth::Asked(_, since) => clock.saturating_sub(*since) < WARM_TOGETHER,
            Warmth::Cold | Warmth::Warm(_) => false,
        };
        let all_warm = cold.is_empty() && newcomers.iter().filter(soon).count() == 0;
        let (id, spec) = (job.id.clone(), job.spec.clone());
        let workers = (membership.seats.len() + newcomers.len()) as u32;
        let names = joined(first.iter().cloned().chain(warm));
        for session in cold {
            if let Some(worker) = self.roster.get_mut(session) {
                worker.warmth = Warmth::Asked(id.clone(), clock);
            }
            let spec = Box::new(spec.clone());
            self.push(Action::Warm { session, job: id.clone(), spec, workers });
        }
        if first.is_some() && all_warm && settled {
            self.log(Some(&id), Level::Info, format!("job {id} takes in {names}"));
            self.pause_generation();
        }
    }

    /// Too few of the workers that a run brought are left to go on from its checkpoint.
    pub(super) fn fail_waiting(&mut self, id: &JobId) {
        let Some(job) = self.job(id) else { return };
        let reason = job.last_loss.clone().unwrap_or_else(|| "too few workers are left".to_owned());
        let newest = job.newest_checkpoint_words();
        self.log(Some(id), Level::Error, format!("job {id} can't go on: {reason}; {newest}"));
        self.conclude(id, Outcome::Failed { cause: Cause::Worker, reason });
    }

    /// The job starts again from its newest checkpoint that verifies, unless it was to stop anyway.
    pub(super) fn go_back(&mut self, id: &JobId) {
        let Some(job) = self.job_mut(id) else { return };
        if job.stop_wanted {
            let outcome = job.stopped();
            return self.end(id, outcome);
        }
        job.went_back = true;
        job.stage = Stage::Searching(None);
        let spec = Box::new(job.spec.clone());
        self.push(Action::FindBase { job: id.clone(), spec });
    }
}
