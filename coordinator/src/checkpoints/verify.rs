//! Proves that a checkpoint folder is what its manifest says, and finds the one to go on from. Reads every byte; changes
//! nothing but the names of damaged folders.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use proto::identity::{JobId, Name, hex, unhex};
use proto::manifest::{FORMAT, MANIFEST_FILE, MODEL_FILE, Manifest, folder_name};
use sha2::{Digest, Sha256};

use super::DAMAGED;
use crate::core::{BaseSearch, CheckpointEntry, JobSpec, differing_keys};
use crate::disk;

/// A checkpoint whose files match its manifest.
#[derive(Debug)]
pub struct Whole {
    pub manifest: Manifest,
}

/// What is wrong with a checkpoint's bytes.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("{} {problem}", path.display())]
    File { path: PathBuf, problem: String },
    #[error("reading {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Damage {
    /// The bytes are wrong or gone, and not merely out of reach for now.
    pub fn is_lasting(&self) -> bool {
        use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
        match self {
            Damage::File { .. } => true,
            Damage::Io { source, .. } => {
                matches!(source.kind(), NotFound | UnexpectedEof | InvalidData)
            }
        }
    }
}

impl Whole {
    pub fn entry(&self) -> CheckpointEntry {
        entry(&self.manifest)
    }
}

/// Reads the folder whole and compares it with its manifest.
pub fn verify(folder: &Path) -> Result<Whole, Damage> {
    let manifest = read_manifest(folder)?;
    for (name, expected) in &manifest.files {
        let path = folder.join(name);
        let damage = |problem: String| Damage::File { path: path.clone(), problem };
        if name.parse::<Name>().is_err() {
            return Err(damage("has no valid file name".to_owned()));
        }
        let failed = |source| Damage::Io { path: path.clone(), source };
        let len = path.metadata().map_err(failed)?.len();
        if len != expected.len {
            let expected = expected.len;
            return Err(damage(format!("has {len} bytes, but its manifest says {expected}")));
        }
        let sha256 = hash_file(&path).map_err(failed)?;
        if sha256 != expected.sha256 {
            let expected = &expected.sha256;
            return Err(damage(format!("has SHA-256 {sha256}, but its manifest says {expected}")));
        }
    }
    Ok(Whole { manifest })
}

/// SHA-256 of a file, hex.
pub(super) fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

/// Finds the newest checkpoint of the job that verifies. Damaged ones on the way are renamed, each with a line that says so.
pub fn find_base(folder: &Path, job: &JobId, spec: &JobSpec) -> BaseSearch {
    let mut set_aside = Vec::new();
    let mut steps = match list(folder) {
        Ok(steps) => steps,
        Err(source) => {
            let problem = format!("reading {}: {source}", folder.display());
            return BaseSearch::Refused { problem };
        }
    };
    while let Some(step) = steps.pop() {
        let path = folder.join(folder_name(step));
        let whole = match verify(&path) {
            Ok(whole) => whole,
            Err(unread) if !unread.is_lasting() => {
                return BaseSearch::Refused { problem: unread.to_string() };
            }
            Err(damage) => match put_aside(&path) {
                Ok(aside) => {
                    let aside = aside.display();
                    set_aside.push(format!(
                        "checkpoint of step {step} is damaged and was set aside as {aside}: {damage}"
                    ));
                    continue;
                }
                Err(source) => {
                    let problem = format!("setting aside {}: {source} ({damage})", path.display());
                    return BaseSearch::Refused { problem };
                }
            },
        };
        if let Some(problem) = stranger(&whole.manifest, step, job, spec) {
            let problem = format!("the checkpoint {} {problem}; move it away", path.display());
            return BaseSearch::Refused { problem };
        }
        let mut entries = Vec::new();
        for &step in &steps {
            match read_manifest(&folder.join(folder_name(step))) {
                Ok(older) if stranger(&older, step, job, spec).is_none() => {
                    entries.push(entry(&older));
                }
                Err(unread) if !unread.is_lasting() => {
                    return BaseSearch::Refused { problem: unread.to_string() };
                }
                _ => {}
            }
        }
        entries.push(whole.entry());
        return BaseSearch::Found { entries, set_aside };
    }
    BaseSearch::Nothing { set_aside }
}

