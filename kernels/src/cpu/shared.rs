//! Memory of fp32 numbers that several processes of this machine can map: one creates and writes it, the others open it to
//! read. Its parts are the creator's `Buffer`s. Who may touch what, and when, is for the callers to agree on: nobody
//! may read a value, here or in another process, while it is written.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapMut, MmapOptions, MmapRaw};

use super::sealed::{create_file, is_sealed};
use crate::device::{Buffer, Span};

/// A mapping that has no name and is gone with the last process that uses it. Starts on a page.
#[derive(Debug)]
pub struct SharedMemory {
    map: MmapRaw,
    /// What other processes open; `None` for memory of this process alone.
    file: Option<File>,
    writable: bool,
    /// What `buffer` gave away.
    lent: Mutex<Vec<Span>>,
}

impl SharedMemory {
    /// `len` zeros for several processes. Takes real memory only where something is written.
    ///
    /// # Errors
    /// Where the system has no sealed files without a name, or has none to give.
    pub fn create(len: usize) -> io::Result<SharedMemory> {
        let file = create_file(bytes(len))?;
        let map = MmapOptions::new().map_raw(&file)?;
        Ok(SharedMemory { file: Some(file), ..SharedMemory::of(map, true) })
    }

    /// `len` zeros for this process, in pages as large as the system has them.
    ///
    /// # Errors
    /// When this process may have no more memory.
    pub fn private(len: usize) -> io::Result<SharedMemory> {
        // No mapping is empty.
        let pages = MmapMut::map_anon(bytes(len).max(1))?;
        // A kernel without large pages refuses the advice; its small ones will do.
        #[cfg(target_os = "linux")]
        drop(pages.advise(memmap2::Advice::HugePage));
        Ok(SharedMemory::of(MmapRaw::from(pages), true))
    }

    /// Maps the first `len` values of what another process created.
    pub fn open(file: File, len: usize) -> io::Result<SharedMemory> {
        if !is_sealed(&file)? || file.metadata()?.len() < bytes(len) as u64 {
            return Err(io::Error::other("it is no shared memory of the expected length"));
        }
        let map = MmapOptions::new().len(bytes(len)).map_raw_read_only(&file)?;
        Ok(SharedMemory { file: Some(file), ..SharedMemory::of(map, false) })
    }

    fn of(map: MmapRaw, writable: bool) -> SharedMemory {
        SharedMemory { map, file: None, writable, lent: Mutex::default() }
    }

    /// By which other processes find it, under `/proc/PID/fd`; `None` if they can't.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.file.as_ref().map(File::as_raw_fd)
    }

    /// A part of it as a buffer, which others read by `values` when it is agreed that its holder writes nothing.
    ///
    /// # Panics
    /// For memory of another process, and when the part or some of it is a buffer already.
    pub fn buffer(self: &Arc<SharedMemory>, span: Span) -> Buffer {
        assert!(self.writable, "memory of another process is only read");
        self.pointer(span.start, span.len);
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        let meets = |other: &Span| span.start < other.end() && other.start < span.end();
        assert!(!lent.iter().any(meets), "{span:?} meets another buffer of {lent:?}");
        lent.push(span);
        Buffer::shared(Arc::clone(self), span)
    }

    /// Every part may be a buffer again. Who has this as the only owner knows that none is left.
    pub fn take_back(&mut self) {
        self.lent.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Values that it has room for.
    pub fn capacity(&self) -> usize {
        self.map.len() / size_of::<f32>()
    }

    /// The `len` values from index `at` on, at a time when nobody writes them.
    pub fn values(&self, at: usize, len: usize) -> &[f32] {
        let from = self.pointer(at, len);
        // SAFETY: `pointer` checked that the range lies in the mapping, which seals keep from shrinking under it, and
        // which starts on a page. Any bits are a valid f32.
        unsafe { std::slice::from_raw_parts(from, len) }
    }

    /// Has `fill` write the `len` values from index `at` on, at a time when nobody reads them.
    ///
    /// # Panics
    /// For memory of another process.
    pub fn write(&self, at: usize, len: usize, fill: impl FnOnce(&mut [f32])) {
        fill(self.values_mut(at, len));
    }

    /// For whoever is the only one to write these: the holder of their buffer, or as long as `write` runs.
    #[expect(clippy::mut_from_ref, reason = "who writes is agreed among threads and processes")]
    pub(crate) fn values_mut(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(self.writable, "memory of another process is only read");
        let into = self.pointer(at, len);
        // SAFETY: as in `values`, and the mapping is writable.
        unsafe { std::slice::from_raw_parts_mut(into, len) }
    }

    fn pointer(&self, at: usize, len: usize) -> *mut f32 {
        let capacity = self.capacity();
        assert!(at <= capacity && len <= capacity - at, "{len} values at {at} of {capacity}");
        self.map.as_mut_ptr().cast::<f32>().wrapping_add(at)
    }
}

fn bytes(len: usize) -> usize {
    len * size_of::<f32>()
}
