//! The list of a job's checkpoints: removes those that the core no longer keeps and rewrites `index.json`. The index is for
//! people and tools; a restart reads the folders themselves.

use std::io;
use std::path::Path;

use proto::identity::JobId;
use proto::manifest::{MANIFEST_FILE, Manifest, folder_name};
use serde::{Deserialize, Serialize};

use super::verify::list;
use super::{INDEX_FILE, TMP};
use crate::core::{CheckpointEntry, Shelf};
use crate::disk;

/// `index.json`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Index {
    pub job: String,
    /// Folder of the newest checkpoint.
    pub last: Option<String>,
    /// Folder of the checkpoint with the highest accuracy.
    pub best: Option<String>,
    /// Oldest first.
    pub entries: Vec<CheckpointEntry>,
}

/// Removes the checkpoints that are older than the newest entry and not on the list, and writes the index of what is left.
/// Call it only after the newest entry was verified.
pub fn retain(folder: &Path, job: &JobId, shelf: &Shelf) -> io::Result<()> {
    let newest = shelf.entries.last().map_or(0, |entry| entry.step);
    let kept = |step: u64| shelf.entries.iter().any(|entry| entry.step == step);
    let mut removed = Ok(());
    // Not only those of this time: what could not be removed before is tried again.
    let old = list(folder)?.into_iter().filter(|&step| step < newest && !kept(step));
    for step in old.filter(|&step| is_of(folder, job, step)) {
        // One failure does not save the others; the first one is reported.
        let gone = remove(folder, step);
        removed = removed.and(gone);
    }
    let index = Index {
        job: job.to_string(),
        last: shelf.entries.last().map(|entry| folder_name(entry.step)),
        best: shelf.best.map(folder_name),
        entries: shelf.entries.clone(),
    };
    let text = serde_json::to_string_pretty(&index).expect("an index is plain data") + "\n";
    crate::files::write_atomically(&folder.join(INDEX_FILE), text.as_bytes()).and(removed)
}

/// A folder that somebody else put here is not ours to remove.
fn is_of(folder: &Path, job: &JobId, step: u64) -> bool {
    let path = folder.join(folder_name(step)).join(MANIFEST_FILE);
    let manifest = std::fs::read(path).ok();
    let manifest = manifest.and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
    manifest.is_some_and(|manifest| manifest.job_id == job.as_str())
}

fn remove(folder: &Path, step: u64) -> io::Result<()> {
    // Under a temporary name first, so that a crash in between leaves no half-deleted checkpoint.
    let dying = folder.join(format!("{TMP}removed-{step:08}"));
    if dying.exists() {
        disk::remove_tree(&dying)?;
    }
    let place = folder.join(folder_name(step));
    disk::rename(&place, &dying)?;
    // The files must not go before the name does: if it may come back, they stay with it.
    disk::sync_folder(folder).inspect_err(|_| {
        disk::rename(&dying, &place).ok();
    })?;
    disk::remove_tree(&dying)
}