/// Steps of the sealed checkpoints, ascending.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let mut steps = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(steps),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("step-"));
        let step = step.and_then(|digits| digits.parse::<u64>().ok());
        steps.extend(step.filter(|&step| name.to_str() == Some(&folder_name(step))));
    }
    steps.sort_unstable();
    Ok(steps)
}

/// The manifest alone; the files that it lists are not looked at.
pub fn read_manifest(folder: &Path) -> Result<Manifest, Damage> {
    let path = folder.join(MANIFEST_FILE);
    let mut text = String::new();
    let read = File::open(&path)
        .and_then(|file| file.take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|source| Damage::Io { path: path.clone(), source })?;
    let damage = |problem: String| Damage::File { path: path.clone(), problem };
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|error| damage(format!("is no checkpoint manifest: {error}")))?;
    if unhex(&manifest.state_digest).is_none_or(|digest| digest.len() != 16) {
        return Err(damage("holds no state digest".to_owned()));
    }
    if !manifest.files.contains_key(MODEL_FILE) {
        return Err(damage(format!("does not list {MODEL_FILE}")));
    }
    Ok(manifest)
}

/// Why a whole checkpoint is not one of this job; `None` when it is.
fn stranger(manifest: &Manifest, step: u64, job: &JobId, spec: &JobSpec) -> Option<String> {
    if manifest.format != FORMAT {
        return Some(format!("has form {}, this release reads {FORMAT}", manifest.format));
    }
    if manifest.job != spec.toml {
        let differing = differing_keys(&manifest.job, &spec.toml).join(", ");
        return Some(format!("belongs to another training, {}: {differing}", manifest.job_id));
    }
    if manifest.dataset_fingerprint != spec.dataset.fingerprint {
        let (theirs, ours) = (&manifest.dataset_fingerprint, &spec.dataset.fingerprint);
        return Some(format!("was trained on dataset {theirs}, the job's is {ours}"));
    }
    let weights = spec.weights.as_ref().map(|weights| &weights.sha256);
    if manifest.init_sha256.as_ref() != weights {
        let shown = |sha256: Option<&String>| sha256.map_or("the seed", String::as_str).to_owned();
        let (theirs, ours) = (shown(manifest.init_sha256.as_ref()), shown(weights));
        return Some(format!("started from {theirs}, the job starts from {ours}"));
    }
    if manifest.job_id != job.as_str() {
        return Some(format!("belongs to job {}", manifest.job_id));
    }
    (manifest.step != step).then(|| format!("holds step {}", manifest.step))
}

fn entry(manifest: &Manifest) -> CheckpointEntry {
    CheckpointEntry {
        step: manifest.step,
        bytes: manifest.files.values().map(|file| file.len).sum(),
        digest: manifest.state_digest.clone(),
        model_sha256: manifest.files[MODEL_FILE].sha256.clone(),
        evaluation: manifest.evaluation,
    }
}

/// Renames a damaged folder to the first free name.
pub(super) fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for number in 1.. {
        let suffix = if number == 1 { String::new() } else { format!("-{number}") };
        let aside = path.with_file_name(format!("{DAMAGED}{name}{suffix}"));
        if !aside.try_exists()? {
            disk::rename(path, &aside)?;
            disk::sync_folder_of(&aside)?;
            return Ok(aside);
        }
    }
    unreachable!("some number is free")
}

/// Reads at a time; memory use does not grow with the model.
pub(super) const BUFFER_BYTES: usize = 1 << 20;
/// A manifest holds a job file, class names and a few hashes.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
