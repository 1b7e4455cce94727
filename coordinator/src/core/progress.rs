//! What goes right: members get ready, steps are committed and evaluated, checkpoints are sealed, the job's end is agreed.

use proto::identity::{Generation, JobId};
use proto::mutant::{Mutant, active};
use proto::wire::v1::Phase;

use super::action::{Action, Level, Metric, Outcome, Plan, SealOrder, Shelf};
use super::event::{Report, SessionId, StepDone, Tally};
use super::job::{CheckpointEntry, JobRun, Stage};
use super::membership::{Agreed, Contradiction, Membership, Progress, Taken, joined};
use super::record::Record;
use super::roster::Warmth;
use super::{ACKNOWLEDGE_EVERY, Cause, Cluster, LAST_CHECKPOINT_WITHIN};

impl Cluster {
    pub(super) fn record(&mut self, session: SessionId, generation: Generation, report: Report) {
        let clock = self.clock;
        let Some(worker) = self.roster.get_mut(session) else { return };
        worker.last_heard = clock;
        match &report {
            Report::Heartbeat { step, phase } => {
                (worker.step, worker.phase) = (*step, *phase);
                return;
            }
            Report::Leaving { reason } => return self.leave(session, reason),
            Report::Warm { job } => {
                worker.warmth = Warmth::Warm(job.clone());
                return;
            }
            Report::Trouble(trouble) if matches!(worker.warmth, Warmth::Asked(..)) => {
                return self.leave_cold(session, &trouble.message.clone());
            }
            _ => {}
        }
        // Late, not wrong: what an abandoned generation still had to say.
        let Some(membership) = &mut self.membership else { return };
        if membership.generation != generation && !active(Mutant::StaleReportCounted) {
            return;
        }
        membership.last_progress = clock;
        let Some(rank) = membership.rank_of(session) else { return };
        let taken = match report {
            Report::Ready { step, digest } => self.take_ready(rank, step, digest),
            Report::StepDone(done) => self.take_step(rank, done),
            Report::Evaluated { step, tally } => self.take_tally(rank, step, tally),
            Report::Quarantined(images) => self.take_quarantined(rank, images),
            Report::Finished { step, model_sha256 } => self.take_finished(rank, step, model_sha256),
            Report::Sealed { attempt, .. } if membership.sealing().is_none() => {
                // An earlier life of the coordinator asked for it, and is not known to have heard the answer.
                self.generation = self.generation.max(attempt);
                self.seal_generation();
                Ok(())
            }
            Report::Sealed { attempt, held } => {
                membership.take_sealed(rank, attempt, held);
                Ok(())
            }
            Report::Trouble(trouble) => {
                self.complain(rank, trouble);
                Ok(())
            }
            Report::Heartbeat { .. } | Report::Leaving { .. } | Report::Warm { .. } => Ok(()),
        };
        if let Err(Contradiction(line)) = taken {
            self.fail(Cause::Worker, line);
        }
    }

    fn take_ready(
        &mut self,
        rank: usize,
        step: u64,
        digest: super::Digest,
    ) -> Result<(), Contradiction> {
        let now = self.now;
        let Some(membership) = &mut self.membership else { return Ok(()) };
        let agreed = match membership.take_ready(rank, step, digest)? {
            Taken::Agreed(agreed) => agreed,
            Taken::Partly => return Ok(()),
            Taken::Diverged => {
                self.seal_generation();
                return Ok(());
            }
        };
        membership.progress = Progress::Running { since: now };
        let (id, generation) = (membership.job.clone(), membership.generation);
        let sessions: Vec<_> = membership.seats.iter().map(|seat| seat.member.session).collect();
        // In a generation of an earlier life later steps may be committed already.
        if let Some(job) = self.job_mut(&id).filter(|job| job.watermark.step == step) {
            job.watermark.digest = Some(agreed);
            job.base = job.watermark;
        }
        let text = format!("job {id} trains with {} workers from step {step}", sessions.len());
        self.log(Some(&id), Level::Info, text);
        for &session in &sessions {
            self.push(Action::Send { session, generation, plan: Plan::Run });
        }
        if self.job(&id).is_some_and(|job| job.stop_wanted) {
            self.stop_generation(&id);
        }
        Ok(())
    }

