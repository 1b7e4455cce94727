//! Watches every operation below a folder, of whatever thread: keeps a list of them, and makes chosen ones fail.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Operation;
use super::crash::{Recording, Step, Tree};

/// Watches until it is dropped.
#[derive(Debug)]
pub(crate) struct Recorder {
    watch: Arc<Watch>,
    base: Tree,
}

/// Operations that fail: the first is the `at`-th that is tried, counted from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) kind: FaultKind,
    /// Only operations on files of this name count; all, if it is empty.
    pub(crate) file: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// EIO, once.
    Io,
    /// ENOSPC, for everything that needs room, from then on.
    Full,
    /// ENOSPC for writes that end behind this byte.
    FullBehind(u64),
}

#[derive(Debug)]
struct Watch {
    root: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    steps: Vec<Step>,
    tried: usize,
    fault: Option<Fault>,
    hit: bool,
}

impl Recorder {
    /// What lies in the folder now counts as durable.
    pub(crate) fn watch(root: &Path) -> Recorder {
        let root = root.canonicalize().unwrap();
        let base = Tree::read(&root);
        let watch = Arc::new(Watch { root, seen: Mutex::default() });
        lock(&WATCHED).push(watch.clone());
        Recorder { watch, base }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.watch.root
    }

    /// Notes that something was promised to somebody.
    pub(crate) fn promise(&self, what: u64) {
        lock(&self.watch.seen).steps.push(Step::Promise(what));
    }

    pub(crate) fn fail(&self, fault: Fault) {
        let mut seen = lock(&self.watch.seen);
        (seen.fault, seen.tried) = (Some(fault), 0);
    }

    /// The disk works again. Returns whether anything failed.
    pub(crate) fn heal(&self) -> bool {
        let mut seen = lock(&self.watch.seen);
        seen.fault = None;
        std::mem::take(&mut seen.hit)
    }

    /// Everything so far.
    pub(crate) fn recording(&self) -> Recording {
        let steps = lock(&self.watch.seen).steps.clone();
        Recording { base: self.base.clone(), steps }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        lock(&WATCHED).retain(|watch| !Arc::ptr_eq(watch, &self.watch));
    }
}

/// Stands in for the product's function of this name.
pub(super) fn perform<T>(
    operation: Operation<'_>,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let watched = lock(&WATCHED).iter().find(|watch| watch.holds(&operation)).cloned();
    match watched {
        Some(watch) => watch.perform(operation, act),
        None => act(),
    }
}

impl Watch {
    fn holds(&self, operation: &Operation<'_>) -> bool {
        operation.path().starts_with(&self.root)
    }

    fn perform<T>(
        &self,
        operation: Operation<'_>,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut seen = lock(&self.seen);
        let file = seen.fault.map_or("", |fault| fault.file);
        let counts = file.is_empty() || operation.path().ends_with(file);
        let number = seen.tried;
        seen.tried += usize::from(counts);
        let fault = seen.fault.filter(|_| counts).filter(|fault| match fault.kind {
            FaultKind::Io => fault.at == number,
            FaultKind::Full => fault.at <= number && operation.needs_room(),
            FaultKind::FullBehind(byte) => match operation {
                Operation::Write { at, bytes, .. } => at + bytes.len() as u64 > byte,
                _ => false,
            },
        });
        let Some(Fault { kind, .. }) = fault else {
            // Tried first: what the system refuses has not happened.
            let done = act()?;
            seen.steps.push(Step::of(&operation, &self.root));
            return Ok(done);
        };
        seen.hit = true;
        match operation {
            // A part of the bytes is there when the disk notices.
            Operation::Write { path, at, bytes } => {
                let half = &bytes[..bytes.len() / 2];
                std::os::unix::fs::FileExt::write_all_at(
                    &std::fs::OpenOptions::new().write(true).open(path)?,
                    half,
                    at,
                )?;
                let written = Operation::Write { path, at, bytes: half };
                seen.steps.push(Step::of(&written, &self.root));
            }
            Operation::SyncFile { .. } | Operation::SyncFolder { .. } => {
                seen.steps.push(Step::FailedSync(relative(operation.path(), &self.root)));
            }
            _ => {}
        }
        let number = if kind == FaultKind::Io { EIO } else { ENOSPC };
        Err(io::Error::from_raw_os_error(number))
    }
}

impl Operation<'_> {
    fn path(&self) -> &Path {
        match self {
            Operation::CreateFolder { path }
            | Operation::Create { path }
            | Operation::Write { path, .. }
            | Operation::SetLen { path, .. }
            | Operation::SyncFile { path }
            | Operation::SyncFolder { path }
            | Operation::Rename { from: path, .. }
            | Operation::RemoveFile { path }
            | Operation::RemoveTree { path } => path,
        }
    }

    /// Shrinking a file or removing one works on a full disk.
    fn needs_room(&self) -> bool {
        matches!(
            self,
            Operation::CreateFolder { .. } | Operation::Create { .. } | Operation::Write { .. }
        )
    }
}

pub(super) fn relative(path: &Path, root: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap().to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that failed leaves a list behind, which the others can still use.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

static WATCHED: Mutex<Vec<Arc<Watch>>> = Mutex::new(Vec::new());
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
