//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use proto::wire::v1;

use crate::chaos::Plan;
use crate::core::Policy;

/// Trains ResNets on a cluster: starts and watches training runs.
#[derive(Debug, Parser)]
#[command(name = "coordinator", version, max_term_width = 100, after_help = EXAMPLE_TRAIN)]
pub struct Cli {
    /// Form of the log lines on stderr.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people, with a progress bar on a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a job on this machine: coordinator, workers, progress, summary.
    Train(TrainArgs),
    /// Run the control plane that workers join.
    Start(StartArgs),
    /// Add a job to a running coordinator's queue.
    Submit(SubmitArgs),
    /// List jobs.
    #[command(after_help = "Example:\n  coordinator jobs --state runs/digits")]
    Jobs(Connection),
    /// Show jobs and workers.
    Status(StatusArgs),
    /// Show a job's log.
    Logs(LogsArgs),
    /// Stop a job after its current step, with a checkpoint.
    #[command(after_help = "Example:\n  coordinator stop digits-1")]
    Stop(JobArgs),
    /// List a job's checkpoints.
    #[command(after_help = "Example:\n  coordinator checkpoints digits-1 --state runs/digits")]
    Checkpoints(JobArgs),
    /// Prove from the state directory that every sample was used once, and every checkpoint is what it says.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE_TRAIN)]
pub struct TrainArgs {
    /// The job file.
    pub job: PathBuf,
    /// Worker processes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: u32,
    /// Compute threads of each worker [default: processor cores / workers, at least 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub threads: Option<u32>,
    /// What workers compute on, as `worker join --devices` says it; several GPUs are dealt out among them.
    #[arg(long, value_name = "DEVICES", default_value = "any")]
    pub devices: String,
    /// Where checkpoints, metrics and logs go [default: runs/NAME, after the job].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Start over even if the same job has been run here before. Deletes nothing.
    #[arg(long)]
    pub fresh: bool,
    /// Do faults to the run: kill, pause, leave and coordinator, each with the mean time between two of them, such as
    /// "kill 5s, pause 20s, coordinator 30s". A worker that holds the only state is spared. Ends with `verify`, how long
    /// each kind of fault held the run up, and what was lost by it.
    #[arg(long, value_name = "FAULTS")]
    pub chaos: Option<Plan>,
    /// The times, victims and lengths of the faults are functions of this number.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "chaos")]
    pub chaos_seed: u64,
    /// Faults come only in every other spell of so many seconds, so that steps/s with and without them can be compared
    /// within the run [default: faults from 2 s after the first step to the end].
    #[arg(long, value_name = "SECONDS", requires = "chaos", value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub chaos_spells: Option<u64>,
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// What happens when workers come and go. Changes nothing in the result.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// When a worker is lost: go on with the others; or wait for another; or let one that stands by take its place.
    #[arg(long, value_enum, default_value_t = OnLossArg::Shrink)]
    pub on_loss: OnLossArg,
    /// With fewer workers the job waits, and those that are left hold its state.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub min_workers: u32,
    /// More workers stay idle [default: as many as the job has slices].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_workers: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnLossArg {
    Shrink,
    Wait,
    Spare,
}

impl OnLossArg {
    pub fn on_wire(self) -> v1::OnLoss {
        match self {
            OnLossArg::Shrink => v1::OnLoss::Shrink,
            OnLossArg::Wait => v1::OnLoss::Wait,
            OnLossArg::Spare => v1::OnLoss::Spare,
        }
    }
}

impl PolicyArgs {
    pub fn policy(&self) -> Policy {
        let max_workers = self.max_workers.unwrap_or(u32::MAX);
        let on_loss = self.on_loss.on_wire().into();
        Policy { on_loss, min_workers: self.min_workers, max_workers }
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coordinator start --listen 127.0.0.1:7070 --state coordinator-state"
)]
pub struct StartArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    /// The state directory.
    #[arg(long, default_value = DEFAULT_STATE, value_name = "DIR")]
    pub state: PathBuf,
    /// Allow an address that other machines can reach, although nothing is encrypted.
    #[arg(long)]
    pub insecure: bool,
    /// Ends, by SIGKILL, with this process, which must be the one that started it.
    #[arg(long, value_name = "PID", hide = true)]
    pub die_with_parent: Option<u32>,
}

/// How a running coordinator is found.
#[derive(Clone, Debug, Args)]
pub struct Connection {
    /// The coordinator's address [default: the one in the state directory].
    #[arg(long, value_name = "HOST:PORT")]
    pub coordinator: Option<String>,
    /// The coordinator's state directory, if it is on this machine.
    #[arg(long, default_value = DEFAULT_STATE, value_name = "DIR")]
    pub state: PathBuf,
    /// File that holds the token [default: the environment's CLUSTER_TOKEN, else `token` in the state directory].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coordinator submit examples/digits/job.toml --workers 2")]
pub struct SubmitArgs {
    /// The job file.
    pub job: PathBuf,
    /// Start when this many workers have joined.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: u32,
    /// Start over even if the same job has been run before. Deletes nothing.
    #[arg(long)]
    pub fresh: bool,
    #[command(flatten)]
    pub policy: PolicyArgs,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coordinator status --watch")]
pub struct StatusArgs {
    /// Repeat every second.
    #[arg(long)]
    pub watch: bool,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coordinator logs digits-1 -f")]
pub struct LogsArgs {
    /// The job's id, as `coordinator jobs` shows it.
    pub job: String,
    /// Go on with new lines until the job ends.
    #[arg(short, long)]
    pub follow: bool,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Args)]
pub struct JobArgs {
    /// The job's id, as `coordinator jobs` shows it.
    pub job: String,
    #[command(flatten)]
    pub connection: Connection,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coordinator verify digits-1 --state runs/digits")]
pub struct VerifyArgs {
    /// The job's id, as `coordinator jobs` shows it.
    pub job: String,
    /// The state directory; a coordinator may be using it.
    #[arg(long, default_value = DEFAULT_STATE, value_name = "DIR")]
    pub state: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

const DEFAULT_STATE: &str = "coordinator-state";
const EXAMPLE_TRAIN: &str = "Example:\n  coordinator train examples/digits/job.toml --workers 2";
