//! `simulate [--first SEED] [--seeds N] [--workers W] [--epochs E] [--faults F]`: runs many seeds and says what they met.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use simulator::{Plan, run_seeds};

fn main() -> Result<ExitCode> {
    let mut plan = Plan::default();
    let (mut first, mut seeds) = (1u64, 1000u64);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    plan.trace = arguments.iter().any(|argument| argument == "--trace");
    let numbers: Vec<&String> =
        arguments.iter().filter(|argument| *argument != "--trace").collect();
    for pair in numbers.chunks(2) {
        let [flag, value] = pair else { bail!("{USAGE}") };
        let number: u64 = value.parse().with_context(|| format!("{flag} {value}; {USAGE}"))?;
        match flag.as_str() {
            "--first" => first = number,
            "--seeds" => seeds = number,
            "--workers" => plan.workers = number as usize,
            "--epochs" => plan.epochs = number as u32,
            "--faults" => plan.faults = number as u32,
            _ => bail!("{USAGE}"),
        }
    }
    let (since, mut faults, mut generations, mut rewinds, mut events) =
        (Instant::now(), 0, 0, 0, 0);
    let result = run_seeds(first, seeds, &plan, &mut |seed, report| {
        faults += u64::from(report.faults);
        generations += report.generations;
        rewinds += report.rewinds;
        events += report.events;
        if (seed + 1 - first).is_multiple_of(1000) {
            eprintln!("{} seeds, {:.0} s", seed + 1 - first, since.elapsed().as_secs_f64());
        }
    });
    let mut out = std::io::stdout();
    match result {
        Ok(()) => {
            writeln!(
                out,
                "{seeds} seeds: {faults} faults, {generations} generations, {rewinds} returns to a checkpoint, {events} \
                 events, no violation, {:.1} s",
                since.elapsed().as_secs_f64()
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Err((seed, violation)) => {
            writeln!(out, "seed {seed}: {violation}")?;
            writeln!(out, "watch it: the same command with --first {seed} --seeds 1 --trace")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

const USAGE: &str =
    "usage: simulate [--first SEED] [--seeds N] [--workers W] [--epochs E] [--faults F] [--trace]";
