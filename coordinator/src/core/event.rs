//! What the core is told (`Event`) and what it asks for (`Action`): plain values, checked where they entered the process.
//! Knows no socket, no file and no clock.

use std::fmt;
use std::ops::Range;

use proto::identity::{Generation, Incarnation, JobId, Name, hex};
use proto::manifest::Evaluation;
use proto::wire::v1::{Phase, PhaseTimes, TroubleKind};

use super::job::{CheckpointEntry, JobSpec, Submission};
use super::record::Record;

/// One control stream. Never reused while the process lives, so a late event of an old stream hits nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Names the request that an `Action::Answer` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Digest of a training state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest(pub [u8; 16]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Debug)]
pub enum Event {
    /// A worker opened its control stream and said hello.
    Joined(Candidate),
    Reported {
        session: SessionId,
        generation: Generation,
        report: Report,
    },
    /// A control stream broke or was closed by the worker.
    StreamEnded {
        session: SessionId,
        cause: String,
    },
    /// A worker process that was started for the job at hand ended, or took too long, before it joined.
    NeverJoined {
        worker: Name,
        cause: String,
    },
    Submitted {
        ticket: Ticket,
        submission: Box<Submission>,
    },
    /// Answer to `Action::FindBase`.
    BaseFound {
        job: JobId,
        search: BaseSearch,
    },
    StopRequested {
        ticket: Ticket,
        job: JobId,
    },
    /// Every member's part of one checkpoint is on disk.
    CheckpointAssembled {
        job: JobId,
        generation: Generation,
        step: u64,
    },
    /// The checkpoint is whole, read back and under its final name.
    CheckpointSealed {
        job: JobId,
        entry: CheckpointEntry,
    },
    /// The checkpoint was given up; nothing of it is left on disk.
    CheckpointFailed {
        job: JobId,
        step: u64,
        problem: String,
    },
    /// No worker is needed any more: all are told to end.
    Dismissed {
        reason: String,
    },
    /// Time went by.
    Tick,
}

/// A worker that asks to be admitted.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub session: SessionId,
    pub name: Name,
    pub incarnation: Incarnation,
    pub address: String,
    pub device_kind: String,
    pub threads: u32,
    pub software_version: String,
}

/// A worker's report, checked.
#[derive(Clone, Debug)]
pub enum Report {
    Heartbeat { step: u64, phase: Phase },
    Ready { step: u64, digest: Digest },
    StepDone(StepDone),
    Evaluated { step: u64, tally: Tally },
    Trouble(Trouble),
    Finished { step: u64, model_sha256: String },
    Leaving { reason: String },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepDone {
    pub step: u64,
    pub digest: Digest,
    pub loss: f64,
    pub correct: u32,
    pub times: PhaseTimes,
}

/// Integer counts of an evaluation: their sum does not depend on the order of the members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub samples: u64,
    pub correct: u64,
    pub correct_top5: u64,
    /// Units of 2^-20.
    pub loss_fixed: i64,
}

impl Tally {
    /// `None` when a sum does not fit, which no honest report causes.
    pub(super) fn plus(self, other: Tally) -> Option<Tally> {
        Some(Tally {
            samples: self.samples.checked_add(other.samples)?,
            correct: self.correct.checked_add(other.correct)?,
            correct_top5: self.correct_top5.checked_add(other.correct_top5)?,
            loss_fixed: self.loss_fixed.checked_add(other.loss_fixed)?,
        })
    }

