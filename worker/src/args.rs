//! The command line of `worker`.

mod bench;
mod models;

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::devices::Choice;
use clap::{Args, Parser, Subcommand, ValueEnum};
use proto::Name;
use proto::job::Stem;

pub use bench::{
    Bench, BenchCheckpoint, BenchExchange, BenchLoader, BenchSteps, BenchWhat, PrecisionName,
};
pub use models::{Describe, Evaluate, Export, FormatName, Predict, TableFormat};

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
    /// Show what this machine can compute on, and what stands in the way of more.
    #[command(after_help = "Example:\n  worker devices")]
    Devices(Devices),
    /// Measure this machine: training steps on made-up images, or one part of training.
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  worker bench --model resnet50 --input 3x224x224 --batch 8\n  \
                            worker bench exchange --workers 2 --megabytes 25,100\n  \
                      worker bench loader --data photos\n  \
                      worker bench checkpoint --model resnet50"
    )]
    Bench(Bench),
    /// Show a model's layers: output shapes, parameters, operations.
    #[command(after_help = "Examples:\n  worker describe resnet50\n  \
                            worker describe examples/digits/job.toml --format markdown")]
    Describe(Describe),
    /// Count how often a checkpoint is right on a dataset's test images.
    #[command(
        after_help = "Example:\n  worker evaluate runs/digits/jobs/digits-1/checkpoints/step-00000450 \
                            examples/digits"
    )]
    Evaluate(Evaluate),
    /// Name what images show, with probabilities.
    #[command(
        after_help = "Example:\n  worker predict runs/photos/jobs/photos-1/checkpoints/step-00009000 \
                            cat.jpg --top 3"
    )]
    Predict(Predict),
    /// Write a checkpoint's model as one file for other programs.
    #[command(
        after_help = "Example:\n  worker export runs/digits/jobs/digits-1/checkpoints/step-00000450 \
                            digits.onnx"
    )]
    Export(Export),
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Devices {}

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
    /// What to compute on: `cpu`, `all` GPUs, GPUs by number such as `0,2`; `any` is all GPUs, or the CPU where there is none.
    #[arg(long, value_name = "DEVICES", default_value = "any")]
    pub devices: Choice,
    /// Takes one of the GPUs: that of this number, counted round, of those chosen.
    #[arg(long, value_name = "NUMBER", hide = true)]
    pub share: Option<usize>,
    /// Compute threads of the CPU device [default: all cores].
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
    /// Ends, by SIGKILL, with this process, which must be the one that started it.
    #[arg(long, value_name = "PID", hide = true)]
    pub die_with_parent: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum StemName {
    Cifar,
    Imagenet,
}

impl StemName {
    pub fn stem(self) -> Stem {
        match self {
            StemName::Cifar => Stem::Cifar,
            StemName::Imagenet => Stem::Imagenet,
        }
    }
}

/// Channels (at most 4), rows, columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input(pub [usize; 3]);

impl FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Input, String> {
        let sizes: Option<Vec<usize>> = text.split('x').map(|size| size.parse().ok()).collect();
        match sizes.as_deref() {
            Some(&[channels @ 1..=4, height @ 1..=4096, width @ 1..=4096]) => {
                Ok(Input([channels, height, width]))
            }
            _ => Err("give channels, rows and columns, such as 3x224x224".to_owned()),
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [channels, height, width] = self.0;
        write!(f, "{channels}x{height}x{width}")
    }
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
