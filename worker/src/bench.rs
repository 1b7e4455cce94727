//! `worker bench`: how fast this machine trains, in whole steps on made-up images, and how fast the parts of training are
//! that such steps leave out.

mod pace;
mod report;
mod rig;
mod steps;
mod crew;
mod exchange;
mod loader;
mod checkpoint;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use dataset::DatasetError;
use proto::exit::ExitCode;
use proto::job::JobError;
use serde_json::Value;

use crate::args::{Bench, BenchWhat};
use crate::checkpoint::CheckpointError;
use crate::collective::CollectiveError;
use crate::data::LoaderError;

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("bench: a batch of {batch} can't be cut into {slices} equal slices")]
    Slices { batch: usize, slices: usize },
    #[error(
        "bench: {workers} workers can't share {slices} slices; give a power of two as --workers, and leave out --slices"
    )]
    Workers { workers: usize, slices: usize },
    #[error(transparent)]
    Device(#[from] kernels::DeviceError),
    #[error("bench: {0}")]
    Exchange(#[from] CollectiveError),
    #[error("bench: {0}")]
    Job(#[from] JobError),
    #[error("bench: {0}; make an image folder, or name another with --data")]
    Dataset(#[from] DatasetError),
    #[error("bench: {0}")]
    Loader(#[from] LoaderError),
    #[error("bench: read {}: {cause}", .path.display())]
    Image { path: PathBuf, cause: String },
    #[error("bench: {0}")]
    Checkpoint(#[from] CheckpointError),
    #[error("bench: the process started as worker {rank} said {said:?} instead of a result")]
    Member { rank: usize, said: String },
    #[error(
        "bench: the process started as worker {rank} ({process}) said nothing within {limit:?}"
    )]
    Silent { rank: usize, process: u32, limit: Duration },
    #[error("bench: {0}")]
    Output(#[from] std::io::Error),
}

impl BenchError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            BenchError::Slices { .. } | BenchError::Workers { .. } | BenchError::Job(_) => {
                ExitCode::Usage
            }
            BenchError::Dataset(_)
            | BenchError::Image { .. }
            | BenchError::Loader(LoaderError::Unreadable { .. }) => ExitCode::Data,
            BenchError::Device(_)
            | BenchError::Exchange(_)
            | BenchError::Loader(LoaderError::Ended)
            | BenchError::Checkpoint(_)
            | BenchError::Member { .. }
            | BenchError::Silent { .. }
            | BenchError::Output(_) => ExitCode::Failure,
        }
    }
}

/// Measures, and writes a table or JSON to `out`.
pub fn bench(args: &Bench, out: &mut dyn Write) -> Result<(), BenchError> {
    match &args.what {
        None => steps::run(&args.steps, out),
        Some(BenchWhat::Exchange(args)) => exchange::run(args, out),
        Some(BenchWhat::Loader(args)) => loader::run(args, out),
        Some(BenchWhat::Checkpoint(args)) => checkpoint::run(args, out),
    }
}

/// A table for people, or JSON.
fn print(
    out: &mut dyn Write,
    json: bool,
    table: &dyn fmt::Display,
    value: impl FnOnce() -> Value,
) -> Result<(), BenchError> {
    match json {
        true => writeln!(out, "{:#}", value())?,
        false => write!(out, "{table}")?,
    }
    Ok(())
}
