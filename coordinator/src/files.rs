//! Files that survive a crash: replaced whole or not at all, or appended to line by line. Knows no file by name.

use std::io;
use std::path::Path;

use crate::disk::{self, DiskFile};

/// Replaces the file at `path` by `content`: a reader, or a restart, sees the old or the new content.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, DiskFile::create, content)
}

/// The same, for a file that nobody else may read.
pub(crate) fn write_privately(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, DiskFile::create_private, content)
}

fn replace(
    path: &Path,
    create: fn(&Path) -> io::Result<DiskFile>,
    content: &[u8],
) -> io::Result<()> {
    let (new, is_first) = (path.with_extension("new"), !path.exists());
    let written = create(&new).and_then(|file| {
        file.write_all_at(content, 0)?;
        file.sync()
    });
    let renamed = written.and_then(|()| disk::rename(&new, path));
    if renamed.is_err() {
        // Best effort: it is made anew next time.
        disk::remove_file(&new).ok();
    }
    renamed?;
    disk::sync_folder_of(path).inspect_err(|_| {
        // What may not be durable is not there either: the next attempt makes it anew.
        if is_first {
            disk::remove_file(path).ok();
        }
    })
}

/// Creates the file at `path`, anew if there is one; the content is on disk when this returns, the name may not be.
pub(crate) fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let file = DiskFile::create(path)?;
    file.write_all_at(content, 0)?;
    file.sync()
}

/// A file of lines that is only ever appended to. Lines that don't fit on a full disk wait in memory, within a bound. A crash
/// of the machine may cost the last lines, since nothing waits for them to be on disk; what is left is whole lines from the
/// first on.
#[derive(Debug)]
pub struct LineFile {
    file: DiskFile,
    /// Length of the whole lines on disk.
    len: u64,
    waiting: Vec<u8>,
    /// Lines that found no room even in memory.
    dropped: u64,
    failing: bool,
}

impl LineFile {
    /// Opens or creates the file. What a crash left incomplete is cut off: a last line without its end, and everything from
    /// the first zero byte on, which stands where bytes have not come to the disk.
    pub fn open(path: &Path) -> io::Result<LineFile> {
        let file = match DiskFile::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => DiskFile::create(path)?,
            file => file?,
        };
        let content = std::fs::read(path)?;
        let written = content.split(|&byte| byte == 0).next().unwrap_or_default();
        let len = written.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        if len < content.len() {
            file.set_len(len as u64)?;
        }
        // Whatever was cut, now or by a process that was killed, must not come back behind the lines that are written now.
        file.sync()?;
        let (len, waiting) = (len as u64, Vec::new());
        Ok(LineFile { file, len, waiting, dropped: 0, failing: false })
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
        self.file.path()
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
