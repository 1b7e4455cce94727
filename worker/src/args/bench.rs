//! The arguments of `worker bench`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use kernels::Isa;
use proto::job::{Arch, Stem};

use super::{Input, StemName};
use crate::join::all_cores;

#[derive(Clone, Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    pub what: Option<BenchWhat>,
    #[command(flatten)]
    pub steps: BenchSteps,
}

/// A part of training, measured alone.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchWhat {
    /// The all-reduce of gradients between processes of this machine.
    #[command(after_help = "Example:\n  worker bench exchange --workers 2,4 --megabytes 25,100")]
    Exchange(BenchExchange),
    /// Reading image files: decoding, random crops, flips, normalisation.
    #[command(after_help = "Example:\n  worker bench loader --data photos --threads 2")]
    Loader(BenchLoader),
    /// Writing a checkpoint and reading it back.
    #[command(after_help = "Example:\n  worker bench checkpoint --model resnet50 --dir runs")]
    Checkpoint(BenchCheckpoint),
}

/// Whole training steps, and the time of each op in them.
#[derive(Clone, Debug, Args)]
pub struct BenchSteps {
    /// A standard depth: resnet18, resnet34, resnet50, resnet101 or resnet152.
    #[arg(long, default_value = "resnet18")]
    pub model: Arch,
    /// First layers, cifar or imagenet [default: cifar below 64 pixels].
    #[arg(long, value_enum)]
    pub stem: Option<StemName>,
    /// Channels, rows and columns of an image.
    #[arg(long, value_name = "CxHxW", default_value = "3x32x32")]
    pub input: Input,
    /// Images of a step, over all workers.
    #[arg(long, default_value = "128")]
    pub batch: NonZeroUsize,
    /// Parts of the batch, computed one after another [default: one for each worker].
    #[arg(long)]
    pub slices: Option<NonZeroUsize>,
    #[arg(long, default_value = "10")]
    pub classes: NonZeroUsize,
    /// Compute threads of each worker [default: processor cores / workers, at least 1].
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    /// Processes that share the batch and exchange their gradients; a power of two.
    #[arg(long, default_value = "1")]
    pub workers: NonZeroUsize,
    /// Hold the device to one instruction set: avx512, avx2 or portable.
    #[arg(long, value_parser = isa)]
    pub isa: Option<Isa>,
    /// Measure the GPU of this number instead of the CPU.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["isa", "workers"])]
    pub gpu: Option<usize>,
    /// What a GPU keeps activations in: bf16 or fp32.
    #[arg(long, value_enum, default_value = "bf16", requires = "gpu")]
    pub precision: PrecisionName,
    /// How long to measure; at least five steps are.
    #[arg(long, default_value = "5")]
    pub seconds: u64,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
    /// Run one step for each line of standard input; print its wall and processor seconds and the peak of memory in bytes.
    #[arg(long, conflicts_with = "json")]
    pub paced: bool,
    /// What `worker bench` starts: the worker of this rank.
    #[arg(long, hide = true)]
    pub rank: Option<usize>,
}

/// Of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PrecisionName {
    Bf16,
    Fp32,
}

#[derive(Clone, Debug, Args)]
pub struct BenchExchange {
    /// Processes that add up their vectors; each count is measured.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "2,4", value_parser = workers)]
    pub workers: Vec<usize>,
    /// Lengths of the vector, in units of 10^6 bytes; each is measured.
    #[arg(long, value_name = "MB,...", value_delimiter = ',', default_value = "25,100", value_parser = megabytes)]
    pub megabytes: Vec<usize>,
    /// Largest part that is reduced at once, as `exchange.bucket_mib` in a job file.
    #[arg(long, value_name = "MIB", default_value = "4", value_parser = megabytes)]
    pub bucket_mib: usize,
    /// Send everything by TCP, as between machines.
    #[arg(long)]
    pub tcp: bool,
    /// How long to measure each; at least five rounds are.
    #[arg(long, default_value = "3")]
    pub seconds: u64,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
    /// Reduce once for each line of standard input; print wall and processor seconds and the peak of memory in bytes.
    #[arg(long, conflicts_with = "json")]
    pub paced: bool,
    /// What `worker bench` starts: the worker of this rank.
    #[arg(long, hide = true)]
    pub rank: Option<usize>,
}

#[derive(Clone, Debug, Args)]
pub struct BenchLoader {
    /// An image folder: train/CLASS/ and val/CLASS/ with JPEG or PNG files.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Side of the crops, in pixels.
    #[arg(long, default_value = "224")]
    pub size: usize,
    /// Images of a round, in random order, again and again if the folder has fewer.
    #[arg(long, default_value = "400")]
    pub images: NonZeroUsize,
    /// Threads that decode, and as many that normalise [default: all cores].
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    /// How long to measure; at least three rounds are.
    #[arg(long, default_value = "5")]
    pub seconds: u64,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
    /// Read once for each line of standard input; print wall and processor seconds and the peak of memory in bytes.
    #[arg(long, conflicts_with = "json")]
    pub paced: bool,
}

#[derive(Clone, Debug, Args)]
pub struct BenchCheckpoint {
    /// A standard depth: resnet18, resnet34, resnet50, resnet101 or resnet152.
    #[arg(long, default_value = "resnet50")]
    pub model: Arch,
    #[arg(long, default_value = "1000")]
    pub classes: NonZeroUsize,
    /// Where to write: a folder on the disk that is to be measured.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

impl BenchSteps {
    pub fn stem(&self) -> Stem {
        match self.stem {
            Some(name) => name.stem(),
            None if self.input.0[1].min(self.input.0[2]) < 64 => Stem::Cifar,
            None => Stem::Imagenet,
        }
    }

    pub fn slices(&self) -> usize {
        self.slices.unwrap_or(self.workers).get()
    }

    pub fn threads(&self) -> NonZeroUsize {
        let share = || NonZeroUsize::new(all_cores().get() / self.workers);
        self.threads.or_else(share).unwrap_or(NonZeroUsize::MIN)
    }

    /// That the device will use.
    pub fn isa(&self) -> Isa {
        self.isa.unwrap_or_else(Isa::detect)
    }
}

fn isa(text: &str) -> Result<Isa, String> {
    match text {
        "avx512" => Ok(Isa::Avx512),
        "avx2" => Ok(Isa::Avx2),
        "portable" => Ok(Isa::Portable),
        _ => Err("choose avx512, avx2 or portable".to_owned()),
    }
}

/// More processes than that say little about one machine.
fn workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 2..=64) => Ok(count),
        _ => Err("give a number of processes, 2 to 64".to_owned()),
    }
}

fn megabytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=4096) => Ok(count),
        _ => Err("give a whole number, 1 to 4096".to_owned()),
    }
}
