//! The command line of `worker`.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use proto::Name;

/// Computes its part of every training step, with other workers, as a coordinator plans it.
#[derive(Debug, Parser)]
#[command(name = "worker", version, max_term_width = 100)]
pub struct Cli {
    /// How log lines are written to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Join a cluster and work until told to leave.
    #[command(after_help = "Example:\n  worker join 127.0.0.1:7070 --name gpu-07")]
    Join(Join),
}

#[derive(Debug, Args)]
pub struct Join {
    /// Address of the coordinator.
    #[arg(value_name = "HOST:PORT", value_parser = host_and_port)]
    pub coordinator: String,
    /// Name of this worker, unique in the cluster [default: host name and process number].
    #[arg(long)]
    pub name: Option<Name>,
    /// File that holds the join token [default: `token` in the state directory].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// State directory of a coordinator on this machine, where its token is found.
    #[arg(long, value_name = "DIR", default_value = "coordinator-state")]
    pub state: PathBuf,
    /// Compute threads [default: all cores].
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    /// Where this machine keeps the dataset, when not where the job file says.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address that other workers reach this one at [default: the one that reaches the coordinator].
    #[arg(long, value_name = "IP")]
    pub exchange_ip: Option<IpAddr>,
    /// How long to look for the coordinator, at the start and when it is gone: 0 for one try.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub wait: Duration,
}

fn host_and_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match parts.and_then(|(_, port)| port.parse::<u16>().ok()) {
        Some(_) => Ok(text.to_owned()),
        None => Err("give a host and a port, such as 127.0.0.1:7070".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    // 32 bits are 136 years, and adding them to a clock can't overflow.
    let seconds: Result<u32, _> = text.parse();
    let seconds = seconds.map_err(|_| format!("{text:?} is no number of seconds"))?;
    Ok(Duration::from_secs(seconds.into()))
}
