//! Every change that the coordinator makes on disk is one of these operations: what is not here can't be recorded, made to
//! fail, or crashed behind by the tests (`crash`). Knows no file by name.
//!
//! What a crash leaves of them: an operation on a file's bytes may be lost, whole or in part, until the file is synced; one
//! on a folder's entries (a creation, renaming, removal), until the folder is synced.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One change. Paths are those that the caller used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    CreateFolder {
        path: &'a Path,
    },
    Create {
        path: &'a Path,
    },
    Write {
        path: &'a Path,
        at: u64,
        bytes: &'a [u8],
    },
    SetLen {
        path: &'a Path,
        len: u64,
    },
    SyncFile {
        path: &'a Path,
    },
    SyncFolder {
        path: &'a Path,
    },
    Rename {
        from: &'a Path,
        to: &'a Path,
    },
    RemoveFile {
        path: &'a Path,
    },
    /// A folder with everything in it.
    RemoveTree {
        path: &'a Path,
    },
}

/// A file that is written to.
#[derive(Debug)]
pub(crate) struct DiskFile {
    path: PathBuf,
    file: File,
}

impl DiskFile {
    /// A new, empty file, in place of any there is. The one there is is not written again: after a failed fsync nobody knows
    /// which of its bytes are on disk, and a second fsync would not tell.
    pub(crate) fn create(path: &Path) -> io::Result<DiskFile> {
        DiskFile::create_with_mode(path, 0o666)
    }

    /// The same, for this user alone.
    pub(crate) fn create_private(path: &Path) -> io::Result<DiskFile> {
        DiskFile::create_with_mode(path, 0o600)
    }

    fn create_with_mode(path: &Path, mode: u32) -> io::Result<DiskFile> {
        match std::fs::symlink_metadata(path) {
            Ok(_) => remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        perform(Operation::Create { path }, || {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).mode(mode).open(path)?;
            Ok(DiskFile { path: path.to_owned(), file })
        })
    }

    /// A file that exists.
    pub(crate) fn open(path: &Path) -> io::Result<DiskFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(DiskFile { path: path.to_owned(), file })
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        perform(Operation::Write { path: &self.path, at, bytes }, || {
            self.file.write_all_at(bytes, at)
        })
    }

    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        perform(Operation::SetLen { path: &self.path, len }, || self.file.set_len(len))
    }

    /// Bytes and length are on disk when this returns. After an error they are in doubt for ever: give the file up.
    pub(crate) fn sync(&self) -> io::Result<()> {
        perform(Operation::SyncFile { path: &self.path }, || self.file.sync_data())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates the folder and those above it that are missing, and makes their entries durable.
pub(crate) fn create_folders(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    create_folders(parent_of(path))?;
    match create_folder(path) {
        // Another thread was faster, and sees to it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_folder_of(path).inspect_err(|_| {
            // What may not be durable is not there either: the next attempt makes it anew.
            remove_tree(path).ok();
        }),
    }
}

/// Creates one folder. Its entry is durable when the folder above it was synced.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    perform(Operation::CreateFolder { path }, || std::fs::create_dir(path))
}

/// Makes what was created, renamed and removed in the folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    perform(Operation::SyncFolder { path }, || File::open(path)?.sync_all())
}

/// Makes a renaming or creation at `path` durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    sync_folder(parent_of(path))
}

/// Replaces what is at `to`.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    perform(Operation::Rename { from, to }, || std::fs::rename(from, to))
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    perform(Operation::RemoveFile { path }, || std::fs::remove_file(path))
}

/// Removes a folder with everything in it.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    perform(Operation::RemoveTree { path }, || std::fs::remove_dir_all(path))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(not(test))]
fn perform<T>(_: Operation<'_>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    act()
}

#[cfg(test)]
use recorder::perform;

#[cfg(test)]
pub(crate) mod crash;
#[cfg(test)]
pub(crate) mod recorder;
#[cfg(test)]
pub(crate) mod sweep;
#[cfg(test)]
mod tests;
