//! Jobs come and go: submission, going on from a checkpoint, stopping, the end.

use std::path::Path;

use proto::identity::JobId;
use proto::mutant::{Mutant, active};

use super::action::{Action, Answer, Level, Outcome, Plan, StopRefusal, SubmitRefusal};
use super::event::{BaseSearch, Ticket};
use super::job::{CheckpointEntry, JobRun, JobSpec, Stage, Submission, differing_keys};
use super::membership::Progress;
use super::record::{End, Record, base_of};
use super::{Cause, Cluster};

impl Cluster {
    pub(super) fn submit(&mut self, ticket: Ticket, submission: Submission) {
        let slices = submission.spec.job.train.slices;
        if submission.workers as usize > slices || submission.workers == 0 {
            let workers = submission.workers;
            return self.refuse(ticket, SubmitRefusal::TooManyWorkers { workers, slices });
        }
        if self.queue.len() >= QUEUE_MAX {
            return self.refuse(ticket, SubmitRefusal::QueueFull { limit: QUEUE_MAX });
        }
        let same = |job: &&JobRun| job.spec.same_as(&submission.spec);
        let name = &submission.spec.job.name;
        let namesake = |job: &&JobRun| job.spec.job.name == *name;
        let found = if submission.fresh {
            None
        } else {
            let newest_first = self.jobs.iter().rev();
            newest_first.clone().find(same).or_else(|| newest_first.clone().find(namesake))
        };
        match found {
            None => self.create(ticket, submission),
            Some(job) if !job.spec.same_as(&submission.spec) => {
                let refusal = difference(job, &submission.spec);
                self.refuse(ticket, refusal);
            }
            Some(job) => match &job.stage {
                Stage::Ended(Outcome::Finished { .. }) => {
                    let (job, resumed_from_step) = (job.id.clone(), job.watermark.step);
                    let answer =
                        Answer::Submitted { job, resumed_from_step, already_finished: true };
                    self.push(Action::Answer { ticket, answer });
                }
                Stage::Ended(_) => {
                    let id = job.id.clone();
                    if let Some(job) = self.job_mut(&id) {
                        job.start_again(&submission);
                    }
                    self.search(ticket, id);
                }
                _ => {
                    let job = job.id.clone();
                    self.refuse(ticket, SubmitRefusal::Busy { job });
                }
            },
        }
    }

    fn create(&mut self, ticket: Ticket, submission: Submission) {
        let spec = &submission.spec;
        if let (Some(path), None) = (spec.init_path(), &spec.weights) {
            let file = path.display().to_string();
            return self.refuse(ticket, SubmitRefusal::WeightsMissing { file });
        }
        let name = submission.spec.job.name.as_str();
        let number =
            1 + self.jobs.iter().filter_map(|job| number_of(&job.id, name)).max().unwrap_or(0);
        let text = format!("{name}-{number}");
        let Ok(id) = text.parse::<JobId>() else {
            return self.refuse(ticket, SubmitRefusal::Name { id: text });
        };
        self.push(Action::Journal(Record::Submitted {
            job: text,
            toml: submission.spec.toml.clone(),
            dataset: submission.spec.dataset.clone(),
            weights: submission.spec.weights.clone(),
            workers: submission.workers,
            policy: submission.policy,
            shortage: submission.shortage,
        }));
        let first_weights = first_weights(&submission.spec);
        let job = JobRun::new(id.clone(), submission, Stage::Queued);
        let text = format!("job {id} submitted: {} steps", job.total_steps());
        self.jobs.push(job);
        self.log(Some(&id), Level::Info, text);
        if let Some(text) = first_weights {
            self.log(Some(&id), Level::Info, format!("job {id} starts from {text}"));
            return self.search(ticket, id);
        }
        self.queue.push_back(id.clone());
        let answer = Answer::Submitted { job: id, resumed_from_step: 0, already_finished: false };
        self.push(Action::Answer { ticket, answer });
    }

