//! File operations that survive a crash: what is written whole, or not at all. Knows no file by name.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Replaces the file at `path` by `content`: a reader, or a restart, sees the old or the new content.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let written = write_synced(&new, content).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        // Best effort: it is rewritten next time.
        std::fs::remove_file(&new).ok();
    }
    written?;
    sync_folder_of(path)
}

/// Creates or truncates the file at `path`; the content is on disk when this returns.
pub fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes a rename or creation at `path` durable.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => sync_folder(parent),
        None => Ok(()),
    }
}

pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A file of lines that is only ever appended to. Lines that don't fit on a full disk wait in memory, within a bound.
#[derive(Debug)]
pub struct LineFile {
    path: PathBuf,
    file: File,
    /// Length of the whole lines on disk.
    len: u64,
    waiting: Vec<u8>,
    /// Lines that found no room even in memory.
    dropped: u64,
    failing: bool,
}

impl LineFile {
    /// Opens or creates the file. A last line that a crash left incomplete is cut off.
    pub fn open(path: &Path) -> io::Result<LineFile> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let content = std::fs::read(path)?;
        let len = content.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1) as u64;
        file.set_len(len)?;
        let (path, waiting) = (path.to_owned(), Vec::new());
        Ok(LineFile { path, file, len, waiting, dropped: 0, failing: false })
    }

    /// Adds a line, to be written by the next `flush`.
    pub fn push(&mut self, line: &str) {
        if self.waiting.len() + line.len() > WAITING_BYTES_MAX {
            self.dropped += 1;
            return;
        }
        self.waiting.extend_from_slice(line.as_bytes());
        self.waiting.push(b'\n');
    }

    /// Writes what waits. The first failure in a row is returned, for a warning; later ones are silent.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        match self.file.write_all_at(&self.waiting, self.len) {
            Ok(()) => {
                self.len += self.waiting.len() as u64;
                self.waiting.clear();
                self.failing = false;
                Ok(())
            }
            Err(error) => {
                // Half a line must not stay. If that fails too, the next write covers it.
                self.file.set_len(self.len).ok();
                if std::mem::replace(&mut self.failing, true) { Ok(()) } else { Err(error) }
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lines that are not on disk: dropped, or still waiting.
    pub fn missing(&self) -> u64 {
        self.dropped + self.waiting.iter().filter(|&&byte| byte == b'\n').count() as u64
    }

    /// Bytes of whole lines on disk.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// About ten thousand steps of metrics.
const WAITING_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests;
