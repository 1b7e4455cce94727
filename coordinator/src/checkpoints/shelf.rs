//! The list of a job's checkpoints: removes those that the core no longer keeps and rewrites `index.json`. The index is for
//! people and tools; a restart reads the folders themselves.

use std::io;
use std::path::Path;

use proto::identity::JobId;
use proto::manifest::folder_name;
use serde::{Deserialize, Serialize};

use super::{INDEX_FILE, TMP};
use crate::core::{CheckpointEntry, Shelf};

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

/// Removes the checkpoints of the steps `removed` and writes the index of what is left. Call it only after the newest entry
/// was verified.
pub fn retain(folder: &Path, job: &JobId, shelf: &Shelf) -> io::Result<()> {
    for &step in &shelf.removed {
        let place = folder.join(folder_name(step));
        if !place.exists() {
            continue;
        }
        // Under a temporary name first, so that a crash in between leaves no half-deleted checkpoint.
        let dying = folder.join(format!("{TMP}removed-{step:08}"));
        std::fs::rename(&place, &dying)?;
        std::fs::remove_dir_all(&dying)?;
    }
    let index = Index {
        job: job.to_string(),
        last: shelf.entries.last().map(|entry| folder_name(entry.step)),
        best: shelf.best.map(folder_name),
        entries: shelf.entries.clone(),
    };
    let text = serde_json::to_string_pretty(&index).expect("an index is plain data") + "\n";
    crate::files::write_atomically(&folder.join(INDEX_FILE), text.as_bytes())
}