    /// The job ran here before, or starts from a file: what it goes on from is verified first.
    fn search(&mut self, ticket: Ticket, id: JobId) {
        let Some(job) = self.job_mut(&id) else { return };
        job.stage = Stage::Searching(Some(ticket));
        let spec = Box::new(job.spec.clone());
        self.queue.push_back(id.clone());
        self.push(Action::FindBase { job: id, spec });
    }

    pub(super) fn resume(&mut self, id: &JobId, search: BaseSearch) {
        let Some(job) = self.job(id) else { return };
        let Stage::Searching(ticket) = job.stage else { return };
        let had_checkpoint = job.had_checkpoint;
        let (entries, set_aside) = match search {
            BaseSearch::Found { entries, set_aside } => (entries, set_aside),
            BaseSearch::Nothing { set_aside } if !had_checkpoint => (Vec::new(), set_aside),
            BaseSearch::NoWeights { problem, set_aside } if !had_checkpoint => {
                self.warn_all(id, &set_aside);
                let refusal = SubmitRefusal::NoWeights { problem: problem.clone() };
                return self.cannot_begin(id, ticket, problem, refusal);
            }
            BaseSearch::Nothing { set_aside } | BaseSearch::NoWeights { set_aside, .. } => {
                self.warn_all(id, &set_aside);
                let problem = format!("job {id} had checkpoints, but none of them can be used");
                return self.without_base(id, ticket, problem);
            }
            BaseSearch::Refused { problem } => return self.without_base(id, ticket, problem),
        };
        self.warn_all(id, &set_aside);
        let base = match base_of(&entries) {
            Ok(base) => base,
            Err(error) => return self.without_base(id, ticket, error.to_string()),
        };
        self.go_on_from(id, ticket, entries, base.step);
    }

    fn go_on_from(
        &mut self,
        id: &JobId,
        ticket: Option<Ticket>,
        entries: Vec<CheckpointEntry>,
        step: u64,
    ) {
        let Some(job) = self.job_mut(id) else { return };
        let Ok(base) = base_of(&entries) else { return };
        let is_new = job.device_kind.is_none();
        job.rewind(base);
        job.chain.resume(base.step);
        for entry in &entries {
            if let Some(evaluation) = entry.evaluation {
                job.evaluations.insert(entry.step, evaluation);
            }
        }
        let model = entries.last().map(|entry| entry.model_sha256.clone());
        job.checkpoints = entries.clone();
        job.stage = Stage::Queued;
        let record = Record::Resumed {
            job: id.to_string(),
            workers: job.workers,
            policy: job.policy,
            shortage: job.shortage,
            went_back: job.went_back,
            checkpoints: entries,
        };
        let complete = step >= job.total_steps();
        self.push(Action::Journal(record));
        if !active(Mutant::RewoundMetricsKept) {
            self.push(Action::CutHistory { job: id.clone(), step });
        }
        let text = match step {
            0 => format!("job {id} has no checkpoint yet; it starts from the beginning"),
            _ => format!("job {id} goes on from its checkpoint of step {step}"),
        };
        // A job that never ran has said where it starts.
        if !is_new || step > 0 {
            self.log(Some(id), Level::Info, text);
        }
        let answer = Answer::Submitted {
            job: id.clone(),
            resumed_from_step: step,
            already_finished: complete,
        };
        if let Some(ticket) = ticket {
            self.push(Action::Answer { ticket, answer });
        }
        if let Some(model_sha256) = model.filter(|_| complete) {
            // The earlier run ended between sealing its last checkpoint and saying so.
            self.conclude(id, Outcome::Finished { model_sha256 });
        }
    }

    fn without_base(&mut self, id: &JobId, ticket: Option<Ticket>, problem: String) {
        let refusal = SubmitRefusal::NoBase { problem: problem.clone() };
        self.cannot_begin(id, ticket, problem, refusal);
    }

