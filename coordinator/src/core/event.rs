//! What the core is told: plain values, checked where they entered the process. Knows no socket, no file and no clock.

use std::fmt;

use proto::identity::{Generation, Incarnation, JobId, Name, hex};
use proto::manifest::Evaluation;
use proto::wire::v1::{Phase, PhaseTimes, Split, TroubleKind};

use super::job::{CheckpointEntry, Submission};

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
    /// A worker process that was started for the job at hand ended. (That of a member shows in its stream, too.)
    /// Or it took too long to join.
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
        generation: Generation,
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
    /// It is still a member of this one, from an earlier stream; 0 when it is none.
    pub generation: Generation,
    pub address: String,
    pub device_kind: String,
    pub threads: u32,
    pub software_version: String,
}

/// A worker's report, checked.
#[derive(Clone, Debug)]
pub enum Report {
    Heartbeat {
        step: u64,
        phase: Phase,
    },
    Ready {
        step: u64,
        digest: Digest,
    },
    StepDone(StepDone),
    Evaluated {
        step: u64,
        tally: Tally,
    },
    Quarantined(Vec<BadImage>),
    Trouble(Trouble),
    Finished {
        step: u64,
        model_sha256: String,
    },
    Leaving {
        reason: String,
    },
    /// The worker gave its generation up, under this number.
    Sealed {
        attempt: Generation,
        held: Option<Held>,
    },
    /// It has what it needs to become a member quickly.
    Warm {
        job: JobId,
    },
}

/// A training state in a worker's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// In which it was last taken over or changed.
    pub generation: Generation,
    pub step: u64,
    pub digest: Digest,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StepDone {
    pub step: u64,
    pub digest: Digest,
    pub loss: f64,
    pub correct: u32,
    /// Before clipping.
    pub gradient_norm: f64,
    /// No member applied it.
    pub skipped: Option<NotFinite>,
    /// All members wait behind this step.
    pub paused: bool,
    pub times: PhaseTimes,
}

/// Numbers that no update may take in, in words: "the gradient of conv1.weight".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFinite {
    /// The first one in the sum over all members.
    pub sum: String,
    /// The first one in what the reporting member itself contributed.
    pub own: Option<String>,
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

/// An image that a worker can't decode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadImage {
    pub split: Split,
    pub index: u64,
    pub path: String,
    /// The rest of a sentence that begins with the image.
    pub cause: String,
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
    /// No usable checkpoint; the file of weights that the job starts from, if any, lies ready.
    Nothing { set_aside: Vec<String> },
    /// No usable checkpoint, and the file of weights can't be had.
    NoWeights { problem: String, set_aside: Vec<String> },
    /// Something is in the way that a person must look at.
    Refused { problem: String },
}

/// Fraction bits of `Tally::loss_fixed`.
const LOSS_FIXED_BITS: u32 = 20;
