//! What members say about the files of a checkpoint before they send them, and what of it is refused. Knows no file on disk.

use std::collections::BTreeSet;

use proto::identity::Name;
use proto::manifest::{MANIFEST_FILE, MODEL_FILE};
use proto::wire::{CHECKPOINT_BYTES_MAX, CHECKPOINT_FILES_MAX};

/// One file of a checkpoint, as the members describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    pub name: Name,
    pub len: u64,
    /// Hex.
    pub sha256: String,
}

/// The error says why such a checkpoint is not taken.
pub(super) fn check_files(files: &[FileSpec]) -> Result<(), String> {
    if files.len() > CHECKPOINT_FILES_MAX {
        return Err(format!("{} files, at most {CHECKPOINT_FILES_MAX}", files.len()));
    }
    let names: BTreeSet<&Name> = files.iter().map(|file| &file.name).collect();
    if names.len() != files.len() {
        return Err("two files have the same name".to_owned());
    }
    if names.iter().any(|name| name.as_str() == MANIFEST_FILE) {
        return Err(format!("{MANIFEST_FILE} is written by the coordinator"));
    }
    if !names.iter().any(|name| name.as_str() == MODEL_FILE) {
        return Err(format!("{MODEL_FILE} is missing"));
    }
    let total = files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.len));
    match total {
        Some(total) if total <= CHECKPOINT_BYTES_MAX => Ok(()),
        _ => Err(format!("more than {CHECKPOINT_BYTES_MAX} bytes")),
    }
}

/// Where two members contradict each other.
pub(super) fn difference(ours: &[FileSpec], theirs: &[FileSpec]) -> String {
    let shown = |file: &FileSpec| format!("{} {} bytes {}", file.name, file.len, file.sha256);
    let differing = ours.iter().zip(theirs).find(|(a, b)| a != b);
    match differing {
        Some((a, b)) => format!("{} against {}", shown(b), shown(a)),
        None => format!("{} files against {}", theirs.len(), ours.len()),
    }
}
