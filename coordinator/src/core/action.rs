//! What the core asks for: plain values that the driver carries out. Knows no socket, no file and no clock.

use std::ops::Range;

use proto::exit::ExitCode;
use proto::identity::{Generation, Incarnation, JobId, Name};
use proto::manifest::Evaluation;
use proto::wire::v1::PhaseTimes;

use super::event::{Digest, SessionId, Ticket};
use super::job::{CheckpointEntry, JobSpec, Mark};
use super::record::Record;
use super::roster::Worker;

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To be durable before any other action of the same batch is carried out.
    Journal(Record),
    /// Greet the worker; it still belongs to this generation, if that is not 0.
    Admit {
        session: SessionId,
        generation: Generation,
    },
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
    /// Have the worker read the job's dataset and set up its memory, so that it can become a member quickly.
    Warm {
        session: SessionId,
        job: JobId,
        spec: Box<JobSpec>,
        /// How many there would be with it.
        workers: u32,
    },
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
    /// Look for the newest checkpoint that verifies; without any, copy the file of weights that the job starts from, if it
    /// is not in the job's folder yet.
    FindBase {
        job: JobId,
        spec: Box<JobSpec>,
    },
    /// Steps after `step` will be computed again: forget their metrics.
    CutHistory {
        job: JobId,
        step: u64,
    },
    /// A generation of an earlier life of the coordinator goes on, as far as is known after this step.
    Reopen {
        job: JobId,
        spec: Box<JobSpec>,
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
    pub base: Mark,
    pub members: Vec<Member>,
    /// Ranks of those who hold the base in memory, and hand it to the others. Empty: it comes from the checkpoint of that
    /// step, or, at step 0, from the job's seed.
    pub holders: Vec<u32>,
    /// Work that an earlier generation left undone after the base step.
    pub redo: Redo,
}

/// What follows a step, and was lost with a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redo {
    pub evaluation: bool,
    pub checkpoint: bool,
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

impl Member {
    pub(super) fn new((worker, slices): (&Worker, Range<u32>)) -> Member {
        Member {
            session: worker.session,
            name: worker.name.clone(),
            incarnation: worker.incarnation,
            address: worker.address.clone(),
            slices,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    Run,
    /// Give the generation up and answer with what you hold; contribute to nothing older than `attempt` any more.
    Seal {
        attempt: Generation,
    },
    Stop,
    /// Wait for a moment behind the current step: a `Seal` is about to come.
    Pause,
    /// Reports of steps up to this one need not be kept.
    Committed {
        step: u64,
    },
    Abandon {
        reason: String,
    },
    Release,
    Goodbye {
        reason: String,
    },
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
    /// Those that stay, oldest first. What is older than the newest and not among them is deleted.
    pub entries: Vec<CheckpointEntry>,
    pub best: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Metric {
    /// A committed step, with each member's phase times by rank.
    Step {
        step: u64,
        loss: f64,
        correct: u32,
        gradient_norm: f64,
        samples: u64,
        /// Nobody applied it: what was not finite, and whose.
        skipped: Option<String>,
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
    #[error(
        "job {job} started from other weights: {file} has changed; put the old one back or take it away, give the job \
         another name, or start over with --fresh"
    )]
    OtherWeights { job: JobId, file: String },
    #[error(
        "start from the weights {file}: there is no such file; correct model.init in the job file"
    )]
    WeightsMissing { file: String },
    #[error("{problem}; restore a checkpoint, or start over with --fresh")]
    NoBase { problem: String },
    #[error("{problem}")]
    NoWeights { problem: String },
    #[error("job {job} was stopped before it started")]
    Stopped { job: JobId },
}

impl SubmitRefusal {
    /// How the program of whoever asked ends.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            SubmitRefusal::Name { .. }
            | SubmitRefusal::TooManyWorkers { .. }
            | SubmitRefusal::Differs { .. }
            | SubmitRefusal::OtherWeights { .. }
            | SubmitRefusal::WeightsMissing { .. } => ExitCode::Usage,
            SubmitRefusal::OtherData { .. } => ExitCode::Data,
            SubmitRefusal::QueueFull { .. } | SubmitRefusal::Busy { .. } => ExitCode::Failure,
            SubmitRefusal::NoBase { .. } | SubmitRefusal::NoWeights { .. } => ExitCode::State,
            SubmitRefusal::Stopped { .. } => ExitCode::Interrupted,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopRefusal {
    #[error("there is no job {job}; `coordinator jobs` lists them")]
    Unknown { job: JobId },
    #[error("job {job} has ended already")]
    Ended { job: JobId },
}
