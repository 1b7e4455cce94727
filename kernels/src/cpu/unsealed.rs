//! Where there are no sealed files without a name: workers send each other everything.

use std::fs::File;
use std::io;

/// # Errors
/// Always `Unsupported`.
pub(super) fn create_file(_bytes: usize) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn is_sealed(_file: &File) -> io::Result<bool> {
    Ok(false)
}
