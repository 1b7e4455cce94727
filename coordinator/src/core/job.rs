//! One job: what it trains, how far it has come, which checkpoints it has, and why it stands where it stands.
//! Knows no worker's stream: who computes is the membership's matter, so that a job outlives its generations.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use proto::identity::{Generation, Incarnation, JobId};
use proto::job::Init;
use proto::manifest::{Evaluation, Input};
use proto::mutant::{Mutant, active};
use proto::wire::v1;
use proto::{Job, Timeline};
use serde::{Deserialize, Serialize};

use super::action::{Cause, Outcome};
use super::event::{Digest, Ticket};
use super::guard::Dispute;
use super::ledger::Chain;
use super::quarantine::Quarantine;

/// What is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSpec {
    pub job: Job,
    /// The resolved job file, data path absolute.
    pub toml: String,
    pub dataset: DatasetFacts,
    /// The file of `model.init`. Absent when the job has none, and in a submission whose file is not there any more: the
    /// copy of an earlier run replaces it.
    pub weights: Option<WeightsFacts>,
}

impl JobSpec {
    /// Both mean the same computation. Numbers are compared as they were written.
    pub fn same_as(&self, other: &JobSpec) -> bool {
        self.toml == other.toml
            && self.dataset.fingerprint == other.dataset.fingerprint
            && self.starts_like(other)
    }

    /// A file that is gone may have been any.
    pub(crate) fn starts_like(&self, other: &JobSpec) -> bool {
        match (&self.weights, &other.weights) {
            (Some(ours), Some(theirs)) => ours.sha256 == theirs.sha256,
            _ => true,
        }
    }

    /// The file that the job starts from; `None` when its seed makes the first weights.
    pub fn init_path(&self) -> Option<&Path> {
        match &self.job.init {
            Init::Seed => None,
            Init::File(path) => Some(path),
        }
    }
}

/// What the coordinator learned of the weights that a job starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsFacts {
    /// Hex.
    pub sha256: String,
    /// Bytes.
    pub len: u64,
    /// The last layer was made for this number of classes, which is not the job's: the job's seed makes another one.
    pub other_classes: Option<usize>,
}

/// What the coordinator learned when it indexed the dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetFacts {
    /// SHA-256, hex.
    pub fingerprint: String,
    pub train_len: u64,
    pub test_len: u64,
    pub classes: Vec<String>,
    /// With the normalisation resolved to numbers.
    pub input: Input,
}

/// A request to run a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    pub spec: JobSpec,
    /// Start when this many workers have joined.
    pub workers: u32,
    pub policy: Policy,
    pub fresh: bool,
    pub shortage: Shortage,
}

/// How many workers a job may have while it runs. None of it changes the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub on_loss: OnLoss,
    /// Below this the job waits, and its workers hold their state.
    pub min_workers: u32,
    /// More stay idle; a job never has more workers than slices.
    pub max_workers: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLoss {
    /// Go on with those who are left; take in others when they come.
    Shrink,
    /// Go on with as many as it was started with: wait for another worker.
    Wait,
    /// Never more than it was started with; others stand by and take the place of one that is lost.
    Spare,
}

impl From<v1::OnLoss> for OnLoss {
    fn from(on_loss: v1::OnLoss) -> OnLoss {
        match on_loss {
            v1::OnLoss::Shrink => OnLoss::Shrink,
            v1::OnLoss::Wait => OnLoss::Wait,
            v1::OnLoss::Spare => OnLoss::Spare,
        }
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { on_loss: OnLoss::Shrink, min_workers: 1, max_workers: u32::MAX }
    }
}

/// What to do when a worker that was counted on can't take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shortage {
    /// Others may still join.
    Wait,
    /// Nobody else will come.
    Fail,
}

/// One sealed checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointEntry {
    pub step: u64,
    /// Length of all files.
    pub bytes: u64,
    /// Digest of the state, hex.
    pub digest: String,
    /// SHA-256 of the model file, hex.
    pub model_sha256: String,
    pub evaluation: Option<Evaluation>,
}

/// Where a job stands. `Active` means that a generation is forming or running for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stage {
    /// Its checkpoints are being verified; the ticket of whoever submitted it waits for the result.
    Searching(Option<Ticket>),
    Queued,
    Active,
    /// Over, but checkpoints are still being sealed.
    Ending(Outcome),
    Ended(Outcome),
}

/// A training state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    pub step: u64,
    /// Unknown only for the initial state, before a generation is ready.
    pub digest: Option<Digest>,
}

