//! What people see: every job and worker, and why each stands where it stands. Reads, never decides.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use proto::identity::JobId;
use proto::manifest::{Evaluation, folder_name};
use proto::wire::v1::{CheckpointStatus, JobState, JobStatus, Phase, WorkerStatus};

use super::Cluster;
use super::action::{Cause, Outcome};
use super::event::SessionId;
use super::guard::by_pace;
use super::job::{CheckpointEntry, JobRun, JobSpec, Stage, best_checkpoint};
use super::membership::{Membership, Standing, joined};
use super::quarantine::BadCounts;
use super::roster::Worker;

/// One job, for summaries and listings.
#[derive(Clone, Debug)]
pub struct JobView {
    pub id: JobId,
    pub spec: JobSpec,
    pub step: u64,
    pub total_steps: u64,
    pub loss: Option<f64>,
    /// Images that can't be decoded.
    pub bad: BadCounts,
    /// Newest evaluation and its step.
    pub evaluation: Option<(u64, Evaluation)>,
    /// Best evaluation and its step.
    pub best: Option<(u64, Evaluation)>,
    /// Oldest first.
    pub checkpoints: Vec<CheckpointEntry>,
    pub best_checkpoint: Option<u64>,
    /// Set once the job is over.
    pub outcome: Option<Outcome>,
    pub trained: Duration,
    pub trained_steps: u64,
}

impl JobView {
    /// `folder` is that of the job's checkpoints.
    pub fn checkpoint_statuses(&self, folder: &Path) -> Vec<CheckpointStatus> {
        let status = |entry: &CheckpointEntry| CheckpointStatus {
            step: entry.step,
            folder: folder.join(folder_name(entry.step)).display().to_string(),
            bytes: entry.bytes,
            evaluated_correct: entry.evaluation.map_or(0, |evaluation| evaluation.correct),
            evaluated_samples: entry.evaluation.map_or(0, |evaluation| evaluation.samples),
            best: self.best_checkpoint == Some(entry.step),
        };
        self.checkpoints.iter().map(status).collect()
    }
}

impl Cluster {
    /// `None` for an unknown job.
    pub fn view(&self, id: &JobId) -> Option<JobView> {
        let job = self.job(id)?;
        let newest = job.evaluations.last_key_value().map(|(&step, &found)| (step, found));
        let accuracy =
            |evaluation: &Evaluation| evaluation.correct as f64 / evaluation.samples.max(1) as f64;
        let best = job.evaluations.iter().max_by(|a, b| accuracy(a.1).total_cmp(&accuracy(b.1)));
        Some(JobView {
            id: job.id.clone(),
            spec: job.spec.clone(),
            step: job.watermark.step,
            total_steps: job.total_steps(),
            loss: job.loss,
            bad: job.quarantine.counts(&job.spec),
            evaluation: newest,
            best: best.map(|(&step, &evaluation)| (step, evaluation)),
            checkpoints: job.checkpoints.clone(),
            best_checkpoint: best_checkpoint(&job.checkpoints),
            outcome: match &job.stage {
                Stage::Ended(outcome) => Some(outcome.clone()),
                _ => None,
            },
            trained: job.trained,
            trained_steps: job.trained_steps,
        })
    }

    /// The job has ended, or there is none.
    pub fn is_over(&self, id: &JobId) -> bool {
        self.job(id).is_none_or(|job| matches!(job.stage, Stage::Ended(_)))
    }

    /// All jobs, oldest first. Speeds are the driver's knowledge and left at 0.
    pub fn job_statuses(&self) -> Vec<JobStatus> {
        self.jobs.iter().map(|job| self.job_status(job)).collect()
    }

    /// All workers, by name.
    pub fn worker_statuses(&self) -> Vec<WorkerStatus> {
        let seats = self.membership.iter().flat_map(|membership| &membership.seats);
        let members: Vec<&Worker> =
            seats.filter_map(|seat| self.roster.get(seat.member.session)).collect();
        let times: BTreeMap<SessionId, f64> =
            by_pace(&members).into_iter().map(|(worker, times)| (worker.session, times)).collect();
        let times = |worker: &Worker| times.get(&worker.session).copied().unwrap_or_default();
        self.roster.iter().map(|worker| self.worker_status(worker, times(worker))).collect()
    }

    /// Jobs that have not ended.
    pub fn open_jobs(&self) -> Vec<JobId> {
        self.queue.iter().cloned().collect()
    }