    fn cannot_begin(
        &mut self,
        id: &JobId,
        ticket: Option<Ticket>,
        reason: String,
        refusal: SubmitRefusal,
    ) {
        self.log(Some(id), Level::Error, format!("job {id} can't go on: {reason}"));
        self.conclude(id, Outcome::Failed { cause: Cause::Checkpoint, reason });
        if let Some(ticket) = ticket {
            self.refuse(ticket, refusal);
        }
    }

    fn warn_all(&mut self, id: &JobId, lines: &[String]) {
        for line in lines {
            self.log(Some(id), Level::Warn, line.clone());
        }
    }

    pub(super) fn stop(&mut self, ticket: Ticket, id: &JobId) {
        let Some(job) = self.job(id) else {
            let refusal = StopRefusal::Unknown { job: id.clone() };
            return self.push(Action::Answer { ticket, answer: Answer::StopRefused(refusal) });
        };
        match job.stage.clone() {
            Stage::Ended(_) => {
                let refusal = StopRefusal::Ended { job: id.clone() };
                self.push(Action::Answer { ticket, answer: Answer::StopRefused(refusal) });
                return;
            }
            Stage::Ending(_) => {}
            Stage::Searching(waiting) => {
                if let Some(waiting) = waiting {
                    self.refuse(waiting, SubmitRefusal::Stopped { job: id.clone() });
                }
                self.conclude(id, Outcome::Stopped);
            }
            Stage::Queued => self.conclude(id, Outcome::Stopped),
            Stage::Active => self.stop_generation(id),
        }
        self.push(Action::Answer { ticket, answer: Answer::Stopping });
    }

    pub(super) fn stop_generation(&mut self, id: &JobId) {
        let Some(membership) = self.membership.as_mut().filter(|m| m.job == *id) else { return };
        let Some(job) = self.jobs.iter_mut().find(|job| job.id == *id) else { return };
        if !matches!(membership.progress, Progress::Running { .. }) {
            // What the workers hold may be newer than any checkpoint: they go on for one more step and write it.
            let newer = membership.base_step < job.watermark.step;
            if membership.carried || newer || membership.sealing().is_some() {
                job.stop_wanted = true;
                return;
            }
            self.dissolve("the job was stopped");
            return self.conclude(id, Outcome::Stopped);
        }
        // The generation may be given up before it comes to that: then the next one stops.
        job.stop_wanted = true;
        if std::mem::replace(&mut membership.stopping, true) {
            return;
        }
        let generation = membership.generation;
        let sessions: Vec<_> = membership.seats.iter().map(|seat| seat.member.session).collect();
        self.log(Some(id), Level::Info, format!("job {id} stops after its current step"));
        for session in sessions {
            self.push(Action::Send { session, generation, plan: Plan::Stop });
        }
    }

    /// The job is over once its checkpoints in flight are settled.
    pub(super) fn end(&mut self, id: &JobId, outcome: Outcome) {
        let Some(job) = self.job_mut(id) else { return };
        job.stage = Stage::Ending(outcome);
        self.settle(id);
    }

    pub(super) fn settle(&mut self, id: &JobId) {
        let Some(job) = self.job(id) else { return };
        let Stage::Ending(outcome) = &job.stage else { return };
        if !job.sealing.is_empty() {
            return;
        }
        let (wished, outcome) = (outcome.clone(), kept_outcome(job, outcome.clone()));
        if let (false, Outcome::Failed { reason, .. }) = (outcome == wished, &outcome) {
            self.log(Some(id), Level::Error, format!("job {id} failed: {reason}"));
        }
        self.conclude(id, outcome);
    }

