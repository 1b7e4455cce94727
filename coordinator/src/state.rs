//! The state directory: everything the coordinator keeps on disk, and the lock that keeps a second coordinator out.
//!
//! `lock`, `token` (0600), `address`, `journal`, `worker-<n>.log`, and for each job `jobs/<id>/` with `job.toml`,
//! `metrics.jsonl`, `log.jsonl`, `checkpoints/` and, where it starts from a file of weights, `init.safetensors`. Knows
//! where things lie, not what they hold.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proto::identity::JobId;
use proto::wire::Token;

use crate::disk;
use crate::files::{write_atomically, write_privately};

/// The directory, locked while this value lives.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{what} {}: {source}; give a writable folder with --state", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the state directory {} is a file; give a folder with --state", path.display())]
    NotAFolder { path: PathBuf },
    #[error(
        "the state directory {} is in use by another coordinator; stop that one, or give another folder with --state",
        path.display()
    )]
    Locked { path: PathBuf },
    #[error("reading the token file {}: {source}; copy the coordinator's token there", path.display())]
    TokenFile { path: PathBuf, source: io::Error },
    #[error(
        "the token file {} holds no token (32 hexadecimal digits); copy the coordinator's there, or, in its own state \
         directory, delete it, and a new one is made",
        path.display()
    )]
    Token { path: PathBuf },
    #[error("the token file {} can be read by others; run: chmod 600 {}", path.display(), path.display())]
    TokenExposed { path: PathBuf },
}

impl StateDir {
    /// Opens or creates the directory and takes its lock.
    pub fn open(root: &Path) -> Result<StateDir, StateError> {
        if root.exists() && !root.is_dir() {
            return Err(StateError::NotAFolder { path: root.to_owned() });
        }
        disk::create_folders(&root.join("jobs")).map_err(io_error("creating", root))?;
        let root = root.canonicalize().map_err(io_error("opening", root))?;
        let path = root.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let lock = options.open(&path).map_err(io_error("opening", &path))?;
        match lock.try_lock() {
            Ok(()) => {
                // A process before this one may have been killed between making a folder and syncing its name.
                let synced = disk::sync_folder(&root).and_then(|()| disk::sync_folder_of(&root));
                synced.map_err(io_error("syncing", &root))?;
                Ok(StateDir { root, _lock: lock })
            }
            Err(TryLockError::WouldBlock) => Err(StateError::Locked { path: root }),
            Err(TryLockError::Error(source)) => {
                Err(StateError::Io { what: "locking", path, source })
            }
        }
    }

    /// The join token: made at the first start, kept from then on.
    pub fn token(&self) -> Result<Token, StateError> {
        let path = token_path(&self.root);
        if std::fs::symlink_metadata(&path).is_ok() {
            return read_token(&path);
        }
        // Whole or not at all: half a token would be refused at every later start. The directory's lock keeps others out.
        let token = Token::from_random(random());
        let line = format!("{}\n", token.reveal());
        write_privately(&path, line.as_bytes()).map_err(io_error("writing", &path))?;
        Ok(token)
    }

    /// Lets commands and workers on this machine find the coordinator.
    pub fn publish_address(&self, address: SocketAddr) -> Result<(), StateError> {
        let path = address_path(&self.root);
        let line = format!("{address}\n");
        write_atomically(&path, line.as_bytes()).map_err(io_error("writing", &path))
    }

    /// Nobody listens any more.
    pub fn withdraw_address(&self) {
        // Left behind, it points to a port where nobody answers, which commands explain.
        disk::remove_file(&address_path(&self.root)).ok();
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn journal_path(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub fn token_path(&self) -> PathBuf {
        token_path(&self.root)
    }

    /// `number` counts from 1.
    pub fn worker_log_path(&self, number: u32) -> PathBuf {
        self.root.join(format!("worker-{number}.log"))
    }

    pub fn jobs_folder(&self) -> PathBuf {
        self.root.join("jobs")
    }

    pub fn job_folder(&self, job: &JobId) -> PathBuf {
        self.jobs_folder().join(job.as_str())
    }
}

/// Where the token of the state directory `root` lies.
pub fn token_path(root: &Path) -> PathBuf {
    root.join("token")
}

/// Where the address of the coordinator of the state directory `root` is written.
pub fn address_path(root: &Path) -> PathBuf {
    root.join("address")
}

/// Reads a token file that nobody else may read.
pub fn read_token(path: &Path) -> Result<Token, StateError> {
    let unreadable = |source| StateError::TokenFile { path: path.to_owned(), source };
    let metadata = path.metadata().map_err(unreadable)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(StateError::TokenExposed { path: path.to_owned() });
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    text.parse().map_err(|_| StateError::Token { path: path.to_owned() })
}

/// Bytes from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { what, path, source }
}

#[cfg(test)]
mod tests;
