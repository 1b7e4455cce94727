//! A coordinator on its own, as `coordinator start` runs it, and the workers and commands that speak to it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::process::{Ended, Running};
use crate::programs::{coordinator, worker};

/// A running `coordinator start`. Dropping it kills it.
#[derive(Debug)]
pub struct ControlPlane {
    pub running: Running,
    pub address: String,
    pub state: PathBuf,
}

impl ControlPlane {
    /// On a free port of loopback.
    pub fn start(state: &Path) -> ControlPlane {
        ControlPlane::start_at("127.0.0.1:0", state)
    }

    /// Returns when it listens.
    pub fn start_at(listen: &str, state: &Path) -> ControlPlane {
        let mut command = coordinator(&["start", "--listen", listen, "--state"]);
        command.arg(state);
        let mut running = Running::spawn(command);
        let (line, _) = running.wait_for(&[LISTENING], LIMIT);
        let address = line.strip_prefix(LISTENING).expect("the line begins with it").to_owned();
        ControlPlane { running, address, state: state.to_owned() }
    }

    /// `worker join` to this coordinator with one compute thread.
    pub fn join(&self, name: &str) -> Command {
        join(&self.address, &self.state, name)
    }

    /// A worker that has joined.
    pub fn worker(&mut self, name: &str) -> Running {
        let joining = Running::spawn(self.join(name));
        self.wait_for_worker(name);
        joining
    }

    pub fn wait_for_worker(&mut self, name: &str) {
        self.running.wait_for(&[&format!("worker {name} joined")], LIMIT);
    }

    /// A command of a person on this machine.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = coordinator(args);
        command.arg("--state").arg(&self.state);
        command
    }

    /// Runs a command to its end, which must be a success, and gives what it printed.
    pub fn says(&self, args: &[&str]) -> String {
        let ended = Running::spawn(self.command(args)).finish(LIMIT);
        assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
        ended.stdout
    }

    /// Asks again until the answer holds all the words; what is asked about may be on its way there.
    pub fn wait_to_say(&self, args: &[&str], words: &[&str]) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let said = self.says(args);
            if words.iter().all(|word| said.contains(word)) {
                return;
            }
            assert!(Instant::now() < deadline, "{args:?} never said {words:?}, last:\n{said}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Submits a job and gives what was printed.
    pub fn submit(&self, job: &Path, workers: usize) -> String {
        let job = job.to_str().expect("a test's path is UTF-8");
        self.says(&["submit", job, "--workers", &workers.to_string()])
    }

    /// Sends a signal and waits for the end.
    pub fn end(self, signal: Signal) -> Ended {
        self.running.signal(signal);
        self.running.finish(LIMIT)
    }
}

/// `worker join` with one compute thread and the token of a coordinator's state directory.
pub fn join(address: &str, state: &Path, name: &str) -> Command {
    let mut command = worker(&["join", address, "--name", name, "--threads", "1", "--state"]);
    command.arg(state);
    command
}

const LISTENING: &str = "listening on ";
/// Starting takes moments; a machine under load gets far more.
const LIMIT: Duration = Duration::from_secs(60);