#[derive(Debug)]
pub(crate) struct JobRun {
    pub(crate) id: JobId,
    pub(crate) spec: JobSpec,
    pub(crate) timeline: Timeline,
    pub(crate) chain: Chain,
    pub(crate) workers: u32,
    pub(crate) policy: Policy,
    pub(crate) shortage: Shortage,
    pub(crate) stage: Stage,
    /// The newest that was formed for it.
    pub(crate) generation: Generation,
    /// The next generation starts from here.
    pub(crate) base: Mark,
    /// Newest committed step.
    pub(crate) watermark: Mark,
    pub(crate) loss: Option<f64>,
    pub(crate) quarantine: Quarantine,
    /// Of committed steps.
    pub(crate) evaluations: BTreeMap<u64, Evaluation>,
    /// Oldest first.
    pub(crate) checkpoints: Vec<CheckpointEntry>,
    /// A checkpoint was sealed at some time, even if it is gone now.
    pub(crate) had_checkpoint: bool,
    /// Fixed by the first generation.
    pub(crate) device_kind: Option<String>,
    /// Process starts that can't take part.
    pub(crate) excluded: BTreeSet<Incarnation>,
    /// Digests of committed steps whose checkpoint is not sealed yet.
    pub(crate) unsealed: BTreeMap<u64, Digest>,
    /// Complete on disk, not yet due.
    pub(crate) assembled: BTreeSet<u64>,
    /// Handed to the store.
    pub(crate) sealing: BTreeSet<u64>,
    /// Newest checkpoint that was given up, and why.
    pub(crate) given_up: Option<(u64, String)>,
    /// It is to stop after the next step that a generation comes to.
    pub(crate) stop_wanted: bool,
    /// It returned to a checkpoint by itself.
    pub(crate) went_back: bool,
    /// Words for the newest loss, in case nothing comes after it.
    pub(crate) last_loss: Option<String>,
    /// It was said that workers are lacking.
    pub(crate) said_waiting: bool,
    /// Generations in a row that ended by a broken edge between live workers.
    pub(crate) broken_edges: u32,
    pub(crate) skipped_in_a_row: u32,
    /// Why it is to fail once its last state is on disk.
    pub(crate) halted: Option<String>,
    /// Members that held different states of one step, when it could not be told who was right.
    pub(crate) dispute: Option<Dispute>,
    /// How often that happened.
    pub(crate) disputes: u32,
    /// Time between "run" and the end of the generation, and the steps committed in it; over all generations.
    pub(crate) trained: Duration,
    pub(crate) trained_steps: u64,
}

impl JobRun {
    pub(crate) fn new(id: JobId, submission: Submission, stage: Stage) -> JobRun {
        let timeline = Timeline::new(&submission.spec.job, submission.spec.dataset.train_len);
        let start = Mark { step: 0, digest: None };
        JobRun {
            chain: Chain::begin(&id, &submission.spec),
            id,
            spec: submission.spec,
            timeline,
            workers: submission.workers,
            policy: submission.policy,
            shortage: submission.shortage,
            stage,
            generation: Generation(0),
            base: start,
            watermark: start,
            loss: None,
            quarantine: Quarantine::default(),
            evaluations: BTreeMap::new(),
            checkpoints: Vec::new(),
            had_checkpoint: false,
            device_kind: None,
            excluded: BTreeSet::new(),
            unsealed: BTreeMap::new(),
            assembled: BTreeSet::new(),
            sealing: BTreeSet::new(),
            given_up: None,
            stop_wanted: false,
            went_back: false,
            last_loss: None,
            said_waiting: false,
            broken_edges: 0,
            skipped_in_a_row: 0,
            halted: None,
            dispute: None,
            disputes: 0,
            trained: Duration::ZERO,
            trained_steps: 0,
        }
    }

    pub(crate) fn total_steps(&self) -> u64 {
        self.timeline.total_steps()
    }

    pub(crate) fn slices(&self) -> u32 {
        self.spec.job.train.slices as u32
    }

    /// Least and most workers of a generation that follows another.
    pub(crate) fn crew_bounds(&self) -> (u32, u32) {
        let Policy { on_loss, min_workers, max_workers } = self.policy;
        let unlimited = active(Mutant::MaxWorkersIgnored);
        let most = if unlimited { self.slices() } else { max_workers.min(self.slices()) };
        let min_workers = if active(Mutant::MinWorkersIgnored) { 1 } else { min_workers };
        let (least, most) = match on_loss {
            OnLoss::Shrink => (min_workers, most),
            OnLoss::Wait if active(Mutant::WaitIgnored) => (min_workers, self.workers),
            OnLoss::Wait => (self.workers, self.workers),
            OnLoss::Spare if active(Mutant::SpareGrows) => (min_workers, most),
            OnLoss::Spare => (min_workers, self.workers),
        };
        // A job that is to stop needs somebody to write its checkpoint, not a crew.
        if self.stop_wanted { (1, most) } else { (least.min(most), most) }
    }

    /// "the newest checkpoint is step 736".
    pub(crate) fn newest_checkpoint_words(&self) -> String {
        let newest = match self.checkpoints.last() {
            Some(entry) => format!("the newest checkpoint is step {}", entry.step),
            None => "there is no checkpoint yet".to_owned(),
        };
        match self.sealing.last() {
            Some(step) => format!("{newest}, that of step {step} is being written"),
            None => newest,
        }
    }

