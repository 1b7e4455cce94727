//! What goes right: members get ready, steps are committed and evaluated, checkpoints are sealed, the job's end is agreed.

use proto::identity::{Generation, JobId};

use super::action::{Action, Level, Metric, Outcome, Plan, SealOrder, Shelf};
use super::event::{Report, SessionId, StepDone, Tally};
use super::job::{CheckpointEntry, Stage};
use super::membership::{Contradiction, Progress, joined};
use super::record::Record;
use super::{Cause, Cluster};

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
            _ => {}
        }
        // Late, not wrong: what an abandoned generation still had to say.
        let Some(membership) = &mut self.membership else { return };
        if membership.generation != generation {
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
            Report::Trouble(trouble) => {
                self.complain(rank, trouble);
                Ok(())
            }
            Report::Heartbeat { .. } | Report::Leaving { .. } => Ok(()),
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
        let Some(agreed) = membership.take_ready(rank, step, digest)? else { return Ok(()) };
        membership.progress = Progress::Running { since: now };
        let (id, generation) = (membership.job.clone(), membership.generation);
        let sessions: Vec<_> = membership.seats.iter().map(|seat| seat.member.session).collect();
        if let Some(job) = self.job_mut(&id) {
            job.watermark.digest = Some(agreed);
            job.base = job.watermark;
        }
        let text = format!("job {id} trains with {} workers from step {step}", sessions.len());
        self.log(Some(&id), Level::Info, text);
        for session in sessions {
            self.push(Action::Send { session, generation, plan: Plan::Run });
        }
        Ok(())
    }

    fn take_step(&mut self, rank: usize, done: StepDone) -> Result<(), Contradiction> {
        let Some(membership) = &mut self.membership else { return Ok(()) };
        if membership.is_forming() {
            let name = membership.name(rank);
            return Err(Contradiction(format!("worker {name} trained before it was told to")));
        }
        if let Some(worker) = self.roster.get_mut(membership.seats[rank].member.session) {
            worker.step = worker.step.max(done.step);
        }
        let Some(agreed) = membership.take_step(rank, done)? else { return Ok(()) };
        let (id, generation) = (membership.job.clone(), membership.generation);
        if !agreed.loss.is_finite() {
            return Err(Contradiction(format!("the loss of step {} is not finite", agreed.step)));
        }
        let Some(job) = self.job_mut(&id) else { return Ok(()) };
        job.commit(agreed.step, agreed.digest);
        job.trained_steps += 1;
        job.loss = Some(agreed.loss);
        let samples = job.spec.job.train.batch as u64;
        self.push(Action::Journal(Record::Committed {
            job: id.to_string(),
            generation: generation.0,
            step: agreed.step,
            digest: agreed.digest.to_string(),
        }));
        let metric = Metric::Step {
            step: agreed.step,
            loss: agreed.loss,
            correct: agreed.correct,
            gradient_norm: agreed.gradient_norm,
            samples,
            times: agreed.times,
        };
        self.push(Action::Publish { job: id.clone(), metric });
        self.seal_due(&id);
        Ok(())
    }

    fn take_tally(&mut self, rank: usize, step: u64, tally: Tally) -> Result<(), Contradiction> {
        let Some(membership) = &mut self.membership else { return Ok(()) };
        let Some(sum) = membership.take_tally(rank, step, tally)? else { return Ok(()) };
        let id = membership.job.clone();
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
        let Some(membership) = &mut self.membership else { return Ok(()) };
        let stopping = membership.stopping;
        let Some((step, model_sha256)) = membership.take_finished(rank, step, model_sha256)? else {
            return Ok(());
        };
        let id = membership.job.clone();
        let Some(job) = self.job(&id) else { return Ok(()) };
        let total = job.total_steps();
        if step < total && !stopping {
            return Err(Contradiction(format!(
                "all workers finished with step {step} of {total}, unasked"
            )));
        }
        self.release();
        let outcome =
            if step < total { Outcome::Stopped } else { Outcome::Finished { model_sha256 } };
        self.end(&id, outcome);
        Ok(())
    }

    /// Ends the generation in agreement: its members are idle again.
    fn release(&mut self) {
        self.count_training();
        let Some(membership) = self.membership.take() else { return };
        let generation = membership.generation;
        for seat in &membership.seats {
            let session = seat.member.session;
            if self.roster.get(session).is_some() {
                self.push(Action::Send { session, generation, plan: Plan::Release });
            }
        }
        self.push(Action::CloseUploads { generation });
        if let Some(job) = self.job_mut(&membership.job) {
            job.assembled.clear();
        }
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
            let Some(digest) = job.committed_digest(step) else { continue };
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
        job.given_up = Some((step, problem.clone()));
        let newest = job.newest_checkpoint_words();
        let text =
            format!("checkpoint of step {step} given up: {problem}; training goes on, {newest}");
        self.log(Some(id), Level::Warn, text);
        self.settle(id);
    }
}
