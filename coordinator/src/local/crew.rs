//! The worker processes of a local run: started, listened to, ended. What they write to stderr passes through this process
//! into `worker-<n>.log`, so that a full disk costs log lines and not workers.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use proto::identity::Name;
use proto::parent::die_with_this_process;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;

use super::LocalError;
use crate::service;
use crate::state::StateDir;

/// The worker processes to start.
#[derive(Clone, Debug)]
pub struct CrewPlan {
    /// The `worker` program.
    pub program: PathBuf,
    pub workers: u32,
    pub means: Means,
}

/// What each worker of this machine computes with.
#[derive(Clone, Debug)]
pub struct Means {
    pub threads: u32,
    /// As `worker join --devices` takes it.
    pub devices: String,
}

impl Means {
    /// Options of `worker join` for the `number`th worker, counted from 1.
    pub fn options(&self, number: usize) -> [String; 6] {
        let (threads, share) = (self.threads.to_string(), (number - 1).to_string());
        let devices = self.devices.clone();
        ["--threads".into(), threads, "--devices".into(), devices, "--share".into(), share]
    }
}

/// Worker processes. Dropped, they are killed.
#[derive(Debug)]
pub(super) struct Crew {
    waiting: JoinSet<WorkerExit>,
}

/// A worker process has ended.
#[derive(Debug)]
pub(super) struct WorkerExit {
    pub(super) worker: Name,
    status: io::Result<ExitStatus>,
    /// The end of what it said.
    last_lines: VecDeque<String>,
}

/// Name of the `number`th worker, counted from 1.
pub(super) fn name(number: u32) -> Name {
    format!("w{number}").parse().expect("a valid name")
}

impl Crew {
    pub(super) fn spawn(
        plan: &CrewPlan,
        coordinator: SocketAddr,
        state: &StateDir,
    ) -> Result<Crew, LocalError> {
        let mut waiting = JoinSet::new();
        for number in 1..=plan.workers {
            let worker = name(number);
            let mut command = Command::new(&plan.program);
            command.arg("join").arg(coordinator.to_string());
            command.arg("--token-file").arg(state.token_path());
            command.arg("--name").arg(worker.as_str());
            command.args(plan.means.options(number as usize));
            command.args(["--wait", "0"]);
            command.args(die_with_this_process());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            command.kill_on_drop(true);
            // Ctrl-C is for this process, which ends the workers in good order.
            command.process_group(0);
            let path = plan.program.clone();
            let child = command.spawn().map_err(|source| LocalError::Spawn { path, source })?;
            waiting.spawn(watch(worker, child, state.worker_log_path(number)));
        }
        Ok(Crew { waiting })
    }

    /// `None` when all have ended.
    pub(super) async fn next_exit(&mut self) -> Option<WorkerExit> {
        let exit = self.waiting.join_next().await?.ok()?;
        if !exit.status.as_ref().is_ok_and(ExitStatus::success) {
            for line in &exit.last_lines {
                tracing::warn!("{} said: {line}", exit.worker);
            }
        }
        Some(exit)
    }

    /// Waits for the workers, which were told to end, and kills those that don't.
    pub(super) async fn end(mut self) {
        let all = async { while self.waiting.join_next().await.is_some() {} };
        if tokio::time::timeout(END_WITHIN, all).await.is_err() {
            let left = self.waiting.len();
            tracing::warn!("killing workers that did not end when told to: {left}");
        }
        self.waiting.shutdown().await;
    }
}

impl WorkerExit {
    /// "exit status: 5; it said: ...".
    pub(super) fn describe(&self) -> String {
        let status = match &self.status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        match self.last_lines.back() {
            Some(line) => format!("{status}; it said: {line}"),
            None => status,
        }
    }
}

/// Stays with a process to its end. Dropped, it kills it.
async fn watch(worker: Name, mut child: Child, log: PathBuf) -> WorkerExit {
    let mut tail = Tail::default();
    let stderr = child.stderr.take();
    let status = {
        let listening = async {
            match stderr {
                Some(stderr) => tail.listen(stderr, &log).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(listening);
        tokio::select! {
            status = child.wait() => {
                // What it said last may still be on its way, unless a child of its own holds the pipe open.
                tokio::time::timeout(LISTEN_AFTER_END, listening).await.ok();
                status
            }
            () = &mut listening => child.wait().await,
        }
    };
    WorkerExit { worker, status, last_lines: tail.lines() }
}

/// The end of what a process wrote.
#[derive(Debug, Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    /// Copies all that comes into the file. Lines that find no room on disk are left out.
    async fn listen(&mut self, mut stderr: ChildStderr, log: &PathBuf) {
        let mut file = OpenOptions::new().append(true).create(true).open(log);
        if let Err(error) = &file {
            tracing::warn!("writing {}: {error}; this worker's log is not kept", log.display());
        }
        let mut bytes = [0; TAIL_BYTES];
        while let Ok(len @ 1..) = stderr.read(&mut bytes).await {
            if let Ok(file) = &mut file {
                // The log is for people; a full disk has been reported where it matters.
                file.write_all(&bytes[..len]).ok();
            }
            self.0.extend(&bytes[..len]);
            let surplus = self.0.len().saturating_sub(TAIL_BYTES);
            self.0.drain(..surplus);
        }
    }

    fn lines(mut self) -> VecDeque<String> {
        let text = String::from_utf8_lossy(self.0.make_contiguous());
        let mut lines: VecDeque<String> = text.lines().map(service::words).collect();
        lines.retain(|line| !line.is_empty());
        let surplus = lines.len().saturating_sub(TAIL_LINES);
        lines.drain(..surplus);
        lines
    }
}

/// A worker that was told to end closes its files and goes.
const END_WITHIN: Duration = Duration::from_secs(3);
const LISTEN_AFTER_END: Duration = Duration::from_millis(500);
const TAIL_BYTES: usize = 4096;
const TAIL_LINES: usize = 5;
