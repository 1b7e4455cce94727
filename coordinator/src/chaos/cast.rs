//! The processes of a cluster on this machine, each started by the command that a person would type, and what can be done to
//! them. They end when this value is dropped, and when this process ends. What they say goes to `coordinator.log` and
//! `worker-<n>.log` in the state directory.

use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use proto::parent::die_with_this_process;
use rustix::process::{Pid, Signal, kill_process};

use crate::local::Means;
use crate::state::token_path;

#[derive(Debug)]
pub struct Cast {
    state: PathBuf,
    address: SocketAddr,
    programs: Programs,
    means: Means,
    coordinator: Option<Child>,
    pub workers: Vec<Actor>,
}

/// Where the two programs lie.
#[derive(Clone, Debug)]
pub struct Programs {
    pub coordinator: PathBuf,
    pub worker: PathBuf,
}

/// A worker's place, which one process after the other may fill.
#[derive(Debug)]
pub struct Actor {
    pub name: String,
    pub paused: bool,
    log: PathBuf,
    child: Option<Child>,
}

#[derive(Debug, thiserror::Error)]
pub enum CastError {
    #[error("starting {}: {source}", path.display())]
    Spawn { path: PathBuf, source: io::Error },
    #[error("making {}: {source}", path.display())]
    State { path: PathBuf, source: io::Error },
    #[error("looking for a free port: {0}")]
    Port(io::Error),
}

impl Cast {
    /// Nobody runs yet.
    pub fn new(
        state: &Path,
        programs: Programs,
        workers: u32,
        means: Means,
    ) -> Result<Cast, CastError> {
        let failed = |source| CastError::State { path: state.to_owned(), source };
        crate::disk::create_folders(state).map_err(failed)?;
        let state = state.canonicalize().map_err(failed)?;
        // Programs that listen on any free port do so on 127.0.0.1: here the port stays free while the coordinator is away.
        let listener = std::net::TcpListener::bind(("127.0.0.2", 0)).map_err(CastError::Port)?;
        let address = listener.local_addr().map_err(CastError::Port)?;
        let actor = |number: u32| Actor {
            name: format!("w{number}"),
            paused: false,
            log: state.join(format!("worker-{number}.log")),
            child: None,
        };
        let workers = (1..=workers).map(actor).collect();
        Ok(Cast { state, address, programs, means, coordinator: None, workers })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn state(&self) -> &Path {
        &self.state
    }

    pub fn start_coordinator(&mut self) -> Result<(), CastError> {
        let mut command = Command::new(&self.programs.coordinator);
        command.args(["start", "--listen"]).arg(self.address.to_string());
        command.arg("--state").arg(&self.state);
        self.coordinator = Some(spawn(command, &self.state.join("coordinator.log"))?);
        Ok(())
    }

    pub fn start_worker(&mut self, index: usize) -> Result<(), CastError> {
        let actor = &mut self.workers[index];
        let mut command = Command::new(&self.programs.worker);
        command.arg("join").arg(self.address.to_string());
        command.arg("--token-file").arg(token_path(&self.state));
        command.args(["--name", &actor.name]).args(self.means.options(index + 1));
        actor.child = Some(spawn(command, &actor.log)?);
        Ok(())
    }

    pub fn coordinator_runs(&mut self) -> bool {
        self.coordinator.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub fn kill_coordinator(&mut self) {
        if let Some(child) = self.coordinator.take() {
            kill(child);
        }
    }

    pub fn kill_worker(&mut self, index: usize) {
        let actor = &mut self.workers[index];
        actor.paused = false;
        if let Some(child) = actor.child.take() {
            kill(child);
        }
    }

    pub fn ask_to_leave(&self, index: usize) {
        self.workers[index].signal(Signal::TERM);
    }

    pub fn pause(&mut self, index: usize) {
        self.workers[index].signal(Signal::STOP);
        self.workers[index].paused = true;
    }

    pub fn wake(&mut self, index: usize) {
        self.workers[index].signal(Signal::CONT);
        self.workers[index].paused = false;
    }

    /// Tells all to end, waits for a moment, and kills the rest. A coordinator that still has jobs stops them first.
    pub async fn end(&mut self, limit: Duration) {
        for index in 0..self.workers.len() {
            self.wake(index);
        }
        if let Some(child) = &self.coordinator {
            signal(child, Signal::TERM);
        }
        let deadline = Instant::now() + limit;
        while self.coordinator_runs() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        self.workers.iter().for_each(|actor| actor.signal(Signal::TERM));
        let deadline = Instant::now() + END_WITHIN;
        while self.workers.iter_mut().any(Actor::runs) && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        self.kill_all();
    }

    fn kill_all(&mut self) {
        self.kill_coordinator();
        for index in 0..self.workers.len() {
            self.kill_worker(index);
        }
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        self.kill_all();
    }
}

impl Actor {
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// How its process ended, once: then the place is empty.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok().flatten()?;
        self.child = None;
        Some(status)
    }

    fn signal(&self, what: Signal) {
        if let Some(child) = &self.child {
            signal(child, what);
        }
    }
}

/// To a child that was not waited for: its number is still its own.
fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a process number is above 0");
    // It may have ended a moment ago.
    kill_process(pid, signal).ok();
}

fn kill(mut child: Child) {
    // Gone already is as good; it is waited for in any case, so that nothing of it is left.
    child.kill().ok();
    child.wait().ok();
}

fn spawn(mut command: Command, log: &Path) -> Result<Child, CastError> {
    use std::os::unix::process::CommandExt;
    let path = PathBuf::from(command.get_program());
    let failed = |source| CastError::Spawn { path: path.clone(), source };
    let log = OpenOptions::new().append(true).create(true).open(log).map_err(failed)?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // Ctrl-C is for this process, which ends the others in good order.
    command.process_group(0);
    command.args(die_with_this_process());
    command.spawn().map_err(failed)
}

const POLL: Duration = Duration::from_millis(10);
/// A worker that was told to end closes its files and goes.
const END_WITHIN: Duration = Duration::from_secs(5);
