//! A node with several GPUs: a worker's process for each, so that a GPU that fails takes no other with it. This process starts
//! them, passes the wish to stop on, and waits.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use proto::exit::ExitCode;
use proto::parent::die_with_this_process;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Join;
use crate::join::{all_cores, default_name};

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("start a worker for GPU {gpu}: {source}")]
    Start { gpu: usize, source: io::Error },
    #[error("wait for the workers of this node: {0}")]
    Wait(io::Error),
    #[error("the worker of GPU {gpu} ended early: {status}; the log above says why")]
    Worker { gpu: usize, status: ExitStatus },
}

impl NodeError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            NodeError::Worker { .. } => ExitCode::RunStopped,
            NodeError::Start { .. } | NodeError::Wait(_) => ExitCode::Failure,
        }
    }
}

/// Runs a worker for each GPU until all have ended; they are named after this one and their GPU.
pub(crate) fn run(args: &Join, gpus: &[usize]) -> Result<(), NodeError> {
    let name = args.name.clone().unwrap_or_else(default_name).to_string();
    let threads = (args.threads.unwrap_or_else(all_cores).get() / gpus.len()).max(1);
    let mut workers = Vec::new();
    for &gpu in gpus {
        match start(args, gpu, &format!("{name}-gpu{gpu}"), threads) {
            Ok(child) => workers.push((gpu, child)),
            Err(source) => {
                stop(&workers);
                return Err(NodeError::Start { gpu, source });
            }
        }
    }
    tracing::info!("{} GPUs, a worker for each: {name}-gpu{} and so on", gpus.len(), gpus[0]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(NodeError::Wait)?.block_on(wait(workers))
}

/// This program again, for one GPU, with its share of the cores.
fn start(args: &Join, gpu: usize, name: &str, threads: usize) -> io::Result<Child> {
    let Join { coordinator, token_file, state, data, exchange_ip, wait, .. } = args;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["join", coordinator, "--name", name]);
    command.args(["--devices", &gpu.to_string(), "--threads", &threads.to_string()]);
    command.args(["--wait", &wait.as_secs().to_string()]);
    command.arg("--state").arg(state);
    command.args(die_with_this_process());
    if let Some(file) = token_file {
        command.arg("--token-file").arg(file);
    }
    if let Some(folder) = data {
        command.arg("--data").arg(folder);
    }
    if let Some(ip) = exchange_ip {
        command.args(["--exchange-ip", &ip.to_string()]);
    }
    command.spawn()
}

/// Until all have ended. Asked to stop, it asks them.
async fn wait(mut workers: Vec<(usize, Child)>) -> Result<(), NodeError> {
    let asked = |kind| signal(kind).map_err(NodeError::Wait);
    let (mut terminate, mut interrupt) =
        (asked(SignalKind::terminate())?, asked(SignalKind::interrupt())?);
    let mut first = Ok(());
    while !workers.is_empty() {
        tokio::select! {
            _ = terminate.recv() => stop(&workers),
            _ = interrupt.recv() => stop(&workers),
            () = tokio::time::sleep(POLL) => {}
        }
        let mut running = Vec::new();
        for (gpu, mut child) in workers {
            match child.try_wait().map_err(NodeError::Wait)? {
                None => running.push((gpu, child)),
                Some(status) if status.success() => {}
                Some(status) => {
                    tracing::error!("the worker of GPU {gpu} ended: {status}");
                    first = first.and(Err(NodeError::Worker { gpu, status }));
                }
            }
        }
        workers = running;
    }
    first
}

fn stop(workers: &[(usize, Child)]) {
    for (gpu, child) in workers {
        let process = Pid::from_child(child);
        if let Err(error) = kill_process(process, Signal::TERM) {
            tracing::warn!("ask the worker of GPU {gpu} to stop: {error}");
        }
    }
}

/// How soon the end of a worker is noticed.
const POLL: Duration = Duration::from_millis(200);
