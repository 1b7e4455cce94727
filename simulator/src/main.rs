//! `simulate`: runs many seeds and says what they met. The first run that breaks a promise is cut down, and printed as a
//! command that shows it again.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use simulator::{Failure, Plan, Schedule, replay, run_seeds};

fn main() -> Result<ExitCode> {
    let options = Options::parse(std::env::args().skip(1))?;
    let mut out = std::io::stdout();
    match &options.schedule {
        Some(schedule) => match replay(options.first, &options.plan, schedule) {
            Ok(report) => {
                writeln!(out, "seed {}: no violation, {report:?}", options.first)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(violation) => {
                writeln!(out, "seed {}: {violation}", options.first)?;
                Ok(ExitCode::FAILURE)
            }
        },
        None => many(&options, &mut out),
    }
}

fn many(options: &Options, out: &mut impl Write) -> Result<ExitCode> {
    let Options { plan, first, seeds, .. } = options;
    let (since, mut faults, mut generations, mut rewinds, mut events, mut stood) =
        (Instant::now(), 0, 0, 0, 0, 0);
    let result = run_seeds(*first, *seeds, plan, &mut |seed, report| {
        faults += u64::from(report.faults);
        generations += report.generations;
        rewinds += report.rewinds;
        events += report.events;
        stood = report.stood.max(stood);
        if (seed + 1 - first).is_multiple_of(1000) {
            eprintln!("{} seeds, {:.0} s", seed + 1 - first, since.elapsed().as_secs_f64());
        }
    });
    let Err((seed, violation)) = result else {
        writeln!(
            out,
            "{seeds} seeds: {faults} faults, {generations} generations, {rewinds} returns to a checkpoint, {events} events, \
             never longer than {:.1} s without a step once nothing went wrong, no violation, {:.1} s",
            stood as f64 / 1000.0,
            since.elapsed().as_secs_f64()
        )?;
        return Ok(ExitCode::SUCCESS);
    };
    writeln!(out, "seed {seed}: {violation}")?;
    let schedule = Schedule::draw(seed, plan.faults, plan.workers);
    let failure = Failure { seed, plan: *plan, schedule, violation }.shrink();
    let Failure { plan, schedule, violation, .. } = failure;
    writeln!(out, "{} faults, {} workers are enough: {violation}", schedule.0.len(), plan.workers)?;
    writeln!(
        out,
        "watch it: cargo xtask simulate --first {seed} --workers {} --fewer {} --epochs {} --slices {} --pace {} --schedule '{schedule}' --trace",
        plan.workers, plan.fewer, plan.epochs, plan.slices, plan.pace
    )?;
    Ok(ExitCode::FAILURE)
}

/// What was typed.
struct Options {
    plan: Plan,
    first: u64,
    seeds: u64,
    /// Run `first` with these faults alone.
    schedule: Option<Schedule>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options { plan: Plan::default(), first: 1, seeds: 1000, schedule: None };
        while let Some(flag) = arguments.next() {
            if flag == "--trace" {
                options.plan.trace = true;
                continue;
            }
            let Some(value) = arguments.next() else { bail!("{flag} needs a value; {USAGE}") };
            if flag == "--schedule" {
                let parsed = value.parse().map_err(anyhow::Error::msg);
                options.schedule = Some(parsed.with_context(|| USAGE)?);
                continue;
            }
            let number: u64 = value.parse().with_context(|| format!("{flag} {value}; {USAGE}"))?;
            match flag.as_str() {
                "--first" => options.first = number,
                "--seeds" => options.seeds = number,
                "--workers" => options.plan.workers = number as usize,
                "--fewer" => options.plan.fewer = number as usize,
                "--epochs" => options.plan.epochs = number as u32,
                "--pace" => options.plan.pace = number,
                "--faults" => options.plan.faults = number as u32,
                "--slices" => options.plan.slices = number as usize,
                _ => bail!("{flag} is unknown; {USAGE}"),
            }
        }
        let Plan { workers, fewer, epochs, slices, .. } = options.plan;
        if workers <= fewer || options.plan.pace == 0 || epochs == 0 || !slices.is_power_of_two() {
            bail!(
                "workers must be more than --fewer, epochs and pace not 0, slices a power of two; {USAGE}"
            );
        }
        Ok(options)
    }
}

const USAGE: &str = "usage: simulate [--first SEED] [--seeds N] [--workers W] [--fewer W] [--epochs E] [--faults F] [--slices S] [--pace MS] [--trace] \
                     [--schedule 'TIME KIND WORKER SPAN, ...']";