    fn job_status(&self, job: &JobRun) -> JobStatus {
        let membership = self.membership.as_ref().filter(|m| m.job == job.id);
        let newest = job.evaluations.last_key_value().map(|(_, evaluation)| *evaluation);
        let model_sha256 = match &job.stage {
            Stage::Ended(Outcome::Finished { model_sha256 }) => model_sha256.clone(),
            _ => String::new(),
        };
        let (state, mut reason) = self.standing(job, membership);
        if let Some(words) = job.quarantine.counts(&job.spec).words() {
            reason = format!("{reason}; {words}");
        }
        JobStatus {
            job_id: job.id.to_string(),
            state: state.into(),
            reason,
            step: job.watermark.step,
            total_steps: job.total_steps(),
            loss: job.loss,
            evaluated_correct: newest.map_or(0, |evaluation| evaluation.correct),
            evaluated_samples: newest.map_or(0, |evaluation| evaluation.samples),
            images_per_second: 0.0,
            workers: membership.map_or(0, |membership| membership.seats.len() as u32),
            model_sha256,
        }
    }

    /// Where a job stands, and why.
    fn standing(&self, job: &JobRun, membership: Option<&Membership>) -> (JobState, String) {
        let steps = |verb: &str| format!("{verb} after step {}", job.watermark.step);
        match (&job.stage, membership) {
            (Stage::Searching(_), _) => {
                (JobState::Waiting, "verifying what it starts from".to_owned())
            }
            (Stage::Queued, _) | (Stage::Active, None) => {
                (JobState::Waiting, self.waiting_reason(job))
            }
            (Stage::Active, Some(membership)) if membership.is_forming() => {
                (JobState::Forming, format!("preparing: {} not ready yet", membership.unready()))
            }
            (Stage::Active, Some(membership)) if membership.sealing().is_some() => {
                (JobState::Forming, self.sealing_reason(job, membership))
            }
            (Stage::Active, Some(membership)) => (JobState::Running, running_reason(membership)),
            (Stage::Ending(_), _) => (JobState::Running, "writing its last checkpoint".to_owned()),
            (Stage::Ended(Outcome::Finished { .. }), _) => (JobState::Finished, steps("finished")),
            (Stage::Ended(Outcome::Stopped), _) => {
                let words = job.newest_checkpoint_words();
                (JobState::Stopped, format!("{}; {words}", steps("stopped")))
            }
            (Stage::Ended(Outcome::Failed { reason, cause }), _) => {
                let words = job.newest_checkpoint_words();
                let said = matches!(cause, Cause::Checkpoint);
                let reason = if said { reason.clone() } else { format!("{reason}; {words}") };
                (JobState::Failed, reason)
            }
        }
    }

    /// Between two generations.
    fn sealing_reason(&self, job: &JobRun, membership: &Membership) -> String {
        if membership.is_sealed() {
            return self.waiting_words(&job.id);
        }
        let due = membership.here().filter(|seat| seat.standing == Standing::Active);
        let names = joined(due.map(|seat| seat.member.name.to_string()));
        format!("going over to the next generation; waiting for {names}")
    }

    fn waiting_reason(&self, job: &JobRun) -> String {
        match self.queue.front() {
            Some(head) if *head != job.id => return format!("waiting for job {head} to end"),
            _ => {}
        }
        let crew = self.roster.crew(job.device_kind.as_deref(), &job.excluded).len();
        let here = || self.roster.iter().filter(|worker| !worker.dismissed);
        let refused = here().filter(|worker| job.excluded.contains(&worker.incarnation)).count();
        let others = here().count() - crew - refused;
        let plural = if job.workers == 1 { "worker" } else { "workers" };
        let verb = if crew == 1 { "has" } else { "have" };
        let mut reason = format!("waiting for {} {plural}, {crew} {verb} joined", job.workers);
        if refused > 0 {
            reason = format!("{reason}; {refused} more refused, whose dataset is not the job's");
        }
        if others > 0 {
            let kind = job.device_kind.as_deref().unwrap_or("one kind of device");
            reason = format!("{reason}; {others} more can't take part (the job runs on {kind})");
        }
        reason
    }

    fn worker_status(&self, worker: &Worker, times_median: f64) -> WorkerStatus {
        let membership = self.membership.as_ref();
        let membership = membership.filter(|m| m.rank_of(worker.session).is_some());
        let doing = match worker.phase {
            Phase::Idle => "idle",
            Phase::Prepare => "preparing",
            Phase::Compute => "computing",
            Phase::Exchange => "exchanging",
            Phase::Evaluate => "evaluating",
            Phase::Checkpoint => "writing a checkpoint",
        };
        WorkerStatus {
            worker: worker.name.to_string(),
            address: worker.address.clone(),
            device_kind: worker.device_kind.clone(),
            threads: worker.threads,
            job_id: membership.map_or_else(String::new, |membership| membership.job.to_string()),
            step: worker.step,
            doing: doing.to_owned(),
            slice_ms: worker.pace_ns.unwrap_or_default() as f64 / 1e6,
            times_median,
        }
    }
}

fn running_reason(membership: &Membership) -> String {
    let count = membership.seats.len();
    if membership.ended.is_some() {
        return "writing its last checkpoint".to_owned();
    }
    if membership.stopping {
        return "stopping after the current step".to_owned();
    }
    format!("training with {count} workers")
}
