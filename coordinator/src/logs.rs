//! A job's log: every line about it, on disk and to whoever follows. A follower that reads too slowly loses lines, with a
//! mark where they were; it never holds anything up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use proto::identity::JobId;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::core::Level;
use crate::disk;
use crate::files::LineFile;

/// One line of `log.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub unix_ms: u64,
    pub level: String,
    pub text: String,
}

/// The logs of all jobs of one state directory.
#[derive(Debug)]
pub struct JobLogs {
    jobs: PathBuf,
    open: Mutex<BTreeMap<JobId, Open>>,
}

#[derive(Debug)]
struct Open {
    /// Absent when it could not be opened.
    file: Option<LineFile>,
    live: broadcast::Sender<Line>,
}

/// Where to read a log from: the first bytes of a file, then what comes live, each line once.
#[derive(Debug)]
pub struct Reading {
    pub path: PathBuf,
    pub len: u64,
    /// Absent when the job is over.
    pub live: Option<broadcast::Receiver<Line>>,
}

impl JobLogs {
    pub fn new(jobs: PathBuf) -> JobLogs {
        JobLogs { jobs, open: Mutex::default() }
    }

    /// Appends a line. An error is the first one of a row, for a warning. A line about a job that is `over` opens nothing
    /// that a follower would wait on.
    pub fn append(&self, job: &JobId, level: Level, text: &str, over: bool) -> std::io::Result<()> {
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let line = Line {
            unix_ms: unix_ms as u64,
            level: level.as_str().to_owned(),
            text: text.to_owned(),
        };
        let mut open = self.lock();
        if over && !open.contains_key(job) {
            return Open::new(&self.path(job)).append(line);
        }
        open.entry(job.clone()).or_insert_with(|| Open::new(&self.path(job))).append(line)
    }

    /// The job is over: followers come to their end. Returns the number of lines that are not on disk.
    pub fn close(&self, job: &JobId) -> u64 {
        let closed = self.lock().remove(job);
        closed.and_then(|log| log.file).map_or(0, |file| file.missing())
    }

    /// Everything so far and, unless the job is over, what comes.
    pub fn read(&self, job: &JobId) -> Reading {
        let open = self.lock();
        let path = self.path(job);
        match open.get(job) {
            Some(log) => {
                let len = log.file.as_ref().map_or(0, LineFile::len);
                Reading { path, len, live: Some(log.live.subscribe()) }
            }
            None => {
                let len = path.metadata().map_or(0, |metadata| metadata.len());
                Reading { path, len, live: None }
            }
        }
    }

    fn path(&self, job: &JobId) -> PathBuf {
        self.jobs.join(job.as_str()).join("log.jsonl")
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn new(path: &Path) -> Open {
        let folder = path.parent().unwrap_or(path);
        let file = disk::create_folders(folder).and_then(|()| LineFile::open(path));
        if let Err(error) = &file {
            tracing::warn!("opening {}: {error}; the log is not written", path.display());
        }
        Open { file: file.ok(), live: broadcast::channel(LIVE_LINES).0 }
    }

    fn append(&mut self, line: Line) -> std::io::Result<()> {
        let written = match &mut self.file {
            Some(file) => {
                file.push(&serde_json::to_string(&line).expect("a line is plain data"));
                file.flush()
            }
            None => Ok(()),
        };
        // Nobody may be following.
        self.live.send(line).ok();
        written
    }
}

/// Lines that a follower may be behind.
const LIVE_LINES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_about_a_job_that_is_over_does_not_open_its_log_again() {
        let folder = tempfile::tempdir().unwrap();
        let logs = JobLogs::new(folder.path().to_owned());
        let job: JobId = "digits-1".parse().unwrap();
        logs.append(&job, Level::Info, "begins", false).unwrap();
        assert!(logs.read(&job).live.is_some());
        assert_eq!(logs.close(&job), 0);
        logs.append(&job, Level::Warn, "an afterthought", true).unwrap();
        let Reading { path, live, .. } = logs.read(&job);
        assert!(live.is_none(), "a follower would wait for ever");
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 2);
    }
}
