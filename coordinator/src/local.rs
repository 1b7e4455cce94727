//! Everything on this machine: a coordinator in this process and worker processes beside it. The workers end with this
//! process, whatever ends it.

mod crew;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::identity::JobId;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::core::{Event, JobSpec, Policy, Shortage, Submission};
use crate::driver::{self, DriverError, Ended, Handle, Running, SubmitError, Submitted};
use crate::service::{self, ListenError};
use crate::state::{StateDir, StateError};
use crate::terminal::{Interrupts, Terminal};
use crew::Crew;

pub use crew::{CrewPlan, Means};

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
        policy: Policy,
        fresh: bool,
    ) -> Result<Submitted, LocalError> {
        let shortage = Shortage::Fail;
        let submission = Submission { spec, workers, policy, fresh, shortage };
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
        let mut crew = Crew::spawn(plan, self.address, &self.state)?;
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
                        handle.tell(Event::NeverJoined { worker: crew::name(number), cause }).await;
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

/// The `worker` program beside this one.
pub fn worker_program() -> Result<PathBuf, LocalError> {
    let own = std::env::current_exe().unwrap_or_default();
    let path = own.with_file_name(format!("worker{}", std::env::consts::EXE_SUFFIX));
    if path.is_file() { Ok(path) } else { Err(LocalError::NoWorkerProgram { path }) }
}

/// Starting a process and saying hello takes far less.
const JOIN_WITHIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
