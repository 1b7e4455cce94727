//! Checkpoints on disk: `header` checks what members announce, `assembly` puts it together from the members' parts, `seal`
//! makes them final, `verify` proves that they are whole, `initial` copies the weights that a job starts from, `shelf` keeps
//! the list. Knows bytes and hashes; which step is committed, and which checkpoints to keep, is the core's decision.
//!
//! `jobs/<id>/checkpoints/` holds `step-<step>/` (final, renamed into place), `tmp-*` (incomplete, removed at start),
//! `damaged-*` (set aside, never read) and `index.json` (for people and tools). Beside it lies `init.safetensors`.

mod header;
mod assembly;
mod seal;
mod verify;
mod initial;
mod shelf;

use std::io;
use std::path::{Path, PathBuf};

use proto::identity::JobId;

use crate::disk;

pub use assembly::{Assembly, Part, UploadError, Uploads};
pub use header::FileSpec;
pub use initial::{InitialError, copy_of, keep_copy, read_facts, verify_copy};
pub use seal::seal;
pub use shelf::{Index, retain};
pub(crate) use verify::list;
pub use verify::{Damage, Whole, find_base, read_manifest, verify};

/// Folder of a job's checkpoints.
pub fn folder_of(jobs: &Path, job: &JobId) -> PathBuf {
    jobs.join(job.as_str()).join("checkpoints")
}

/// Removes what a crash left half done, in every job's folder. What is whole there is durable afterwards, even if the process
/// that made it was killed before it had synced the names.
pub fn sweep(jobs: &Path) -> io::Result<()> {
    disk::sync_folder(jobs)?;
    for job in std::fs::read_dir(jobs)? {
        let job = job?.path();
        let folder = job.join("checkpoints");
        if job.is_dir() {
            disk::sync_folder(&job)?;
        }
        if !folder.is_dir() {
            continue;
        }
        disk::sync_folder(&folder)?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(TMP) {
                disk::remove_tree(&entry.path())?;
            }
        }
    }
    Ok(())
}

const TMP: &str = "tmp-";
const DAMAGED: &str = "damaged-";
const INDEX_FILE: &str = "index.json";

#[cfg(test)]
mod crashes;
#[cfg(test)]
mod tests;
