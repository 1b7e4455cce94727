//! Memory of fp32 numbers that several processes of this machine have mapped: one creates and writes it, the others open
//! it to read. Who may touch what, and when, is agreed elsewhere; a value that is read while it is written is lost, and
//! nothing worse happens.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::SealFlags;

/// A mapped file that has no name and is gone with the last process that uses it.
#[derive(Debug)]
pub struct SharedMemory {
    map: MmapRaw,
    file: File,
    writable: bool,
}

impl SharedMemory {
    /// `len` zeros. Takes real memory only where something is written.
    pub fn create(len: usize) -> io::Result<SharedMemory> {
        let file = create_file()?;
        file.set_len((len * size_of::<f32>()) as u64)?;
        // Whoever maps it relies on its length: an access behind the end of a file kills a process.
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
        Ok(SharedMemory { map: MmapOptions::new().map_raw(&file)?, file, writable: true })
    }

    /// Maps what another process created with this length.
    pub fn open(file: File, len: usize) -> io::Result<SharedMemory> {
        let sealed = rustix::fs::fcntl_get_seals(&file)?.contains(SEALS);
        if !sealed || file.metadata()?.len() != (len * size_of::<f32>()) as u64 {
            return Err(io::Error::other("it is no shared memory of the expected length"));
        }
        Ok(SharedMemory {
            map: MmapOptions::new().map_raw_read_only(&file)?,
            file,
            writable: false,
        })
    }

    /// By which other processes find it, under `/proc/PID/fd`.
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Copies the values from index `at` on.
    pub fn read(&self, at: usize, into: &mut [f32]) {
        let from = self.pointer(at, into.len());
        // SAFETY: `pointer` checked that the range lies in the mapping, which the seals keep from shrinking; `into` is
        // memory of this process and not part of it. Any bits are a valid f32.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    /// # Panics
    /// For memory of another process.
    pub fn write(&self, at: usize, from: &[f32]) {
        assert!(self.writable, "memory of another process is only read");
        let into = self.pointer(at, from.len());
        // SAFETY: as in `read`, and the mapping is writable.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) }
    }

    fn pointer(&self, at: usize, len: usize) -> *mut f32 {
        let capacity = self.map.len() / size_of::<f32>();
        assert!(at <= capacity && len <= capacity - at, "{len} values at {at} of {capacity}");
        self.map.as_mut_ptr().cast::<f32>().wrapping_add(at)
    }
}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

fn create_file() -> io::Result<File> {
    use rustix::fs::MemfdFlags;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    Ok(rustix::fs::memfd_create("shared-values", flags)?.into())
}