    /// The job is over.
    pub(super) fn conclude(&mut self, id: &JobId, outcome: Outcome) {
        self.queue.retain(|other| other != id);
        let Some(job) = self.job_mut(id) else { return };
        job.stage = Stage::Ended(outcome.clone());
        let record = Record::Ended {
            job: id.to_string(),
            end: End::from(&outcome),
            trained_ms: job.trained.as_millis() as u64,
            trained_steps: job.trained_steps,
        };
        let (step, newest) = (job.watermark.step, job.newest_checkpoint_words());
        self.push(Action::Journal(record));
        match &outcome {
            Outcome::Finished { model_sha256 } => {
                let text =
                    format!("job {id} finished after step {step}: model sha256 {model_sha256}");
                self.log(Some(id), Level::Info, text);
            }
            Outcome::Stopped => {
                self.log(
                    Some(id),
                    Level::Info,
                    format!("job {id} stopped after step {step}; {newest}"),
                );
            }
            // Said when it happened, in the words of the cause.
            Outcome::Failed { .. } => {}
        }
        self.push(Action::Finish { job: id.clone(), outcome });
    }

    fn refuse(&mut self, ticket: Ticket, refusal: SubmitRefusal) {
        self.push(Action::Answer { ticket, answer: Answer::SubmitRefused(refusal) });
    }
}

/// A run whose last state is not on disk has not succeeded, whatever its workers computed.
fn kept_outcome(job: &JobRun, outcome: Outcome) -> Outcome {
    let step = job.watermark.step;
    let newest = job.checkpoints.last();
    let failed = |reason: String| Outcome::Failed { cause: Cause::Checkpoint, reason };
    let missing = || {
        let why = match &job.given_up {
            Some((given_up, problem)) if *given_up == step => problem.clone(),
            _ => "the workers sent none".to_owned(),
        };
        let words = job.newest_checkpoint_words();
        failed(format!(
            "step {step} was reached, but its checkpoint could not be written: {why}; {words}"
        ))
    };
    match (&outcome, newest) {
        (Outcome::Finished { model_sha256 }, Some(entry)) if entry.step == step => {
            if entry.model_sha256 == *model_sha256 {
                return outcome;
            }
            failed(format!(
                "the checkpoint of step {step} holds model {}, but the workers ended with {model_sha256}",
                entry.model_sha256
            ))
        }
        (Outcome::Stopped, Some(entry)) if entry.step == step => outcome,
        (Outcome::Stopped, None) if step == 0 => outcome,
        (Outcome::Finished { .. } | Outcome::Stopped, _) => missing(),
        (Outcome::Failed { .. }, _) => outcome,
    }
}

fn difference(old: &JobRun, new: &JobSpec) -> SubmitRefusal {
    let (job, differing) = (old.id.clone(), differing_keys(&old.spec.toml, &new.toml));
    if differing.is_empty() && !old.spec.starts_like(new) {
        let file = new.init_path().unwrap_or(Path::new("")).display().to_string();
        return SubmitRefusal::OtherWeights { job, file };
    }
    if differing.is_empty() {
        let folder = new.job.data.path.display().to_string();
        return SubmitRefusal::OtherData { job, folder };
    }
    SubmitRefusal::Differs { job, differences: differing.join(", ") }
}

/// "the weights pets.safetensors (SHA-256 ab..)"; `None` when the seed makes them.
fn first_weights(spec: &JobSpec) -> Option<String> {
    let (path, weights) = (spec.init_path()?.display(), spec.weights.as_ref()?);
    let (sha256, ours) = (&weights.sha256, spec.dataset.classes.len());
    let head = weights.other_classes.map_or_else(String::new, |theirs| {
        format!("; its last layer has {theirs} classes, not {ours}: the seed makes another one")
    });
    Some(format!("the weights {path} (SHA-256 {sha256}){head}"))
}

/// Jobs that wait at the same time.
const QUEUE_MAX: usize = 256;

/// The number of the job `<name>-<number>`.
fn number_of(id: &JobId, name: &str) -> Option<u64> {
    id.as_str().strip_prefix(name)?.strip_prefix('-')?.parse().ok()
}
