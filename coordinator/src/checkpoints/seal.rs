//! Makes an assembled checkpoint final: manifest, fsync, read back, rename. Either `step-<step>/` exists afterwards and is
//! whole, or nothing of it does.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use proto::manifest::{FORMAT, FileEntry, MANIFEST_FILE, Manifest, folder_name};

use super::assembly::Assembly;
use super::verify::{Damage, Whole, put_aside, verify};
use crate::core::{CheckpointEntry, SealOrder};
use crate::disk;
use crate::files::write_synced;

/// Why a checkpoint was given up.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("{what} {} (the checkpoint needs {needed} bytes): {source}", path.display())]
    Disk { what: &'static str, path: PathBuf, needed: u64, source: io::Error },
    #[error("reading it back: {0}")]
    Damaged(#[from] Damage),
}

/// Blocks for as long as the disk takes.
pub fn seal(assembly: &Assembly, order: &SealOrder) -> Result<CheckpointEntry, SealError> {
    let written = write(assembly, order).inspect_err(|_| {
        // What can't be removed now is removed at the next start.
        disk::remove_tree(&assembly.folder).ok();
    });
    put(&assembly.folder, order.step, written?)
}

/// Everything below the temporary name, durable and read back.
fn write(assembly: &Assembly, order: &SealOrder) -> Result<Whole, SealError> {
    let folder = &assembly.folder;
    let manifest = manifest(assembly, order);
    let needed = assembly.files.iter().map(|file| file.len).sum();
    let fail = |what, path: &Path| {
        let path = path.to_owned();
        move |source| SealError::Disk { what, path, needed, source }
    };
    let path = folder.join(MANIFEST_FILE);
    let text = serde_json::to_string_pretty(&manifest).expect("a manifest is plain data") + "\n";
    write_synced(&path, text.as_bytes()).map_err(fail("writing", &path))?;
    disk::sync_folder(folder).map_err(fail("syncing", folder))?;
    // The members' parts are only now seen as one file: their hash proves that the parts belong together.
    let whole = verify(folder)?;
    assert_eq!(whole.manifest.files, manifest.files, "a manifest reads back as it was written");
    Ok(whole)
}

/// Gives the folder its name.
fn put(folder: &Path, step: u64, whole: Whole) -> Result<CheckpointEntry, SealError> {
    let needed = whole.entry().bytes;
    let fail = |what, path: &Path| {
        let path = path.to_owned();
        move |source| SealError::Disk { what, path, needed, source }
    };
    let place = folder.with_file_name(folder_name(step));
    if place.exists() {
        // A run that goes on from this very step may send it again: the bits are the same.
        match verify(&place) {
            Ok(there) if there.manifest.files == whole.manifest.files => {
                disk::remove_tree(folder).map_err(fail("removing", folder))?;
                return Ok(there.entry());
            }
            Err(unread) if !unread.is_lasting() => return Err(unread.into()),
            _ => {}
        }
        put_aside(&place).map_err(fail("setting aside", &place))?;
    }
    disk::rename(folder, &place).map_err(fail("renaming to", &place))?;
    disk::sync_folder_of(&place).map_err(|source| {
        // It may or may not be there after a crash, so it does not count. Its files stay until the next start has synced its
        // old name: without them it would be there in part.
        disk::rename(&place, folder).ok();
        fail("syncing", &place)(source)
    })?;
    Ok(whole.entry())
}

fn manifest(assembly: &Assembly, order: &SealOrder) -> Manifest {
    let dataset = &order.spec.dataset;
    let timeline = proto::Timeline::new(&order.spec.job, dataset.train_len);
    let files = assembly.files.iter().map(|file| {
        (file.name.to_string(), FileEntry { len: file.len, sha256: file.sha256.clone() })
    });
    Manifest {
        format: FORMAT,
        job_id: order.job.to_string(),
        step: order.step,
        total_steps: timeline.total_steps(),
        epoch: timeline.epochs_done(order.step),
        state_digest: order.digest.to_string(),
        job: order.spec.toml.clone(),
        dataset_fingerprint: dataset.fingerprint.clone(),
        init_sha256: order.spec.weights.as_ref().map(|weights| weights.sha256.clone()),
        classes: dataset.classes.clone(),
        input: dataset.input.clone(),
        evaluation: order.evaluation,
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        device_kind: order.device_kind.clone(),
        files: files.collect::<BTreeMap<_, _>>(),
    }
}
