//! Proves from the journal, the checkpoints and the metrics of a state directory what a run did: one lineage of committed
//! steps, each sample exactly once an epoch, each checkpoint the state of a committed step. Judges the code that wrote them,
//! and so reads their records by code of its own. Changes nothing, and works while a coordinator runs.
//!
//! In reading order: `frames` and `entry` (the journal), `lineage` (the steps), `samples` (what they used), `artefacts`
//! (checkpoints and metrics).

mod frames;
mod entry;
mod lineage;
mod samples;
mod artefacts;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use proto::identity::JobId;
use serde::Serialize;

pub use artefacts::{ArtefactFlaw, Kept, Metrics};
pub use entry::{End, Entry};
pub use frames::{Frame, FrameError, Frames};
pub use lineage::{Arrival, Departure, Flaw};
pub use samples::{Epochs, SampleFlaw};

use artefacts::Found;
use lineage::Lineage;

/// What was proved of a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Account {
    pub job: String,
    /// Committed, one after the other.
    pub steps: u64,
    pub total_steps: u64,
    /// Samples of an epoch.
    pub train_len: u64,
    pub epochs: Epochs,
    pub generations: u64,
    /// Workers that were lost or left, in order.
    pub departures: Vec<Departure>,
    /// Workers that came while the job ran, in order.
    pub arrivals: Vec<Arrival>,
    /// Steps of the checkpoints that the job went back to, in order.
    pub returns: Vec<u64>,
    /// Steps whose samples were used up without changing anything.
    pub skipped: u64,
    /// Training images that can't be decoded: wherever one would be used, another of its slice took its place.
    pub replaced: u64,
    pub checkpoints: Vec<Kept>,
    pub metrics: Metrics,
    /// Bytes at the journal's end of a record that was not written to its end.
    pub torn_bytes: u64,
    /// SHA-256 of the final weights, once the job has finished.
    pub model_sha256: Option<String>,
}

/// What does not hold, and where.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    #[error("{0}")]
    Frame(FrameError),
    #[error("record {record} of the journal (in the frame at byte {at}) {flaw}")]
    Record { record: u64, at: u64, flaw: Flaw },
    #[error("{0}")]
    Samples(#[from] SampleFlaw),
    #[error("{0}")]
    Artefact(#[from] ArtefactFlaw),
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{0}")]
    Journal(FrameError),
    #[error("there is no job {job} in {}; `coordinator jobs --state {}` lists them", state.display(), state.display())]
    NoSuchJob { job: JobId, state: PathBuf },
    #[error("job {job} is not what it should be: {violation}")]
    Violated { job: JobId, violation: Violation },
}

/// Reads everything about a job in a state directory. Blocks for as long as that takes.
pub fn verify(state: &Path, job: &JobId) -> Result<Account, VerifyError> {
    let mut attempts = ATTEMPTS;
    loop {
        let before = last_change(state);
        let result = read(state, job);
        attempts -= 1;
        // A coordinator that runs writes one file after the other: what was read at one time may not fit what was read at
        // another.
        let moved = last_change(state) != before;
        if result.is_ok() || !moved || attempts == 0 {
            return result;
        }
    }
}

fn last_change(state: &Path) -> Option<SystemTime> {
    state.join("journal").metadata().and_then(|data| data.modified()).ok()
}

fn read(state: &Path, job: &JobId) -> Result<Account, VerifyError> {
    let violated = |violation| VerifyError::Violated { job: job.clone(), violation };
    let artefact = |flaw| violated(Violation::Artefact(flaw));
    let found = Found::in_folder(&state.join("jobs").join(job.as_str())).map_err(artefact)?;
    let (lineage, torn_bytes) = match read_journal(&state.join("journal"), job) {
        Ok(read) => read,
        Err(Violation::Frame(error @ (FrameError::Io { .. } | FrameError::Foreign { .. }))) => {
            return Err(VerifyError::Journal(error));
        }
        Err(violation) => return Err(violated(violation)),
    };
    let Some(mut lineage) = lineage else {
        return Err(VerifyError::NoSuchJob { job: job.clone(), state: state.to_owned() });
    };
    let epochs = samples::walk(&lineage).map_err(|flaw| violated(flaw.into()))?;
    let checkpoints = found.checkpoints(job.as_str(), &mut lineage).map_err(artefact)?;
    let metrics = found.metrics(&lineage).map_err(artefact)?;
    let model_sha256 = match &lineage.end {
        Some(End::Finished { model_sha256 }) => Some(model_sha256.clone()),
        _ => None,
    };
    Ok(Account {
        job: job.to_string(),
        steps: lineage.committed(),
        total_steps: lineage.total_steps,
        train_len: lineage.train_len,
        epochs,
        generations: lineage.generations,
        skipped: lineage.skipped(),
        replaced: lineage.bad_images.len() as u64,
        departures: lineage.partings,
        arrivals: lineage.joins,
        returns: lineage.returns,
        checkpoints,
        metrics,
        torn_bytes,
        model_sha256,
    })
}

/// The job's lineage, if the journal knows it, and the bytes of a torn frame at its end. Generations are counted over all jobs.
fn read_journal(path: &Path, job: &JobId) -> Result<(Option<Lineage>, u64), Violation> {
    let mut frames = Frames::open(path).map_err(Violation::Frame)?;
    let (mut lineage, mut newest, mut record) = (None, 0, 0);
    while let Some(Frame { at, payload }) = frames.next_frame().map_err(Violation::Frame)? {
        let unreadable = |error: serde_json::Error| {
            let flaw = Flaw::Unreadable { what: "record", problem: error.to_string() };
            Violation::Record { record: record + 1, at, flaw }
        };
        let entries: Vec<Entry> = serde_json::from_slice(&payload).map_err(unreadable)?;
        for entry in entries {
            record += 1;
            let taken = take(entry, job, &mut lineage, &mut newest);
            taken.map_err(|flaw| Violation::Record { record, at, flaw })?;
        }
    }
    let torn_bytes = frames.torn_bytes().map_err(Violation::Frame)?;
    Ok((lineage, torn_bytes))
}

fn take(
    entry: Entry,
    id: &JobId,
    lineage: &mut Option<Lineage>,
    newest: &mut u64,
) -> Result<(), Flaw> {
    if let Entry::Booted { generation } | Entry::Formed { generation, .. } = entry {
        if generation <= *newest {
            return Err(Flaw::Reused { generation, newest: *newest });
        }
        *newest = generation;
    }
    if entry.job() != Some(id.as_str()) {
        return Ok(());
    }
    match (lineage, entry) {
        (Some(lineage), entry) => lineage.take(entry),
        (none, Entry::Submitted { job, toml, dataset }) => {
            *none = Some(Lineage::begin(&job, &toml, &dataset)?);
            Ok(())
        }
        (None, _) => Err(Flaw::NotSubmitted { job: id.to_string() }),
    }
}

/// Readings of a state directory that changes meanwhile.
const ATTEMPTS: u32 = 5;

#[cfg(test)]
mod tests;
