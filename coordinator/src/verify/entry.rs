//! The journal's records as this module reads them: what the proof needs of each, and no more.

use serde::Deserialize;

use crate::core::Parting;

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    Booted {
        generation: u64,
    },
    Submitted {
        job: String,
        toml: String,
        dataset: Dataset,
    },
    Resumed {
        job: String,
        checkpoints: Vec<Sealed>,
    },
    Formed {
        job: String,
        generation: u64,
        base_step: u64,
        base_digest: Option<String>,
        members: Vec<Member>,
    },
    Committed {
        job: String,
        generation: u64,
        step: u64,
        digest: String,
        chain: String,
        /// Its samples were used up, but changed nothing; why.
        #[serde(default)]
        skipped: Option<String>,
    },
    Parted {
        job: String,
        generation: u64,
        worker: String,
        incarnation: String,
        parting: Parting,
        line: String,
    },
    Evaluated {
        job: String,
    },
    Sealed {
        job: String,
        entry: Sealed,
        removed: Vec<u64>,
    },
    Quarantined {
        job: String,
        train: Vec<u64>,
    },
    Ended {
        job: String,
        end: End,
    },
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Dataset {
    pub fingerprint: String,
    pub train_len: u64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Member {
    pub worker: String,
    pub incarnation: String,
    pub first_slice: u32,
    pub slice_count: u32,
}

/// A checkpoint as the journal knows it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Sealed {
    pub step: u64,
    pub digest: String,
    pub model_sha256: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Finished { model_sha256: String },
    Stopped,
    Failed { reason: String },
}

impl Entry {
    /// The job that it speaks of; a boot speaks of none.
    pub fn job(&self) -> Option<&str> {
        match self {
            Entry::Booted { .. } => None,
            Entry::Submitted { job, .. }
            | Entry::Resumed { job, .. }
            | Entry::Formed { job, .. }
            | Entry::Committed { job, .. }
            | Entry::Parted { job, .. }
            | Entry::Evaluated { job }
            | Entry::Sealed { job, .. }
            | Entry::Quarantined { job, .. }
            | Entry::Ended { job, .. } => Some(job),
        }
    }
}
