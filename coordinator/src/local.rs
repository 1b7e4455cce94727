//! Everything on this machine: a coordinator in this process and worker processes beside it. The workers end with this
//! process, whatever ends it: their control streams break.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use proto::identity::{JobId, Name};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::core::{Event, JobSpec, Shortage, Submission};
use crate::driver::{self, DriverError, Ended, Handle, Running, SubmitError, Submitted};
use crate::service::{self, ListenError};
use crate::state::{StateDir, StateError};
use crate::terminal::{Interrupts, Terminal};

/// A coordinator in this process.
#[derive(Debug)]
pub struct Local {
    pub state: Arc<StateDir>,
    pub handle: Handle,
    pub address: std::net::SocketAddr,
    /// Absent once its end was received.
    ended: Option<oneshot::Receiver<Result<(), DriverError>>>,
    stop_serving: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// The worker processes to start.
#[derive(Clone, Debug)]
pub struct CrewPlan {
    /// The `worker` program.
    pub program: PathBuf,
    pub workers: u32,
    /// Of each worker.
    pub threads: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("{0}")]
    State(#[from] StateError),
    #[error("{0}")]
    Driver(#[from] DriverError),
    #[error("{0}")]
    Listen(#[from] ListenError),
    #[error("{0}")]
    Submit(#[from] SubmitError),
    #[error("there is no worker program at {}; build it with: cargo build --release", path.display())]
    NoWorkerProgram { path: PathBuf },
    #[error("starting {}: {source}", path.display())]
    Spawn { path: PathBuf, source: io::Error },
    #[error("waiting for interrupts: {0}")]
    Signal(io::Error),
    #[error("the coordinator's loop ended unexpectedly")]
    Ended,
}

/// How a local run ended.
#[derive(Debug)]
pub enum LocalEnd {
    Job(Box<Ended>),
    /// Interrupted twice: everything was killed.
    Killed,
}

impl Local {
    /// Starts the coordinator on a free loopback port.
    pub async fn start(state: &Path) -> Result<Local, LocalError> {
        let state = Arc::new(StateDir::open(state)?);
        let token = state.token()?;
        let Running { handle, ended } = driver::start(state.clone())?;
        let listener: TcpListener =
            service::listen(std::net::SocketAddr::from(([127, 0, 0, 1], 0)), false).await?;
        let address = listener.local_addr().map_err(|source| ListenError::Io {
            address: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            source,
        })?;
        state.publish_address(address)?;
        let (stop_serving, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(service::serve(listener, token, handle.clone(), async {
            // Dropped or sent: both mean the end.
            stopped.await.ok();
        }));
        let ended = Some(ended);
        Ok(Local { state, handle, address, ended, stop_serving, serving })
    }

    pub async fn submit(
        &self,
        spec: JobSpec,
        workers: u32,
        fresh: bool,
    ) -> Result<Submitted, LocalError> {
        let submission = Submission { spec, workers, fresh, shortage: Shortage::Fail };
        Ok(self.handle.submit(submission).await?)
    }

    /// Starts the workers and stays until the job is over.
    pub async fn run(
        &mut self,
        job: &JobId,
        plan: &CrewPlan,
        terminal: &Terminal,
    ) -> Result<LocalEnd, LocalError> {
        let mut interrupts = Interrupts::listen().map_err(LocalError::Signal)?;
        let mut crew = Crew::spawn(plan, self)?;
        let mut progress = self.handle.progress();
        let handle = self.handle.clone();
        let over = handle.wait(job.clone());
        let overdue = tokio::time::sleep(JOIN_WITHIN);
        tokio::pin!(over, overdue);
        let (mut stopping, mut late) = (false, false);
        let end = loop {
            tokio::select! {
                ended = &mut over => match ended {
                    Some(ended) => break LocalEnd::Job(Box::new(ended)),
                    None => return Err(self.why_ended().await),
                },
                Some(exit) = crew.next_exit() => {
                    let cause = exit.describe();
                    handle.tell(Event::NeverJoined { worker: exit.worker, cause }).await;
                }
                () = &mut overdue, if !late => {
                    late = true;
                    for number in 1..=plan.workers {
                        let cause = format!("it did not join within {} s", JOIN_WITHIN.as_secs());
                        handle.tell(Event::NeverJoined { worker: name(number), cause }).await;
                    }
                }
                Ok(()) = progress.changed() => {
                    let newest = progress.borrow_and_update().clone();
                    if let Some(newest) = newest.filter(|newest| newest.job == *job) {
                        terminal.show(&newest);
                    }
                }
                () = interrupts.next() => {
                    if std::mem::replace(&mut stopping, true) {
                        break LocalEnd::Killed;
                    }
                    tracing::info!("stopping after the current step; interrupt again to stop at once");
                    // It may have ended at the same moment; then the loop is told.
                    handle.stop(job.clone()).await;
                }
            }
        };
        terminal.clear();
        match &end {
            LocalEnd::Job(_) => {
                let reason = "the training is over".to_owned();
                handle.tell(Event::Dismissed { reason }).await;
                crew.end().await;
            }
            LocalEnd::Killed => drop(crew),
        }
        Ok(end)
    }

    /// Ends the coordinator; everything it had to write is on disk when this returns.
    pub async fn shut_down(self) -> Result<(), LocalError> {
        self.handle.shut_down().await;
        let result = match self.ended {
            Some(ended) => ended.await,
            None => Ok(Ok(())),
        };
        // Streams that are still open are cut off.
        drop(self.stop_serving);
        self.serving.await.ok();
        self.state.withdraw_address();
        result.map_err(|_| LocalError::Ended)?.map_err(LocalError::Driver)
    }

    /// The driver has ended by itself: its journal failed.
    async fn why_ended(&mut self) -> LocalError {
        let Some(ended) = self.ended.take() else { return LocalError::Ended };
        match ended.await {
            Ok(Err(error)) => LocalError::Driver(error),
            _ => LocalError::Ended,
        }
    }
}

fn name(number: u32) -> Name {
    format!("w{number}").parse().expect("a valid name")
}

/// The `worker` program beside this one.
pub fn worker_program() -> Result<PathBuf, LocalError> {
    let own = std::env::current_exe().unwrap_or_default();
    let path = own.with_file_name(format!("worker{}", std::env::consts::EXE_SUFFIX));
    if path.is_file() { Ok(path) } else { Err(LocalError::NoWorkerProgram { path }) }
}

/// Worker processes. Dropped, they are killed.
#[derive(Debug)]
struct Crew {
    waiting: JoinSet<WorkerExit>,
}

/// A worker process has ended.
#[derive(Debug)]
struct WorkerExit {
    worker: Name,
    status: io::Result<ExitStatus>,
    log: PathBuf,
}

impl Crew {
    fn spawn(plan: &CrewPlan, local: &Local) -> Result<Crew, LocalError> {
        let mut waiting = JoinSet::new();
        for number in 1..=plan.workers {
            let worker = name(number);
            let log = local.state.worker_log_path(number);
            let fail = |source| LocalError::Spawn { path: plan.program.clone(), source };
            let output = File::create(&log).map_err(fail)?;
            let mut command = Command::new(&plan.program);
            command.arg("join").arg(local.address.to_string());
            command.arg("--token-file").arg(local.state.token_path());
            command.arg("--name").arg(worker.as_str());
            command.arg("--threads").arg(plan.threads.to_string());
            command.args(["--wait", "0"]);
            command.stdin(Stdio::null());
            command.stdout(Stdio::from(output.try_clone().map_err(fail)?));
            command.stderr(Stdio::from(output));
            command.kill_on_drop(true);
            // Ctrl-C is for this process, which ends the workers in good order.
            command.process_group(0);
            let mut child: Child = command.spawn().map_err(fail)?;
            waiting.spawn(async move {
                let status = child.wait().await;
                WorkerExit { worker, status, log }
            });
        }
        Ok(Crew { waiting })
    }

    /// `None` when all have ended.
    async fn next_exit(&mut self) -> Option<WorkerExit> {
        let exit = self.waiting.join_next().await?.ok()?;
        if !exit.status.as_ref().is_ok_and(ExitStatus::success) {
            for line in last_lines(&exit.log) {
                tracing::warn!("{}: {line}", exit.worker);
            }
        }
        Some(exit)
    }

    /// Waits for the workers, which were told to end, and kills those that don't.
    async fn end(mut self) {
        let all = async { while self.waiting.join_next().await.is_some() {} };
        if tokio::time::timeout(END_WITHIN, all).await.is_err() {
            tracing::warn!(
                "{} workers did not end when told to and are killed",
                self.waiting.len()
            );
        }
        self.waiting.shutdown().await;
    }
}

impl WorkerExit {
    /// "exit status: 5, it said: ...".
    fn describe(&self) -> String {
        let status = match &self.status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        match last_lines(&self.log).pop_back() {
            Some(line) => format!("{status}; it said: {line}"),
            None => status,
        }
    }
}

/// The end of a log file, within bounds.
fn last_lines(path: &Path) -> VecDeque<String> {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let mut lines: VecDeque<String> = text.lines().map(service::words).collect();
    lines.retain(|line| !line.is_empty());
    while lines.len() > TAIL_LINES {
        lines.pop_front();
    }
    lines
}

/// Starting a process and saying hello takes far less.
const JOIN_WITHIN: Duration = Duration::from_secs(60);
/// A worker that was told to end closes its files and goes.
const END_WITHIN: Duration = Duration::from_secs(3);
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 5;

#[cfg(test)]
mod tests;
