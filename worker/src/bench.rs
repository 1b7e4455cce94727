//! `worker bench`: how fast this machine trains, in whole steps on made-up images, and how fast the parts of training are
//! that such steps leave out.

mod pace;
mod report;
mod rig;
mod steps;
mod crew;
mod exchange;

use std::fmt;
use std::io::Write;

use proto::exit::ExitCode;
use serde_json::Value;

use crate::args::{Bench, BenchWhat};
use crate::collective::CollectiveError;

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
    #[error("bench: a process that was started for it said {said:?} instead of a result")]
    Member { said: String },
    #[error("bench: {0}")]
    Output(#[from] std::io::Error),
}

impl BenchError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            BenchError::Slices { .. } | BenchError::Workers { .. } => ExitCode::Usage,
            BenchError::Device(_)
            | BenchError::Exchange(_)
            | BenchError::Member { .. }
            | BenchError::Output(_) => ExitCode::Failure,
        }
    }
}

/// Measures, and writes a table or JSON to `out`.
pub fn bench(args: &Bench, out: &mut dyn Write) -> Result<(), BenchError> {
    match &args.what {
        None => steps::run(&args.steps, out),
        Some(BenchWhat::Exchange(args)) => exchange::run(args, out),
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
