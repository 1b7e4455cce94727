//! Files without a name whose length nobody can change: what processes of one machine can map together.

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, SealFlags};

/// A file of this many zeros.
pub(super) fn create_file(bytes: usize) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("shared-values", flags)?);
    file.set_len(bytes as u64)?;
    rustix::fs::fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}

/// Whoever maps it relies on its length: an access behind the end of a file kills a process.
pub(super) fn is_sealed(file: &File) -> io::Result<bool> {
    Ok(rustix::fs::fcntl_get_seals(file)?.contains(SEALS))
}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);
