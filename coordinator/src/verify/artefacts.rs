//! What the run left behind: every checkpoint names a committed step, has its digest, and is whole; the metrics hold every step
//! once.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use proto::manifest::folder_name;
use serde::{Deserialize, Serialize};

use super::lineage::{Flaw, Lineage};
use crate::checkpoints::{self, Damage};

/// A checkpoint that was read whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    pub step: u64,
    pub model_sha256: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ArtefactFlaw {
    #[error("checkpoint: {0}")]
    Damaged(#[from] Damage),
    #[error("the checkpoint {} {flaw}", folder.display())]
    Uncommitted { folder: PathBuf, flaw: Flaw },
    #[error("the checkpoint {} belongs to step {step} of job {job}", folder.display())]
    Foreign { folder: PathBuf, job: String, step: u64 },
    #[error(
        "the checkpoint {} holds model {found}, but the journal sealed {sealed}",
        folder.display()
    )]
    OtherModel { folder: PathBuf, found: String, sealed: String },
    #[error("the checkpoint {} is on record, but not on disk", folder.display())]
    Missing { folder: PathBuf },
    #[error("reading {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("metrics.jsonl line {line} is no metric: {problem}")]
    NoMetric { line: u64, problem: String },
    #[error("metrics.jsonl line {line} is step {step}, which is there before")]
    Repeated { line: u64, step: u64 },
    #[error("metrics.jsonl line {line} names step {step}, but only {committed} are committed")]
    Ahead { line: u64, step: u64, committed: u64 },
}

/// What the metrics hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    pub newest: u64,
    /// Steps before the newest one, or before the end of a job that has finished, that are not there: lines may be lost with a
    /// machine or to a full disk, and nothing hangs on them.
    pub missing: u64,
}

/// What is there before the journal is read: what comes later can't be held against it.
#[derive(Debug)]
pub(super) struct Found {
    folder: PathBuf,
    checkpoints: Vec<u64>,
    /// Bytes of the metrics.
    metrics: u64,
}

impl Found {
    /// `folder` is the job's.
    pub(super) fn in_folder(folder: &Path) -> Result<Found, ArtefactFlaw> {
        let place = folder.join("checkpoints");
        let listed = checkpoints::list(&place);
        let listed = listed.map_err(|source| ArtefactFlaw::Io { path: place, source })?;
        let metrics = folder.join("metrics.jsonl").metadata().map_or(0, |data| data.len());
        Ok(Found { folder: folder.to_owned(), checkpoints: listed, metrics })
    }

    fn checkpoint(&self, step: u64) -> PathBuf {
        self.folder.join("checkpoints").join(folder_name(step))
    }

    /// Reads every file of every checkpoint.
    pub(super) fn checkpoints(
        &self,
        id: &str,
        lineage: &mut Lineage,
    ) -> Result<Vec<Kept>, ArtefactFlaw> {
        let mut kept = Vec::new();
        for &step in &self.checkpoints {
            let folder = self.checkpoint(step);
            let whole = match checkpoints::verify(&folder) {
                Ok(whole) => whole,
                // No longer kept since.
                Err(_) if !folder.exists() => continue,
                Err(damage) => return Err(damage.into()),
            };
            let entry = whole.entry();
            if entry.step != step || whole.manifest.job_id != id {
                let (job, step) = (whole.manifest.job_id, entry.step);
                return Err(ArtefactFlaw::Foreign { folder, job, step });
            }
            if let Err(flaw) = lineage.has_digest(step, &entry.digest) {
                return Err(ArtefactFlaw::Uncommitted { folder, flaw });
            }
            let found = entry.model_sha256;
            match lineage.kept.get(&step).map(|sealed| sealed.model_sha256.clone()) {
                Some(sealed) if sealed != found => {
                    return Err(ArtefactFlaw::OtherModel { folder, found, sealed });
                }
                _ => kept.push(Kept { step, model_sha256: found }),
            }
        }
        let missing = lineage.kept.keys().map(|&step| self.checkpoint(step));
        match missing.into_iter().find(|folder| !folder.exists()) {
            Some(folder) => Err(ArtefactFlaw::Missing { folder }),
            None => Ok(kept),
        }
    }

    /// What the metrics hold: committed steps alone, each once, in order.
    pub(super) fn metrics(&self, lineage: &Lineage) -> Result<Metrics, ArtefactFlaw> {
        let path = self.folder.join("metrics.jsonl");
        let failed = |source| ArtefactFlaw::Io { path: path.clone(), source };
        let (mut last, mut evaluated, mut there) = (0, 0, 0);
        if self.metrics > 0 {
            let file = File::open(&path).map_err(failed)?.take(self.metrics);
            for (text, line) in BufReader::new(file).split(b'\n').zip(1..) {
                let text = text.map_err(failed)?;
                let metric = match serde_json::from_slice::<Line>(&text) {
                    Ok(metric) => metric,
                    // Its end may be on its way to the disk.
                    Err(error) if error.is_eof() => break,
                    Err(error) => {
                        return Err(ArtefactFlaw::NoMetric { line, problem: error.to_string() });
                    }
                };
                let step = metric.step;
                let of_step = metric.evaluation.is_none();
                let newest = if of_step { &mut last } else { &mut evaluated };
                let committed = lineage.committed();
                if step > committed {
                    return Err(ArtefactFlaw::Ahead { line, step, committed });
                }
                if step <= *newest {
                    return Err(ArtefactFlaw::Repeated { line, step });
                }
                *newest = step;
                there += u64::from(of_step);
            }
        }
        let finished = matches!(lineage.end, Some(super::entry::End::Finished { .. }));
        let due = if finished { lineage.total_steps } else { last };
        Ok(Metrics { newest: last, missing: due.saturating_sub(there) })
    }
}

/// A line of the metrics: a step's, or that of an evaluation after it.
#[derive(Deserialize)]
struct Line {
    step: u64,
    evaluation: Option<serde::de::IgnoredAny>,
}
