//! `worker bench`: how fast this machine trains, in whole steps on made-up images.
//!
//! A step is what a worker does alone: forward, loss and backward of each slice, the sum over slices, the check for
//! finite gradients, SGD, running statistics, packing, the digest. No dataset and no exchange.

mod report;
mod rig;

use std::io::{BufRead, Write};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use kernels::Device;
use kernels::profile::processor_time;
use proto::exit::ExitCode;

use crate::args::Bench;
use crate::join::all_cores;
use report::{Report, Spread};
use rig::{Phases, Rig};

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("bench: a batch of {batch} can't be cut into {slices} equal slices")]
    Slices { batch: usize, slices: usize },
    #[error(transparent)]
    Device(#[from] kernels::DeviceError),
    #[error("bench: {0}")]
    Output(#[from] std::io::Error),
}

impl BenchError {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            BenchError::Slices { .. } => ExitCode::Usage,
            BenchError::Device(_) | BenchError::Output(_) => ExitCode::Failure,
        }
    }
}

/// Measures, and writes a table or JSON to `out`.
pub fn bench(args: &Bench, out: &mut dyn Write) -> Result<(), BenchError> {
    let (batch, slices) = (args.batch.get(), args.slices.get());
    if !batch.is_multiple_of(slices) {
        return Err(BenchError::Slices { batch, slices });
    }
    let threads = args.threads.unwrap_or_else(all_cores);
    let device = match args.isa {
        Some(isa) => Device::cpu_with_isa(threads, isa)?,
        None => Device::cpu(threads)?,
    };
    let mut rig = Rig::new(&device, args);
    if args.paced {
        return paced(&mut rig, out);
    }
    let report = measure(&mut rig, &device, args, threads);
    match args.json {
        true => writeln!(out, "{:#}", report.json())?,
        false => write!(out, "{report}")?,
    }
    Ok(())
}

fn measure(rig: &mut Rig, device: &Device, args: &Bench, threads: NonZeroUsize) -> Report {
    for _ in 0..WARM_UP {
        rig.step();
    }
    let before = device.measure_peak();
    let since = Instant::now();
    let mut steps: Vec<Phases> = Vec::new();
    while steps.len() < STEPS_MIN || since.elapsed() < Duration::from_secs(args.seconds) {
        steps.push(rig.step());
    }
    // Each op reads a clock twice: its steps are not the measured ones.
    device.profile(true);
    for _ in 0..STEPS_PROFILED {
        rig.step();
    }
    device.profile(false);
    let ops = device.take_profile();
    let peak = before.max(device.measure_peak());
    Report {
        machine: report::machine(),
        device: device.describe(),
        settings: args.clone(),
        threads: threads.get(),
        steps: steps.len(),
        step: Spread::of(steps.iter().map(Phases::total)),
        phases: Phases::NAMES.map(|(name, phase)| (name, Spread::of(steps.iter().map(phase)))),
        peak,
        ops,
        profiled_steps: STEPS_PROFILED,
    }
}

/// One step for each line of standard input, its wall and its processor seconds, so that two programs can be measured in turn.
fn paced(rig: &mut Rig, out: &mut dyn Write) -> Result<(), BenchError> {
    for _ in 0..WARM_UP {
        rig.step();
    }
    writeln!(out, "ready")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let busy = processor_time();
        let step = rig.step().total();
        let busy = processor_time().saturating_sub(busy);
        writeln!(out, "{:.6} {:.6}", step.as_secs_f64(), busy.as_secs_f64())?;
        out.flush()?;
    }
    Ok(())
}

const WARM_UP: usize = 2;
const STEPS_MIN: usize = 5;
const STEPS_PROFILED: usize = 3;
