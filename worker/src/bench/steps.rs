//! Whole training steps: what a worker does alone, or several workers with an exchange between them.
//!
//! A step is forward, loss and backward of each slice, the sum over slices, the check for finite gradients, SGD, running
//! statistics, packing, the digest. No dataset.

use std::io::Write;
use std::time::{Duration, Instant};

use kernels::{Device, Precision};

use super::crew::{Crew, meet};
use super::pace::{Round, paced};
use super::report::{CrewReport, Machine, Report, Spread};
use super::rig::{Phases, Rig};
use super::{BenchError, print};
use crate::args::{BenchSteps, PrecisionName};
use crate::collective::Transport;
use crate::devices::open_gpu;

/// Measures, and writes a table or JSON to `out`.
pub(super) fn run(args: &BenchSteps, out: &mut dyn Write) -> Result<(), BenchError> {
    let (batch, slices, workers) = (args.batch.get(), args.slices(), args.workers.get());
    if !batch.is_multiple_of(slices) {
        return Err(BenchError::Slices { batch, slices });
    }
    if workers > 1 && (slices != workers || !workers.is_power_of_two()) {
        return Err(BenchError::Workers { workers, slices });
    }
    match args.rank {
        Some(rank) => member(rank, args, out),
        None if workers > 1 => together(args, out),
        None => alone(args, out),
    }
}

fn device(args: &BenchSteps) -> Result<Device, BenchError> {
    let Some(gpu) = args.gpu else {
        return Ok(Device::cpu_with_isa(args.threads(), args.isa())?);
    };
    let precision = match args.precision {
        PrecisionName::Bf16 => Precision::Bf16,
        PrecisionName::Fp32 => Precision::Fp32,
    };
    Ok(open_gpu(gpu, precision)?)
}

fn alone(args: &BenchSteps, out: &mut dyn Write) -> Result<(), BenchError> {
    let device = device(args)?;
    let mut rig = Rig::new(&device, args);
    for _ in 0..WARM_UP {
        rig.step()?;
    }
    if args.paced {
        return paced(out, &mut || {
            let (round, step) = Round::of(|| rig.step());
            step.map(|_| round)
        });
    }
    let report = measure(&mut rig, &device, args)?;
    print(out, args.json, &report, || report.json())
}

fn measure(rig: &mut Rig, device: &Device, args: &BenchSteps) -> Result<Report, BenchError> {
    let before = device.measure_peak();
    let since = Instant::now();
    let mut steps: Vec<Phases> = Vec::new();
    while steps.len() < STEPS_MIN || since.elapsed() < Duration::from_secs(args.seconds) {
        steps.push(rig.step()?);
    }
    // Each op reads a clock twice: its steps are not the measured ones.
    device.profile(true);
    for _ in 0..STEPS_PROFILED {
        rig.step()?;
    }
    device.profile(false);
    let ops = device.take_profile();
    let peak = before.max(device.measure_peak());
    Ok(Report {
        machine: Machine::this(),
        device: device.describe(),
        settings: args.clone(),
        steps: steps.len(),
        step: Spread::of(steps.iter().map(Phases::total)),
        phases: Phases::NAMES.map(|(name, phase)| (name, Spread::of(steps.iter().map(phase)))),
        peak,
        ops,
        profiled_steps: STEPS_PROFILED,
    })
}

/// Starts the workers and has them do steps together.
fn together(args: &BenchSteps, out: &mut dyn Write) -> Result<(), BenchError> {
    let mut crew = Crew::start(args.workers.get(), &arguments(args))?;
    if args.paced {
        return paced(out, &mut || crew.round());
    }
    let since = Instant::now();
    let mut rounds = Vec::new();
    while rounds.len() < STEPS_MIN || since.elapsed() < Duration::from_secs(args.seconds) {
        rounds.push(crew.round()?);
    }
    let report = CrewReport {
        machine: Machine::this(),
        settings: args.clone(),
        steps: rounds.len(),
        step: Spread::of(rounds.iter().map(|round| round.wall)),
        busy: Spread::of(rounds.iter().map(|round| round.busy)),
        peak_memory: rounds.iter().map(|round| round.peak_memory).max().unwrap_or(0),
    };
    print(out, args.json, &report, || report.json())
}

/// One of the workers.
fn member(rank: usize, args: &BenchSteps, out: &mut dyn Write) -> Result<(), BenchError> {
    let device = device(args)?;
    let mut rig = Rig::new(&device, args);
    let connected = meet(rank, Transport::Fastest, rig.bucket_lens(), out)?;
    rig.connect(args.workers.get(), connected.exchange);
    for _ in 0..WARM_UP {
        rig.step()?;
    }
    paced(out, &mut || {
        let (round, step) = Round::of(|| rig.step());
        step.map(|_| round)
    })
}

/// The command line that means these settings.
fn arguments(args: &BenchSteps) -> Vec<String> {
    let mut arguments = vec!["bench".to_owned()];
    let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
    add("--model", args.model.as_str().to_owned());
    add("--stem", format!("{:?}", args.stem()).to_lowercase());
    add("--input", args.input.to_string());
    add("--batch", args.batch.to_string());
    add("--workers", args.workers.to_string());
    add("--classes", args.classes.to_string());
    add("--threads", args.threads().to_string());
    if let Some(isa) = args.isa {
        add("--isa", format!("{isa:?}").to_lowercase());
    }
    arguments
}

const WARM_UP: usize = 2;
const STEPS_MIN: usize = 5;
const STEPS_PROFILED: usize = 3;