    fn take_step(&mut self, rank: usize, done: StepDone) -> Result<(), Contradiction> {
        let Some(membership) = &mut self.membership else { return Ok(()) };
        if membership.is_forming() && !membership.remembered {
            let name = membership.name(rank);
            return Err(Contradiction(format!("worker {name} trained before it was told to")));
        }
        let member = &membership.seats[rank].member;
        if let Some(worker) = self.roster.get_mut(member.session) {
            worker.step = worker.step.max(done.step);
            worker.phase = Phase::Compute;
            let times = done.times;
            let spent = times.data_ns.saturating_add(times.forward_ns);
            let spent = spent.saturating_add(times.backward_ns);
            worker.measure(spent / u64::from(member.slices.end - member.slices.start).max(1));
        }
        let agreed = match membership.take_step(rank, done)? {
            Taken::Agreed(agreed) => agreed,
            Taken::Partly => return Ok(()),
            Taken::Diverged => {
                self.seal_generation();
                return Ok(());
            }
        };
        let (id, generation) = (membership.job.clone(), membership.generation);
        let Some(job) = self.job_mut(&id) else { return Ok(()) };
        if agreed.step <= job.watermark.step && !active(Mutant::CommittedAgain) {
            // Committed in an earlier life of the coordinator, which ended before it published the step.
            self.publish_step(&id, agreed);
            return Ok(());
        }
        job.broken_edges = 0;
        let paused = agreed.paused;
        self.commit(&id, generation, &agreed);
        self.note_skipped(&id, &agreed);
        self.settle_dispute(&id, &agreed);
        self.name_stragglers(&id);
        self.publish_step(&id, agreed);
        if active(Mutant::AcknowledgedTooEarly) {
            self.acknowledge();
        }
        self.seal_due(&id);
        if paused {
            self.seal_generation();
        }
        Ok(())
    }

    pub(super) fn publish_step(&mut self, id: &JobId, agreed: Agreed) {
        let Some(job) = self.job(id) else { return };
        let samples = job.spec.job.train.batch as u64;
        if let Some(membership) = &mut self.membership {
            membership.published = agreed.step;
        }
        let Agreed { step, loss, correct, gradient_norm, skipped, times, .. } = agreed;
        let metric = Metric::Step { step, loss, correct, gradient_norm, samples, skipped, times };
        self.push(Action::Publish { job: id.clone(), metric });
    }

    /// Time for `acknowledge`. On a tick, when what was committed before it is published.
    pub(super) fn acknowledge_in_time(&mut self) {
        let Some(membership) = &mut self.membership else { return };
        if self.clock.saturating_sub(membership.acknowledged_at) >= ACKNOWLEDGE_EVERY {
            membership.acknowledged_at = self.clock;
            self.acknowledge();
        }
    }

    /// Tells the members which reports they need not keep.
    fn acknowledge(&mut self) {
        let Some(membership) = &self.membership else { return };
        let Some(job) = self.job(&membership.job) else { return };
        let (step, generation) = (job.watermark.step, membership.generation);
        let Some(membership) = &mut self.membership else { return };
        if membership.acknowledged >= step {
            return;
        }
        membership.acknowledged = step;
        let members: Vec<SessionId> = membership.here().map(|seat| seat.member.session).collect();
        for session in members {
            self.push(Action::Send { session, generation, plan: Plan::Committed { step } });
        }
    }

    fn take_tally(&mut self, rank: usize, step: u64, tally: Tally) -> Result<(), Contradiction> {
        let Some(membership) = &mut self.membership else { return Ok(()) };
        let id = membership.job.clone();
        let known = |job: &JobRun| {
            job.id == id && job.evaluations.contains_key(&step) && !active(Mutant::EvaluatedAgain)
        };
        if self.jobs.iter().any(known) {
            // Repeated after a break of its stream.
            return Ok(());
        }
        let Some(sum) = membership.take_tally(rank, step, tally)? else { return Ok(()) };
        let Some(job) = self.job_mut(&id) else { return Ok(()) };
        let expected = job.spec.dataset.test_len;
        if sum.samples != expected {
            return Err(Contradiction(format!(
                "the evaluation of step {step} looked at {} images instead of {expected}",
                sum.samples
            )));
        }
        let evaluation = sum.evaluation();
        job.evaluations.insert(step, evaluation);
        self.push(Action::Journal(Record::Evaluated { job: id.to_string(), step, evaluation }));
        let metric = Metric::Evaluation { step, evaluation };
        self.push(Action::Publish { job: id.clone(), metric });
        self.seal_due(&id);
        Ok(())
    }

    fn take_finished(
        &mut self,
        rank: usize,
        step: u64,
        model_sha256: String,
    ) -> Result<(), Contradiction> {
        let clock = self.clock;
        let Some(membership) = &mut self.membership else { return Ok(()) };
        // An earlier life of the coordinator may have asked for it.
        let stopping = membership.stopping || membership.remembered;
        let Some((step, model_sha256)) = membership.take_finished(rank, step, model_sha256)? else {
            return Ok(());
        };
        membership.ended = Some((step, model_sha256, clock));
        let Some(job) = self.membership.as_ref().and_then(|m| self.job(&m.job)) else {
            return Ok(());
        };
        let total = job.total_steps();
        if step < total && !stopping {
            return Err(Contradiction(format!(
                "all workers finished with step {step} of {total}, unasked"
            )));
        }
        self.end_generation();
        Ok(())
    }

    /// Lets the members go when all have finished and their last checkpoint is sealed: until then the state is theirs alone.
    /// After a break of their streams they may have to send it once more.
    pub(super) fn end_generation(&mut self) {
        let Some(membership) = &self.membership else { return };
        let Some((step, model_sha256, since)) = membership.ended.clone() else { return };
        let id = membership.job.clone();
        let Some(job) = self.job(&id) else { return };
        let given_up = job.given_up.as_ref().is_some_and(|(given_up, _)| *given_up == step);
        let waited = self.clock.saturating_sub(since) > LAST_CHECKPOINT_WITHIN;
        let hurries = active(Mutant::EndedWithoutCheckpoint);
        let sealed = job.checkpoints.last().is_some_and(|newest| newest.step >= step);
        if !(sealed || given_up || waited || hurries) {
            return;
        }
        let done = step >= job.total_steps() && job.halted.is_none();
        let outcome = if done { Outcome::Finished { model_sha256 } } else { job.stopped() };
        self.release();
        self.end(&id, outcome);
    }

