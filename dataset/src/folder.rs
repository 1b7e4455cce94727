//! Reads whole files of one dataset folder, within limits, and fingerprints what was read.
//! Knows no format: the caller says which names a file may have and where one gets it.

use crate::error::DatasetError;
use crate::index::Fingerprint;
use sha2::Digest;
use sha2::Sha256;
use std::fs;
use std::fs::File;
use std::io::ErrorKind;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

/// One dataset folder; each file read through it becomes part of the fingerprint.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    hasher: Sha256,
}

/// The names under which a file may lie. The first one is canonical: the fingerprint uses it, so
/// the same content under another accepted spelling is the same dataset.
pub(crate) type Spellings<'a> = &'a [&'a str];

/// A file that was read completely.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

impl Folder {
    pub(crate) fn open(path: &Path) -> Result<Folder, DatasetError> {
        let problem = match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => None,
            Ok(_) => Some("is not a folder".to_owned()),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Some("does not exist".to_owned()),
            Err(cause) => Some(format!("cannot be opened: {cause}")),
        };
        match problem {
            None => Ok(Folder { path: path.to_owned(), hasher: Sha256::new() }),
            Some(problem) => Err(DatasetError::Folder { folder: path.to_owned(), problem }),
        }
    }

    /// Reads the file; if no spelling exists, the error carries `origin`: where one gets it.
    pub(crate) fn read(
        &mut self,
        spellings: Spellings<'_>,
        origin: &str,
    ) -> Result<Loaded, DatasetError> {
        match self.read_optional(spellings)? {
            Some(loaded) => Ok(loaded),
            None => Err(DatasetError::MissingFile {
                folder: self.path.clone(),
                accepted: spellings.join(" or "),
                advice: self.missing_advice(spellings, origin),
            }),
        }
    }

    /// Reads the file under the first spelling that exists.
    pub(crate) fn read_optional(
        &mut self,
        spellings: Spellings<'_>,
    ) -> Result<Option<Loaded>, DatasetError> {
        for spelling in spellings {
            let path = self.path.join(spelling);
            match fs::metadata(&path) {
                Ok(metadata) if !metadata.is_file() => return Err(DatasetError::NotAFile { path }),
                Ok(metadata) => {
                    let bytes = read_whole(&path, metadata.len())?;
                    self.absorb(spellings[0].as_bytes(), &bytes);
                    return Ok(Some(Loaded { path, bytes }));
                }
                Err(cause) if cause.kind() == ErrorKind::NotFound => {}
                Err(cause) => return Err(DatasetError::Unreadable { path, cause }),
            }
        }
        Ok(None)
    }

    pub(crate) fn fingerprint(self) -> Fingerprint {
        Fingerprint::from_digest(self.hasher.finalize().into())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file that was read part of the fingerprint.
    pub(crate) fn absorb(&mut self, name: &[u8], bytes: &[u8]) {
        self.absorb_length(name, bytes.len() as u64);
        self.hasher.update(bytes);
    }

    /// Makes a file part of the fingerprint that was not read. Lengths go first, so no two different
    /// lists of files feed the same bytes to the hash.
    pub(crate) fn absorb_length(&mut self, name: &[u8], length: u64) {
        self.hasher.update((name.len() as u64).to_le_bytes());
        self.hasher.update(name);
        self.hasher.update(length.to_le_bytes());
    }

    /// Prefers what lies in the folder (a packed file, the Python version) to where to download.
    fn missing_advice(&self, spellings: Spellings<'_>, origin: &str) -> String {
        for spelling in spellings {
            let packed = format!("{spelling}.gz");
            if self.path.join(&packed).exists() {
                return format!("it is there as {packed}: unpack it with gunzip");
            }
            let stem = spelling.trim_end_matches(".bin");
            if stem != *spelling && self.path.join(stem).exists() {
                return format!("{stem} belongs to the Python version; {origin}");
            }
        }
        origin.to_owned()
    }
}

/// Allocates the length that the file system reports, never a length that a header claims.
fn read_whole(path: &Path, length: u64) -> Result<Vec<u8>, DatasetError> {
    let unreadable = |cause| DatasetError::Unreadable { path: path.to_owned(), cause };
    if length > FILE_BYTES_MAX {
        let (limit, found) = (FILE_BYTES_MAX, length);
        return Err(DatasetError::FileTooLarge { path: path.to_owned(), limit, found });
    }
    let capacity =
        usize::try_from(length).map_err(|_| unreadable(ErrorKind::OutOfMemory.into()))?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(capacity).map_err(|_| unreadable(ErrorKind::OutOfMemory.into()))?;
    let file = File::open(path).map_err(unreadable)?;
    file.take(length).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() == capacity {
        Ok(bytes)
    } else {
        // The file shrank since its length was taken.
        Err(unreadable(ErrorKind::UnexpectedEof.into()))
    }
}

/// A dataset lives in memory, so a file beyond this is a mistake and not a dataset.
const FILE_BYTES_MAX: u64 = 16 << 30;