    pub(super) fn evaluation(self) -> Evaluation {
        let unit = f64::from(1 << LOSS_FIXED_BITS);
        Evaluation {
            samples: self.samples,
            correct: self.correct,
            correct_top5: self.correct_top5,
            loss: self.loss_fixed as f64 / unit / self.samples.max(1) as f64,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Trouble {
    pub kind: TroubleKind,
    pub step: u64,
    pub phase: Phase,
    pub culprit: Option<Name>,
    pub message: String,
}

/// What the checkpoint folder of a job that ran before has to offer.
#[derive(Clone, Debug)]
pub enum BaseSearch {
    /// The newest entry verified byte by byte; the older ones are listed as their manifests say.
    Found { entries: Vec<CheckpointEntry>, set_aside: Vec<String> },
    /// No usable checkpoint.
    Nothing { set_aside: Vec<String> },
    /// Something is in the way that a person must look at.
    Refused { problem: String },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To be durable before any other action of the same batch is carried out.
    Journal(Record),
    /// Greet the worker.
    Admit(SessionId),
    Refuse {
        session: SessionId,
        refusal: JoinRefusal,
    },
    /// Tell every member of a new generation.
    Form(Box<Formation>),
    Send {
        session: SessionId,
        generation: Generation,
        plan: Plan,
    },
    /// Close the worker's control stream.
    Disconnect {
        session: SessionId,
        reason: String,
    },
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
    /// Look for the newest checkpoint that verifies.
    FindBase {
        job: JobId,
        spec: Box<JobSpec>,
    },
    /// Steps after `step` will be computed again: forget their metrics.
    CutHistory {
        job: JobId,
        step: u64,
    },
    /// Accept checkpoint parts from this generation.
    OpenUploads {
        job: JobId,
        generation: Generation,
        members: u32,
    },
    /// Accept no more; drop what is incomplete.
    CloseUploads {
        generation: Generation,
    },
    /// The step is committed and, where due, evaluated: make its checkpoint final.
    Seal(Box<SealOrder>),
    /// The list of the job's checkpoints has changed.
    Retain {
        job: JobId,
        shelf: Shelf,
    },
    Publish {
        job: JobId,
        metric: Metric,
    },
    Log {
        job: Option<JobId>,
        level: Level,
        text: String,
    },
    /// The job is over and everything of it is on disk.
    Finish {
        job: JobId,
        outcome: Outcome,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Formation {
    pub job: JobId,
    pub spec: JobSpec,
    pub generation: Generation,
    pub base_step: u64,
    pub members: Vec<Member>,
}

/// One member, at its rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub session: SessionId,
    pub name: Name,
    pub incarnation: Incarnation,
    pub address: String,
    pub slices: Range<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Run,
    Stop,
    Abandon { reason: String },
    Release,
    Goodbye { reason: String },
}

#[derive(Clone, Debug, PartialEq)]
pub struct SealOrder {
    pub job: JobId,
    pub spec: JobSpec,
    pub generation: Generation,
    pub step: u64,
    pub digest: Digest,
    pub evaluation: Option<Evaluation>,
    pub device_kind: String,
}

/// The checkpoints of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Shelf {
    /// Those that stay, oldest first.
    pub entries: Vec<CheckpointEntry>,
    pub best: Option<u64>,
    /// Steps of those that are to be deleted.
    pub removed: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Metric {
    /// A committed step, with each member's phase times by rank.
    Step {
        step: u64,
        loss: f64,
        correct: u32,
        samples: u64,
        times: Vec<(Name, PhaseTimes)>,
    },
    Evaluation {
        step: u64,
        evaluation: Evaluation,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
        }
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Finished { model_sha256: String },
    Stopped,
    Failed { cause: Cause, reason: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A worker was lost or gave up.
    Worker,
    /// The dataset.
    Data,
    /// A checkpoint could not be read or written.
    Checkpoint,
    /// The coordinator itself ended while the job ran.
    Interrupted,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    #[error(
        "a worker named {name} is already here, at {holder}; join under another name, or end that one first"
    )]
    NameTaken { name: Name, holder: String },
    #[error("{limit} workers have joined, which is the limit")]
    Full { limit: usize },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Submitted { job: JobId, resumed_from_step: u64, already_finished: bool },
    SubmitRefused(SubmitRefusal),
    Stopping,
    StopRefused(StopRefusal),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitRefusal {
    #[error("the job name is too long to number the job `{id}`; shorten `name`")]
    Name { id: String },
    #[error(
        "{workers} workers are asked for, but the job has only {slices} slices; ask for at most {slices}, or raise train.slices"
    )]
    TooManyWorkers { workers: u32, slices: usize },
    #[error("{limit} jobs are waiting, which is the limit; stop one, or wait")]
    QueueFull { limit: usize },
    #[error("job {job} is the same and has not ended; follow it with `coordinator logs {job} -f`")]
    Busy { job: JobId },
    #[error(
        "job {job} has this name but differs in {differences}; give the job another name, undo the change, \
         or start over with --fresh"
    )]
    Differs { job: JobId, differences: String },
    #[error(
        "job {job} was trained on other data: the files in {folder} have changed; put the old ones back, give the job \
         another name, or start over with --fresh"
    )]
    OtherData { job: JobId, folder: String },
    #[error("{problem}; restore a checkpoint, or start over with --fresh")]
    NoBase { problem: String },
    #[error("job {job} was stopped before it started")]
    Stopped { job: JobId },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopRefusal {
    #[error("there is no job {job}; `coordinator jobs` lists them")]
    Unknown { job: JobId },
    #[error("job {job} has ended already")]
    Ended { job: JobId },
}

/// Fraction bits of `Tally::loss_fixed`.
const LOSS_FIXED_BITS: u32 = 20;