    /// Ends the generation in agreement: its members are idle again.
    fn release(&mut self) {
        let Some(membership) = self.close_generation() else { return };
        let generation = membership.generation;
        for seat in membership.here() {
            let session = seat.member.session;
            self.push(Action::Send { session, generation, plan: Plan::Release });
        }
    }

    /// The generation is over, whatever follows; its members are not told.
    pub(super) fn close_generation(&mut self) -> Option<Membership> {
        self.count_training();
        let membership = self.membership.take()?;
        if !active(Mutant::UploadsLeftOpen) {
            self.push(Action::CloseUploads { generation: membership.generation });
        }
        if let Some(job) = self.job_mut(&membership.job) {
            job.assembled.clear();
        }
        for seat in membership.here() {
            let session = seat.member.session;
            if self.roster.get(session).is_some_and(|worker| worker.leaving) {
                self.let_go(session);
            }
        }
        Some(membership)
    }

    pub(super) fn count_training(&mut self) {
        let Some(membership) = &self.membership else { return };
        let Progress::Running { since } = membership.progress else { return };
        let (id, spent) = (membership.job.clone(), self.now.saturating_sub(since));
        if let Some(job) = self.job_mut(&id) {
            job.trained += spent;
        }
    }

    pub(super) fn assemble(&mut self, id: &JobId, generation: Generation, step: u64) {
        if self.membership.as_ref().is_none_or(|m| m.generation != generation || m.job != *id) {
            return;
        }
        if let Some(job) = self.job_mut(id) {
            job.assembled.insert(step);
        }
        self.seal_due(id);
    }

    /// Hands checkpoints to the store whose step is committed and, where due, evaluated.
    fn seal_due(&mut self, id: &JobId) {
        let Some(generation) = self.membership.as_ref().map(|m| m.generation) else { return };
        let Some(job) = self.job_mut(id) else { return };
        let due: Vec<u64> =
            job.assembled.iter().copied().filter(|&step| job.ready_to_seal(step)).collect();
        let mut orders = Vec::new();
        for step in due {
            let early = job.watermark.digest.filter(|_| active(Mutant::CheckpointOfUncommitted));
            let Some(digest) = job.committed_digest(step).or(early) else { continue };
            job.assembled.remove(&step);
            job.sealing.insert(step);
            orders.push(SealOrder {
                job: id.clone(),
                spec: job.spec.clone(),
                generation,
                step,
                digest,
                evaluation: job.evaluations.get(&step).copied(),
                device_kind: job.device_kind.clone().unwrap_or_default(),
            });
        }
        for order in orders {
            self.push(Action::Seal(Box::new(order)));
        }
        self.end_generation();
    }

    pub(super) fn seal(&mut self, id: &JobId, entry: CheckpointEntry) {
        let Some(job) = self.job_mut(id) else { return };
        let step = entry.step;
        job.sealing.remove(&step);
        job.unsealed.remove(&step);
        if job.given_up.as_ref().is_some_and(|(given_up, _)| *given_up <= step) {
            job.given_up = None;
        }
        let removed = job.keep(entry.clone());
        let entries = job.checkpoints.clone();
        let best = super::best_checkpoint(&entries);
        let mut text = format!("checkpoint of step {step} is on disk and verified");
        if !removed.is_empty() {
            let steps = joined(removed.iter().map(u64::to_string));
            text = format!("{text}; no longer kept: step {steps}");
        }
        let shelf = Shelf { entries, best };
        self.push(Action::Journal(Record::Sealed { job: id.to_string(), entry, removed }));
        self.push(Action::Retain { job: id.clone(), shelf });
        self.log(Some(id), Level::Info, text);
        self.end_generation();
        self.settle(id);
    }

    /// A checkpoint could not be written. Training goes on: the next one may fit.
    pub(super) fn give_up(
        &mut self,
        id: &JobId,
        generation: Generation,
        step: u64,
        problem: String,
    ) {
        let Some(job) = self.job_mut(id) else { return };
        // Late news of what nobody waits for any more.
        if !matches!(job.stage, Stage::Active | Stage::Ending(_)) || job.generation != generation {
            return;
        }
        job.sealing.remove(&step);
        job.assembled.remove(&step);
        job.unsealed.remove(&step);
        // They may be given up in any order, and it is the newest one that somebody may wait for.
        if job.given_up.as_ref().is_none_or(|(newest, _)| *newest <= step) {
            job.given_up = Some((step, problem.clone()));
        }
        let newest = job.newest_checkpoint_words();
        let text =
            format!("checkpoint of step {step} given up: {problem}; training goes on, {newest}");
        self.log(Some(id), Level::Warn, text);
        self.end_generation();
        self.settle(id);
    }
}
