//! The file of weights that a job starts from: looked at when the job is submitted, then copied into the job's folder, so
//! that the run never needs the original again. Knows the header; values are the workers' matter.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use proto::identity::{JobId, hex};
use proto::job::Model;
use proto::manifest::INIT_FILE;
use proto::weights::{self, Fit, WeightsError, WeightsHeader};
use sha2::{Digest, Sha256};

use super::verify::{BUFFER_BYTES, Damage, hash_file};
use crate::core::{DatasetFacts, WeightsFacts};
use crate::disk::{self, DiskFile};

/// Why a job can't start from a file.
#[derive(Debug, thiserror::Error)]
pub enum InitialError {
    #[error("start from the weights {}: {source}", path.display())]
    Weights { path: PathBuf, source: WeightsError },
    #[error("copying the weights {} to {}: {source}", from.display(), to.display())]
    Copy { from: PathBuf, to: PathBuf, source: io::Error },
    #[error(
        "copying the weights {}: the file has SHA-256 {found}, when the job was submitted it had {expected}; put that one \
         back, or start over with --fresh",
        from.display()
    )]
    Changed { from: PathBuf, expected: String, found: String },
}

/// Checks that a model of the dataset's channels and classes can start from the file; `None` when there is no such file.
pub fn read_facts(
    path: &Path,
    model: &Model,
    dataset: &DatasetFacts,
) -> Result<Option<WeightsFacts>, InitialError> {
    let fail = |source: WeightsError| InitialError::Weights { path: path.to_owned(), source };
    // Looked at before it is opened: opening a FIFO waits for somebody who writes to it.
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.map_err(|error| fail(error.into()))?,
    };
    if !metadata.is_file() {
        return Err(fail(WeightsError::Damaged("it is no file".to_owned())));
    }
    let mut file = File::open(path).map_err(|error| fail(error.into()))?;
    let header = WeightsHeader::read(&mut file, metadata.len()).map_err(fail)?;
    let classes = dataset.classes.len();
    let wanted = weights::tensors(model, dataset.input.channels, classes);
    let other_classes = match header.fit(&wanted).map_err(fail)? {
        Fit::Whole => None,
        Fit::OtherClasses { classes } => Some(classes),
    };
    let sha256 = hash_file(path).map_err(|error| fail(error.into()))?;
    Ok(Some(WeightsFacts { sha256, len: metadata.len(), other_classes }))
}

/// Where a job's copy lies.
pub fn copy_of(jobs: &Path, job: &JobId) -> PathBuf {
    jobs.join(job.as_str()).join(INIT_FILE)
}

/// Sees to it that the job's folder has its copy. An earlier one that is whole is left alone.
pub fn keep_copy(
    jobs: &Path,
    job: &JobId,
    source: &Path,
    facts: &WeightsFacts,
) -> Result<(), InitialError> {
    let place = copy_of(jobs, job);
    if verify_copy(&place, facts).is_ok() {
        return Ok(());
    }
    let new = place.with_extension("new");
    let fail =
        |error| InitialError::Copy { from: source.to_owned(), to: place.clone(), source: error };
    let copied = copy(source, &new, facts.len);
    let done = match copied {
        Ok(found) if found == facts.sha256 => put(&new, &place).map_err(fail),
        Ok(found) => {
            let (from, expected) = (source.to_owned(), facts.sha256.clone());
            Err(InitialError::Changed { from, expected, found })
        }
        Err(error) => Err(fail(error)),
    };
    if done.is_err() {
        // What can't be removed now is overwritten by the next attempt.
        disk::remove_file(&new).ok();
    }
    done
}

fn put(new: &Path, place: &Path) -> io::Result<()> {
    disk::rename(new, place)?;
    disk::sync_folder_of(place).inspect_err(|_| {
        // What may not be durable is not there either: the next attempt makes it anew.
        disk::remove_file(place).ok();
    })
}

/// Whether the copy at `path` is still the file that was submitted.
pub fn verify_copy(path: &Path, facts: &WeightsFacts) -> Result<(), Damage> {
    let failed = |source| Damage::Io { path: path.to_owned(), source };
    let damage = |problem| Damage::File { path: path.to_owned(), problem };
    let found = hash_file(path).map_err(failed)?;
    if found == facts.sha256 {
        return Ok(());
    }
    let expected = &facts.sha256;
    Err(damage(format!("has SHA-256 {found}, but the job was submitted with {expected}")))
}

/// Copies at most `len` bytes and one more; returns the SHA-256 of what is on disk then, hex.
fn copy(source: &Path, to: &Path, len: u64) -> io::Result<String> {
    if let Some(folder) = to.parent() {
        disk::create_folders(folder)?;
    }
    let (mut from, into) = (File::open(source)?.take(len + 1), DiskFile::create(to)?);
    let (mut hasher, mut written) = (Sha256::new(), 0);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        into.write_all_at(&buffer[..read], written)?;
        written += read as u64;
    }
    into.sync()?;
    Ok(hex(&hasher.finalize()))
}