    /// Goes back to a state of the past: what came after it will be computed again.
    /// How it ends when it stops before its last step.
    pub(crate) fn stopped(&self) -> Outcome {
        match &self.halted {
            Some(reason) => Outcome::Failed { cause: Cause::Worker, reason: reason.clone() },
            None => Outcome::Stopped,
        }
    }

    /// It was submitted once more after it had ended.
    pub(crate) fn start_again(&mut self, submission: &Submission) {
        let Submission { workers, policy, shortage, .. } = submission;
        (self.workers, self.policy, self.shortage) = (*workers, *policy, *shortage);
        self.excluded.clear();
        (self.stop_wanted, self.halted, self.dispute, self.disputes) = (false, None, None, 0);
        self.went_back = false;
    }

    pub(crate) fn rewind(&mut self, base: Mark) {
        self.base = base;
        self.watermark = base;
        self.loss = None;
        self.evaluations.retain(|&step, _| step <= base.step);
        self.unsealed.clear();
        self.assembled.clear();
        self.given_up = None;
        self.skipped_in_a_row = 0;
    }

    pub(crate) fn commit(&mut self, step: u64, digest: Digest, skipped: bool) {
        self.skipped_in_a_row = if skipped { self.skipped_in_a_row + 1 } else { 0 };
        self.watermark = Mark { step, digest: Some(digest) };
        self.base = self.watermark;
        if self.timeline.checkpoints_after(step) {
            self.unsealed.insert(step, digest);
        }
    }

    /// Adds a sealed checkpoint; returns the steps of those that are no longer kept.
    pub(crate) fn keep(&mut self, entry: CheckpointEntry) -> Vec<u64> {
        self.had_checkpoint = true;
        self.checkpoints.retain(|other| other.step != entry.step);
        self.checkpoints.push(entry);
        self.checkpoints.sort_by_key(|entry| entry.step);
        let fewer = usize::from(active(Mutant::OneCheckpointFewer));
        let keep = self.spec.job.checkpoint.keep as usize - fewer;
        let recent = self.checkpoints.len().saturating_sub(keep);
        let best = best_checkpoint(&self.checkpoints);
        let best = best.filter(|_| !active(Mutant::BestCheckpointDropped));
        let older = self.checkpoints[..recent].iter().map(|entry| entry.step);
        let removed: Vec<u64> = older.filter(|&step| Some(step) != best).collect();
        self.checkpoints.retain(|entry| !removed.contains(&entry.step));
        removed
    }

    /// Digest of a committed step, as far as a checkpoint may still need it.
    pub(crate) fn committed_digest(&self, step: u64) -> Option<Digest> {
        if self.watermark.step == step {
            return self.watermark.digest;
        }
        self.unsealed.get(&step).copied()
    }

    /// The checkpoint of this step, or a newer one, is on disk or being written.
    pub(crate) fn is_on_disk(&self, step: u64) -> bool {
        let newest = self.checkpoints.last().map(|entry| entry.step);
        self.sealing.contains(&step) || newest.is_some_and(|newest| newest >= step)
    }

    /// Nothing that belongs into the checkpoint of this step is missing.
    pub(crate) fn ready_to_seal(&self, step: u64) -> bool {
        let evaluated =
            !self.timeline.evaluates_after(step) || self.evaluations.contains_key(&step);
        self.committed_digest(step).is_some() && evaluated
            || active(Mutant::CheckpointOfUncommitted)
    }
}

/// Step of the checkpoint with the highest accuracy, the newest of equals; `None` when none was evaluated.
pub fn best_checkpoint(entries: &[CheckpointEntry]) -> Option<u64> {
    let mut best: Option<(u64, Evaluation)> = None;
    for entry in entries {
        let Some(evaluation) = entry.evaluation else { continue };
        // correct/samples, compared without rounding.
        let parts = |a: Evaluation, b: Evaluation| u128::from(a.correct) * u128::from(b.samples);
        if best.is_none_or(|(_, held)| parts(evaluation, held) >= parts(held, evaluation)) {
            best = Some((entry.step, evaluation));
        }
    }
    best.map(|(step, _)| step)
}

/// The keys in which two resolved job files differ: "train.batch (64, now 128)".
pub fn differing_keys(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (keys(old), keys(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let shown = |value: Option<&String>| value.map_or_else(|| "absent".to_owned(), Clone::clone);
    let differs = |name: &&String| old.get(*name) != new.get(*name);
    let line =
        |name: &String| format!("{name} ({}, now {})", shown(old.get(name)), shown(new.get(name)));
    names.into_iter().filter(differs).map(line).collect()
}

/// `section.key` to value. The resolved form has one `key = value` a line, under `[section]` lines.
fn keys(toml: &str) -> BTreeMap<String, String> {
    let mut section = String::new();
    let mut found = BTreeMap::new();
    for line in toml.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((key, value)) = line.split_once(" = ") {
            found.insert(format!("{section}{key}"), value.to_owned());
        }
    }
    found
}
